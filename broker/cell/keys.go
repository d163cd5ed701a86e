package cell

import (
	"strings"

	"cellgate/broker/shared/remote"
)

// keys builds the names of keys in Redis. Rules cannot write keys with this prefix.
type keys struct {
	cell string
	tags []string // by slot; nil without a cluster
}

// Prefix begins every key.
const Prefix = "cellgate:"

// gateways is the hash of the cell's live gateways.
func (k *keys) gateways() string { return Prefix + k.cell + ":gateways" }

// commands is the pub/sub channel for notices about commands.
func (k *keys) commands() string { return Prefix + k.cell + ":commands" }

// public is the hash of the gateways' public keys.
func (k *keys) public() string { return Prefix + k.cell + ":keys" }

// notices is the pub/sub channel of one gateway.
func (k *keys) notices(node string) string { return Prefix + k.cell + ":to:" + node }

// escaped makes a VIN usable in a hash tag, which ends at the first brace.
func escaped(vin string) string {
	if !strings.ContainsAny(vin, "}%") {
		return vin
	}
	return strings.NewReplacer("%", "%25", "}", "%7D").Replace(vin)
}

func (k *keys) vehicle(vin string) string { return Prefix + "{" + escaped(vin) + "}:vehicle" }

// operators is a hash by gateway: the operator state that stopped gateways left for the vehicle's next one.
func (k *keys) operators(vin string) string { return Prefix + "{" + escaped(vin) + "}:operators" }

// opened orders a vehicle's open commands by acceptance.
func (k *keys) opened(vin string) string { return Prefix + "{" + escaped(vin) + "}:open" }

func (k *keys) command(vin, id string) string {
	return Prefix + "{" + escaped(vin) + "}:command:" + id
}

// reservation is the key that reserves an id, for any vehicle.
func (k *keys) reservation(id string) string { return Prefix + "{" + id + "}:id" }

// slotted returns a key that exists once per slot, in the slot of another key: mark, due (open commands by expiry) or
// sessions (those whose end is not yet in Kafka).
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

// count returns the number of marks.
func (k *keys) count() int { return max(1, len(k.tags)) }

// Slot returns the number of a vehicle's mark.
func (s *Store) Slot(vin string) int { return s.keys.number(s.keys.vehicle(vin)) }

// IDSlot returns the number of an id's mark.
func (s *Store) IDSlot(id string) int { return s.keys.number(s.keys.reservation(id)) }

// GatewaysSlot returns the number of the mark of the list of gateways.
func (s *Store) GatewaysSlot() int { return s.keys.number(s.keys.gateways()) }

// Slots returns the number of marks: one, or one per slot of a Redis cluster.
func (s *Store) Slots() int { return s.keys.count() }

func (k *keys) number(key string) int {
	if k.tags == nil {
		return 0
	}
	return remote.RedisSlot(key)
}
