package cell

import (
	"strings"

	"cellgate/broker/shared/remote"
)

// keys names what is in Redis. Rules cannot write keys that begin with the prefix.
type keys struct {
	cell string
	tags []string // by slot; nil without a cluster
}

// Prefix begins every key.
const Prefix = "cellgate:"

// gateways is the hash of the cell's gateways that live.
func (k *keys) gateways() string { return Prefix + k.cell + ":gateways" }

// commands is the channel on which gateways tell each other of commands.
func (k *keys) commands() string { return Prefix + k.cell + ":commands" }

// public is the hash of the gateways' public keys.
func (k *keys) public() string { return Prefix + k.cell + ":keys" }

// notices is the channel of a gateway.
func (k *keys) notices(node string) string { return Prefix + k.cell + ":to:" + node }

// escaped makes a VIN fit for a hash tag, which ends at the first brace.
func escaped(vin string) string {
	if !strings.ContainsAny(vin, "}%") {
		return vin
	}
	return strings.NewReplacer("%", "%25", "}", "%7D").Replace(vin)
}

func (k *keys) vehicle(vin string) string { return Prefix + "{" + escaped(vin) + "}:vehicle" }

// operators has what gateways that stopped have left of a vehicle for its next one, by their names.
func (k *keys) operators(vin string) string { return Prefix + "{" + escaped(vin) + "}:operators" }

// opened orders a vehicle's open commands by acceptance.
func (k *keys) opened(vin string) string { return Prefix + "{" + escaped(vin) + "}:open" }

func (k *keys) command(vin, id string) string {
	return Prefix + "{" + escaped(vin) + "}:command:" + id
}

// reservation is the place of an id, whatever vehicle it is for.
func (k *keys) reservation(id string) string { return Prefix + "{" + id + "}:id" }

// slotted is a key that the cell has one of in each slot: mark, due (open commands by their end) and sessions (those that have
// not ended), in the slot of another key.
func (k *keys) slotted(name, of string) string {
	if k.tags == nil {
		return k.inSlot(name, 0)
	}
	return k.inSlot(name, remote.RedisSlot(of))
}

func (k *keys) inSlot(name string, slot int) string {
	if k.tags == nil {
		return Prefix + k.cell + ":" + name
	}
	return Prefix + "{" + k.tags[slot] + "}:" + k.cell + ":" + name
}

// count is how many marks there are.
func (k *keys) count() int { return max(1, len(k.tags)) }

// Slot is the number of a vehicle's mark.
func (s *Store) Slot(vin string) int { return s.keys.number(s.keys.vehicle(vin)) }

// IDSlot is the number of an id's mark.
func (s *Store) IDSlot(id string) int { return s.keys.number(s.keys.reservation(id)) }

// Slots is how many marks there are: one, or as many as a Redis cluster has slots.
func (s *Store) Slots() int { return s.keys.count() }

func (k *keys) number(key string) int {
	if k.tags == nil {
		return 0
	}
	return remote.RedisSlot(key)
}
