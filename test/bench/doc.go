// Package bench measures the whole gateway on this machine; `make bench` runs it.
//
// Most of it compares with Mosquitto: same load generator, same payloads, alternating rounds, each server a process of
// its own whose processor time is read from /proc. TestJournalAppends compares the journal with Pebble and bbolt,
// TestRulesToKafka measures the cost of the path through the rules to Apache Kafka and Redis, TestLatencyToKafka its
// latency. Ratios, and processor time per message, are results; rates depend on the machine and its other load.
package bench
