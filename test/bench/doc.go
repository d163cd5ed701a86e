// Package bench measures the whole gateway on this machine; `make bench` runs it.
//
// Most of it compares with Mosquitto: same load generator, same payloads, alternating rounds, each server a
// process of its own whose processor time is read from /proc. TestJournalAppends compares the journal with
// Pebble and bbolt, TestRulesToKafka states the cost of the way through the rules to Apache Kafka and Redis,
// TestLatencyToKafka how long a message takes on it. Ratios, and processor time per message, are results;
// rates are those of the machine and of what else runs on it.
package bench
