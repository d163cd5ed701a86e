// Package mqtt delivers messages to the gateway's own MQTT clients: it puts them into the journal, from where the fan-out takes
// them to all sessions that subscribe, those included that are away. They are records of no client, and rules do not see them.
//
// Delivered means durable in the journal.
package mqtt
