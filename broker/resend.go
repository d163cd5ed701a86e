package broker

import (
	"errors"
	"hash/crc32"
	"sync"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
)

// A client that resumes its session repeats every QoS 1 PUBLISH whose PUBACK it has not seen, with the same packet
// identifier and DUP set (MQTT 5, 4.4). If the first one was journaled, the repetition's record names the first one's
// sequence, so that everything derived from either has the same msg-id. The repetition is journaled too; no message is
// dropped as a repetition.

// sent is a journaled QoS 1 PUBLISH.
type sent struct {
	seq uint64 // sequence of the message's first record
	sum uint32 // payload checksum
	id  uint16 // packet identifier
}

// recentSent holds the last QoS 1 PUBLISHes of a client. A window is enough: no more can be unacknowledged.
type recentSent struct {
	list []sent
	next int // index of the oldest, once the list is full
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

// maxResendClients bounds the absent clients that are remembered. At the bound an arbitrary one is forgotten. That is
// 64 MB with a full window each; entries usually have one or two messages.
const maxResendClients = 1 << 16

// resends remembers the recent QoS 1 PUBLISHes of absent clients.
type resends struct {
	mu   sync.Mutex
	away map[string]recentSent
}

// leave remembers a client's messages until back.
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

// back removes and returns a client's messages, none if it starts a new session.
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

// recallRecords is how many records are read back at start. Messages that were unacknowledged when the process was
// killed are among the last records.
const recallRecords = 1 << 17

// recall restores from the journal's tail which messages clients may repeat after a crash. Call it before the first
// connection. Consumers already run, and the journal may release records that all of them have passed: a repetition of such a
// message is not recognised.
func (r *resends) recall(j Journal, window int) error {
	last := j.Durable()
	from := max(1, last-min(last, recallRecords))
	for from <= last {
		read, err := r.recallFrom(j, max(from, j.First()), last, window)
		if !errors.Is(err, journal.ErrTrimmed) {
			return err
		}
		from = read + 1
	}
	return nil
}

// recallFrom reads records up to last and returns the sequence of the last one read.
func (r *resends) recallFrom(j Journal, from, last uint64, window int) (uint64, error) {
	if from > last {
		return last, nil
	}
	reader, err := j.NewReader(from)
	if err != nil {
		return from - 1, err
	}
	for reader.Position() < last {
		b, ok, err := reader.TryNext(0)
		if err != nil || !ok {
			return reader.Position(), errors.Join(err, reader.Close())
		}
		r.recallBatch(b, window)
	}
	return reader.Position(), reader.Close()
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

// markRepeated sets Original in a QoS 1 record with DUP to the record that it repeats.
func (c *conn) markRepeated(rec *message.Record) {
	if rec.Original = c.reader.recent.find(rec.PacketID, payloadSum(rec.Payload)); rec.Original != 0 {
		c.b.metrics.repeated.Inc()
	}
}

// rememberSent remembers the batch's QoS 1 records after they are journaled, unless the session ends with the
// connection: then nothing can be repeated.
func (c *conn) rememberSent() {
	if !c.resumable {
		return
	}
	window := int(c.announced.window)
	for i := range c.reader.scratch.records {
		if r := &c.reader.scratch.records[i]; r.Kind == message.KindPublish && r.QoS == 1 {
			c.reader.recent.add(sent{seq: r.Origin(), sum: payloadSum(r.Payload), id: r.PacketID}, window)
		}
	}
}
