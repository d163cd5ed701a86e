package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/message/field"
	"cellgate/broker/shared/statefile"
)

// The state file has one bucket "mqtt" with the buckets below. Numbers that order keys are big-endian, others unsigned
// varints. A text is its length and its bytes. Times are ms since the Unix epoch.
//
//	meta      "format"   2
//	          "position" journal epoch, fan-out position, replay position, settled position of the command service: 8
//	                     bytes each, big-endian; if the last is missing, it equals the replay position
//	sessions  client -> the session (client is its key: message.SessionKey):
//	            flags     1 byte    vehicle 0, will 1, will retain 2, will QoS 3-4, never expires 5, owner 6
//	            version   1 byte    4 or 5
//	            expiry    uvarint   ms
//	            since     uvarint   ms
//	            endsAt    uvarint   ms, 0 while connected
//	            notAfter  uvarint   ms
//	            floor     uvarint   journal sequence
//	            subs      uvarint   count; each: filter text, options byte (as in SUBSCRIBE), identifier uvarint
//	            with an owner: text
//	            with a will: due uvarint (ms; 0 while connected), delay uvarint (ms), and a record
//	queue     client 00 order(8) -> one message:
//	            flags     1 byte    QoS 0-1, retain 2, matched shared filters 3
//	            expires   uvarint   ms
//	            ids       uvarint   count; each uvarint
//	            shared    uvarint   only with bit 3: count; each a filter text
//	            record              topic, payload, properties, QoS and RETAIN as published (message.Record.Append)
//	inflight  client 00 order(8) -> packet identifier (2), stage (1): of the message with that key
//	incoming  client -> QoS 2 identifiers in use by the client: identifier (2), journal sequence uvarint; …
//	                     after 00 00, which is no identifier, each is followed by the sum of its message (8)
//	retained  topic, or null character and SHA-256 of one above 32,768 bytes -> record, its time included
//
// Package statefile adds checksums of values and buckets.
//
// Client identifiers (MQTT 5, 1.5.4), roles and issuers contain no null character, so the keys of one client are adjacent.
const (
	format         = 2
	formatByClient = 1 // sessions were named by client identifiers alone
)

// errFormat is wrapped when the state file contains something that this version does not understand.
var errFormat = errors.New("session state not understood")

type bucket uint8

const (
	bucketSessions bucket = iota
	bucketQueue
	bucketInflight
	bucketIncoming
	bucketRetained
	bucketMeta
)

const rootBucket = "mqtt"

func (b bucket) name() []byte {
	switch b {
	case bucketSessions:
		return []byte("sessions")
	case bucketQueue:
		return []byte("queue")
	case bucketInflight:
		return []byte("inflight")
	case bucketIncoming:
		return []byte("incoming")
	case bucketRetained:
		return []byte("retained")
	default:
		return []byte("meta")
	}
}

const (
	flagVehicle    = 1 << 0
	flagWill       = 1 << 1
	flagWillRetain = 1 << 2
	flagNever      = 1 << 5
	flagOwner      = 1 << 6
)

// queueKey returns the key of a queued message of the client.
func queueKey(client string, order uint64) []byte {
	k := make([]byte, 0, len(client)+9)
	k = append(append(k, client...), 0)
	return binary.BigEndian.AppendUint64(k, order)
}

func splitQueueKey(k []byte) (client string, order uint64, ok bool) {
	if len(k) < 9 || k[len(k)-9] != 0 {
		return "", 0, false
	}
	return string(k[:len(k)-9]), binary.BigEndian.Uint64(k[len(k)-8:]), true
}

func encodeInflight(id uint16, s stage) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), byte(s))
}

