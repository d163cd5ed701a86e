// Package webhook delivers messages to HTTP endpoints: signed POST requests (Standard Webhooks,
// https://www.standardwebhooks.com), at least once, in order per vehicle.
//
// The vehicles of an endpoint are divided between its workers; a worker has one request in flight. Failures are retried
// until the message is taken or permanently refused. An endpoint that takes nothing, or less than comes, is parked like
// a Kafka topic: its messages wait in its own log on disk and do not hold up others.
package webhook
