package message

// tickBegins is the payload of the first KindTick record of a process; the others have none.
const tickBegins = "begin"

// Tick is a KindTick record, which gets its Seq and ReceivedAt from the journal. The first of a process says that the gateway
// begins to listen: what came before it may have been lost to a time when nobody did.
func Tick(begins bool) Record {
	r := Record{Kind: KindTick}
	if begins {
		r.Payload = []byte(tickBegins)
	}
	return r
}

// TickBegins reports whether a record is the first KindTick of a process.
func (r *Record) TickBegins() bool { return r.Kind == KindTick && string(r.Payload) == tickBegins }
