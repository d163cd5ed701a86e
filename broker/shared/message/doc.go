// Package message defines an MQTT message for all parts of the gateway: the journal's record, its codec, and MQTT topic
// names and filters.
//
// It imports only the standard library and broker/shared/message/field.
package message