func (e *entry) encode() []byte {
	flags := e.qos & 3
	if e.retain {
		flags |= 1 << 2
	}
	if len(e.shared) > 0 {
		flags |= 1 << 3
	}
	dst := make([]byte, 0, 64+len(e.body.topic)+len(e.body.payload))
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(e.body.expires)) //nolint:gosec // never negative
	dst = binary.AppendUvarint(dst, uint64(len(e.ids)))
	for _, id := range e.ids {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	if len(e.shared) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(e.shared)))
		for _, filter := range e.shared {
			dst = field.AppendBytes(dst, filter)
		}
	}
	rec := message.Record{
		Kind: message.KindPublish, QoS: e.body.qos, Retain: e.body.retain,
		Topic: e.body.topic, Payload: e.body.payload, Props: e.body.props,
	}
	return rec.Append(dst, 0)
}

func decodeEntry(b []byte, dec *message.Decoder) (*entry, error) {
	r := field.Reader{B: b}
	flags := r.Byte()
	e := &entry{qos: flags & 3, retain: flags&(1<<2) != 0, durable: true, persisted: true, body: &body{}}
	e.body.expires = int64(r.Uvarint()) //nolint:gosec // written from an int64
	for n := r.Count(1); n > 0; n-- {
		e.ids = append(e.ids, uint32(r.Uvarint())) //nolint:gosec // written from a uint32
	}
	if flags&(1<<3) != 0 {
		for n := r.Count(1); n > 0; n-- {
			e.shared = append(e.shared, string(r.Bytes()))
		}
	}
	var rec message.Record
	if err := record(&r, dec, &rec); err != nil {
		return nil, err
	}
	if e.qos > 2 {
		return nil, fmt.Errorf("%w: QoS 3", errFormat)
	}
	rec = rec.Clone()
	e.body.topic, e.body.payload, e.body.props, e.body.qos, e.body.retain = rec.Topic, rec.Payload, rec.Props, rec.QoS, rec.Retain
	return e, nil
}

// encode returns the session's record in the state file.
func (st *state) encode() []byte {
	var flags byte
	if st.vehicle {
		flags |= flagVehicle
	}
	expiry := uint64(st.expiry.Milliseconds()) //nolint:gosec // never negative
	if st.expiry == MaxExpiry {
		flags, expiry = flags|flagNever, 0
	}
	if w := st.will; w != nil {
		flags |= flagWill | (w.QoS&3)<<3
		if w.Retain {
			flags |= flagWillRetain
		}
	}
	if st.share != nil {
		flags |= flagOwner
	}
	dst := append(make([]byte, 0, 128), flags, st.version)
	for _, v := range []uint64{expiry, uint64(st.since), uint64(st.endsAt), uint64(st.notAfter), st.floor, uint64(len(st.subs))} { //nolint:gosec // never negative
		dst = binary.AppendUvarint(dst, v)
	}
	for i := range st.subs {
		dst = st.subs[i].append(dst)
	}
	if st.share != nil {
		dst = field.AppendBytes(dst, string(st.share.owner))
	}
	if w := st.will; w != nil {
		dst = binary.AppendUvarint(dst, uint64(st.willAt))              //nolint:gosec // never negative
		dst = binary.AppendUvarint(dst, uint64(w.Delay.Milliseconds())) //nolint:gosec // as above
		rec := message.Record{Kind: message.KindPublish, Topic: w.Topic, Payload: w.Payload, Props: w.Props}
		dst = rec.Append(dst, 0)
	}
	return dst
}

func (s *Subscription) append(dst []byte) []byte {
	options := s.QoS | s.RetainHandling<<4
	if s.NoLocal {
		options |= 1 << 2
	}
	if s.RetainAsPublished {
		options |= 1 << 3
	}
	dst = append(field.AppendBytes(dst, s.Filter), options)
	return binary.AppendUvarint(dst, uint64(s.ID))
}

