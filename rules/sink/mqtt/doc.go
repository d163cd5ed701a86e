// Package mqtt delivers messages to the gateway's own MQTT clients: it appends them to the journal, and the fan-out
// delivers them to all subscribed sessions, offline ones included. Their records belong to no client, and rules do not
// see them.
//
// Delivered means durable in the journal.
package mqtt
