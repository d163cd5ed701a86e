package message

// tickBegins is the payload of a process's first KindTick record; the others have none.
const tickBegins = "begin"

// Tick returns a KindTick record; the journal sets Seq and ReceivedAt. With begins the gateway starts to listen:
// earlier messages may have been lost while it did not.
func Tick(begins bool) Record {
	r := Record{Kind: KindTick}
	if begins {
		r.Payload = []byte(tickBegins)
	}
	return r
}

// TickBegins reports whether the record is a process's first KindTick.
func (r *Record) TickBegins() bool { return r.Kind == KindTick && string(r.Payload) == tickBegins }
