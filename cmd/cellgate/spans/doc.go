// Package spans exports sampled messages and commands as OpenTelemetry traces, by OTLP over HTTP.
//
// It observes messages like an operator's live trace (package trace) and delays none: what exceeds a bound is left out
// and counted. Span IDs are derived from the message or command, so that records for Kafka and vehicles can name a span
// before it is exported.
package spans