// decode fills a loaded session and returns its owner. Subscriptions are stored, and so loaded, in order.
func (st *state) decode(b []byte, dec *message.Decoder) (owner Owner, err error) {
	r := field.Reader{B: b}
	flags := r.Byte()
	st.version, st.vehicle = r.Byte(), flags&flagVehicle != 0
	st.expiry = time.Duration(r.Uvarint()) * time.Millisecond //nolint:gosec // written from a Duration
	if flags&flagNever != 0 {
		st.expiry = MaxExpiry
	}
	st.since, st.endsAt, st.notAfter = int64(r.Uvarint()), int64(r.Uvarint()), int64(r.Uvarint()) //nolint:gosec // written from int64
	st.floor = r.Uvarint()
	n := r.Count(3)
	st.subs = make([]Subscription, 0, n)
	for ; n > 0; n-- {
		st.subs = append(st.subs, subscription(&r))
	}
	owner = ownerOfClient(st.id)
	if flags&flagOwner != 0 {
		owner = Owner(r.Bytes())
	}
	if flags&flagWill != 0 {
		st.willAt = int64(r.Uvarint())                                   //nolint:gosec // written from int64
		w := &Will{Delay: time.Duration(r.Uvarint()) * time.Millisecond} //nolint:gosec // as above
		var rec message.Record
		if err := record(&r, dec, &rec); err != nil {
			return "", err
		}
		rec = rec.Clone()
		w.Topic, w.Payload, w.Props = rec.Topic, rec.Payload, rec.Props
		w.QoS, w.Retain = flags>>3&3, flags&flagWillRetain != 0
		st.will = w
	}
	return owner, whole(&r)
}

func subscription(r *field.Reader) Subscription {
	filter := string(r.Bytes())
	options := r.Byte()
	return Subscription{
		Filter: filter, QoS: options & 3, NoLocal: options&(1<<2) != 0, RetainAsPublished: options&(1<<3) != 0,
		RetainHandling: options >> 4 & 3, ID: uint32(r.Uvarint()), //nolint:gosec // written from a uint32
	}
}

// retained adds the change of a topic's retained message; a nil record removes it.
func (b *batch) retained(topic string, rec *message.Record) {
	if rec == nil {
		b.remove(bucketRetained, retainedKey(topic))
		return
	}
	b.put(bucketRetained, retainedKey(topic), rec.Append(nil, 0))
}

// retainedKey returns the topic, or for one longer than the longest key its hash after a null character, which no topic
// contains.
func retainedKey(topic string) []byte {
	if len(topic) <= statefile.MaxKeySize {
		return []byte(topic)
	}
	sum := sha256.Sum256([]byte(topic))
	return append([]byte{0}, sum[:]...)
}

// write applies the batch in a transaction.
func (b *batch) write(tx *statefile.Tx, epoch uint64) error {
	root := tx.Bucket([]byte(rootBucket))
	for i := range b.ops {
		o := &b.ops[i]
		bk := root.Bucket(o.bucket.name())
		var err error
		switch {
		case o.all:
			err = removeAll(bk, o.key)
		case o.value == nil:
			err = bk.Delete(o.key)
		default:
			err = bk.Put(o.key, o.value)
		}
		if err != nil {
			return err
		}
	}
	if !b.last {
		return nil
	}
	position := binary.BigEndian.AppendUint64(nil, epoch)
	for _, seq := range []uint64{b.mark.fanned, b.mark.replay, b.mark.settled} {
		position = binary.BigEndian.AppendUint64(position, seq)
	}
	return root.Bucket(bucketMeta.name()).Put(positionKey(), position)
}

func positionKey() []byte { return []byte("position") }

// removeAll removes the keys of one client from a bucket keyed by queueKey.
func removeAll(bk *statefile.Bucket, client []byte) error {
	prefix := append(client[:len(client):len(client)], 0)
	c := bk.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Seek(prefix) {
		if err := bk.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// record decodes the rest of a value as a record.
func record(r *field.Reader, dec *message.Decoder, rec *message.Record) error {
	if err := whole(r); err != nil {
		return err
	}
	if err := dec.Decode(r.Rest(), 0, rec); err != nil {
		return fmt.Errorf("%w: %w", errFormat, err)
	}
	return nil
}

// whole returns an error if the value ended before its last field.
func whole(r *field.Reader) error {
	if r.Bad {
		return fmt.Errorf("%w: value cut short", errFormat)
	}
	return nil
}
