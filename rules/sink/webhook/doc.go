// Package webhook delivers messages to HTTP endpoints: signed POST requests (Standard Webhooks, https://www.standardwebhooks.com),
// at least once, in order per vehicle.
//
// Each endpoint has lanes, between which its vehicles are divided; a lane has one request under way. What fails is tried again
// until it is taken or refused for good. An endpoint that takes nothing, or less than comes, is parked as a Kafka topic is: its
// messages wait in a log of its own on disk, and the others' do not wait with them.
package webhook
