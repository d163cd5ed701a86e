// Package spans exports what happens to sampled messages and commands as OpenTelemetry traces, by OTLP over HTTP.
//
// It looks on as an operator's live trace does (package trace), so messages wait for nothing: what is beyond a bound is left out and
// counted. The ids of spans follow from message or command, so that what is sent to Kafka or to a vehicle can name the span long
// before it is exported.
package spans
