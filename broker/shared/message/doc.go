// Package message holds what every part of the gateway says about one MQTT message: the record as the
// journal keeps it, the codec of that record, and the topic names and filters of MQTT.
//
// It is a leaf: it imports the standard library alone, and everything else may import it.
package message
