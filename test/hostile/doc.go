// Package hostile attacks a running gateway while honest clients continue their work, and compares what these saw
// before the attack with what they saw during it.
//
// Each attack is a test that calls attackUntilDone. By default an attack lasts seconds and nothing is judged by time: what honest
// vehicles sent is acknowledged and reaches Kafka during the attack, nothing is lost, the ledger adds up. With
// HOSTILE=full (make hostile) an attack has its full length, and rates and latencies are compared too.
package hostile
