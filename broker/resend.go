package broker

import (
	"errors"
	"hash/crc32"
	"sync"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
)

// A client that reconnects to its session sends every QoS 1 PUBLISH again whose PUBACK it has not seen, with the
// same packet identifier and DUP set (MQTT 5, 4.4). Whether the first one reached us only we can tell. Where it
// did, the repetition's record names the first one's sequence, and so everything made from either has one
// msg-id. It is journaled all the same: nothing is taken for a repetition and dropped.

// sent is one QoS 1 PUBLISH that is in the journal.
type sent struct {
	seq uint64 // of the first record of the message
	sum uint32 // of its payload
	id  uint16 // packet identifier
}

// recentSent are the last QoS 1 PUBLISHes of one client, at most a window of them: no more can be
// unacknowledged.
type recentSent struct {
	list []sent
	next int // where the oldest stands once the list is full
}

func (r *recentSent) add(s sent, window int) {
	if len(r.list) < window {
		r.list = append(r.list, s)
		return
	}
	if r.next >= len(r.list) {
		r.next = 0
	}
	r.list[r.next] = s
	r.next++
}

// find returns the sequence of the latest message with this identifier if its payload is the same, else 0.
func (r *recentSent) find(id uint16, sum uint32) uint64 {
	var last sent
	for _, s := range r.list {
		if s.id == id && s.seq > last.seq {
			last = s
		}
	}
	if last.sum != sum {
		return 0
	}
	return last.seq
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func payloadSum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// maxResendClients bounds the clients that are remembered while they are away; an arbitrary one goes when it
// is reached. At a full window each that is 64 MB; commonly an entry has one or two messages.
const maxResendClients = 1 << 16

// resends remembers the recent QoS 1 PUBLISHes of clients that are away.
type resends struct {
	mu   sync.Mutex
	away map[string]recentSent
}

// leave remembers a client's messages until it is back.
func (r *resends) leave(client string, recent recentSent) {
	if len(recent.list) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away == nil {
		r.away = make(map[string]recentSent)
	}
	if len(r.away) >= maxResendClients {
		for other := range r.away {
			delete(r.away, other)
			break
		}
	}
	r.away[client] = recent
}

// back takes a client's messages out; when it began a new session they mean nothing any more.
func (r *resends) back(client string, present bool) recentSent {
	r.mu.Lock()
	defer r.mu.Unlock()
	recent := r.away[client]
	delete(r.away, client)
	if !present {
		return recentSent{}
	}
	return recent
}

// recallRecords is how far back the journal is read at start: what clients had open when the process was
// killed is among the last records that it took.
const recallRecords = 1 << 17

// recall restores from the journal's tail what clients may send again after a crash. It comes before the
// first connection.
func (r *resends) recall(j Journal, window int) error {
	last := j.Durable()
	if last == 0 {
		return nil
	}
	from := max(j.First(), last-min(last-1, recallRecords))
	reader, err := j.NewReader(from)
	if err != nil {
		return err
	}
	for reader.Position() < last {
		b, ok, err := reader.TryNext(0)
		if err != nil || !ok {
			return errors.Join(err, reader.Close())
		}
		r.recallBatch(b, window)
	}
	return reader.Close()
}

func (r *resends) recallBatch(b *journal.Batch, window int) {
	for i := range b.Records {
		rec := &b.Records[i]
		if rec.Kind != message.KindPublish || rec.QoS != 1 || rec.PacketID == 0 {
			continue
		}
		recent := r.back(rec.Client, true)
		recent.add(sent{seq: rec.Origin(), sum: payloadSum(rec.Payload), id: rec.PacketID}, window)
		r.leave(rec.Client, recent)
	}
}

// markRepeated names, in a QoS 1 record with DUP, the record that it repeats.
func (c *conn) markRepeated(rec *message.Record) {
	if rec.Original = c.reader.recent.find(rec.PacketID, payloadSum(rec.Payload)); rec.Original != 0 {
		c.b.metrics.repeated.Inc()
	}
}

// rememberSent notes the batch's QoS 1 records, which are in the journal now. A client whose session ends
// with its connection cannot repeat anything.
func (c *conn) rememberSent() {
	if !c.resumable {
		return
	}
	window := int(c.told.window)
	for i := range c.reader.scratch.records {
		if r := &c.reader.scratch.records[i]; r.Kind == message.KindPublish && r.QoS == 1 {
			c.reader.recent.add(sent{seq: r.Origin(), sum: payloadSum(r.Payload), id: r.PacketID}, window)
		}
	}
}
