package kafkaclient

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// metadataVersion is the first version of the Metadata request whose response has topic ids (Kafka 2.8).
const metadataVersion = 10

var errMetadata = errors.New("malformed metadata answer")

// topicIDs caches the ids of a consumer's topics.
type topicIDs struct {
	mu    sync.Mutex
	asked time.Time
	ids   map[string]string
}

// topicID returns the id that the cluster gave a topic at its creation, at most PartitionWatchInterval old; empty if
// the cluster does not report ids.
func (c *Consumer) topicID(ctx context.Context, topic string) string {
	t := &c.ids
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.asked) >= c.o.PartitionWatchInterval {
		ids, err := askTopicIDs(ctx, c.client, c.o.ClientID, c.o.Topics)
		if ctx.Err() != nil {
			return ""
		}
		t.asked = time.Now()
		if err == nil {
			t.ids = ids
		}
	}
	return t.ids[topic]
}

// forgetTopicIDs drops the cache, because a topic seems to be another one.
func (c *Consumer) forgetTopicIDs() {
	c.ids.mu.Lock()
	c.ids.asked = time.Time{}
	c.ids.mu.Unlock()
}

// askTopicIDs queries any broker. kafka-go's own requests end before the version with ids.
func askTopicIDs(ctx context.Context, c *kafka.Client, clientID string, topics []string) (map[string]string, error) {
	m, err := c.Transport.RoundTrip(ctx, c.Addr, &metadataRequest{clientID: clientID, topics: topics})
	if err != nil {
		return nil, fmt.Errorf("ask for topic ids: %w", err)
	}
	res, ok := m.(metadataAnswer)
	if !ok {
		return nil, fmt.Errorf("ask for topic ids: %w: %T", errMetadata, m)
	}
	return res, nil
}

type metadataRequest struct {
	clientID string
	topics   []string
}

// metadataAnswer maps existing topics to their ids.
type metadataAnswer map[string]string

// ApiKey implements protocol.Message.
func (*metadataRequest) ApiKey() protocol.ApiKey { return protocol.Metadata } //nolint:revive // the library's name

// ApiKey implements protocol.Message.
func (metadataAnswer) ApiKey() protocol.ApiKey { return protocol.Metadata } //nolint:revive // the library's name

// Required implements protocol.RawExchanger.
func (*metadataRequest) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger.
func (r *metadataRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if _, err := rw.Write(r.encode()); err != nil {
		return nil, err
	}
	answer, err := readAnswer(rw)
	if err != nil {
		return nil, err
	}
	return parseTopicIDs(answer)
}

// encode writes the request: length 4, key 2, version 2, correlation id 4, client id 2 + n, tags; topics (id 16, name,
// tags), three booleans, tags. Lengths are varints of length + 1 (KIP-482), except for the client id.
func (r *metadataRequest) encode() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, 0)
	b = be.AppendUint16(b, uint16(protocol.Metadata))
	b = be.AppendUint16(b, metadataVersion)
	b = be.AppendUint32(b, 1) // a connection has one request in flight, so any number is unique
	b = be.AppendUint16(b, uint16(len(r.clientID)))
	b = append(b, r.clientID...)
	b = append(b, 0)
	b = binary.AppendUvarint(b, uint64(len(r.topics)+1))
	for _, name := range r.topics {
		b = append(b, make([]byte, 16)...)
		b = binary.AppendUvarint(b, uint64(len(name)+1))
		b = append(b, name...)
		b = append(b, 0)
	}
	b = append(b, 0, 0, 0, 0)
	be.PutUint32(b, uint32(len(b)-4))
	return b
}

// parseTopicIDs parses a response: correlation id 4, tags, throttle time 4, brokers (id 4, host, port 4, rack, tags),
// cluster id, controller 4, topics (error 2, name, id 16, internal 1, partitions, operations 4, tags), and more. A
// partition: error 2, index 4, leader 4, epoch 4, replicas, in sync, offline (4 each), tags.
func parseTopicIDs(b []byte) (metadataAnswer, error) {
	r := &flexible{b: b}
	r.skip(4)
	r.tags()
	r.skip(4)
	for range r.length() {
		r.skip(4)
		r.text()
		r.skip(4)
		r.text()
		r.tags()
	}
	r.text()
	r.skip(4)
	ids := metadataAnswer{}
	for range r.length() {
		code := r.take(2)
		name, id := r.text(), hex.EncodeToString(r.take(16))
		r.skip(1)
		for range r.length() {
			r.skip(14)
			for range 3 {
				r.skip(4 * r.length())
			}
			r.tags()
		}
		r.skip(4)
		r.tags()
		if len(code) == 2 && code[0] == 0 && code[1] == 0 && strings.Trim(id, "0") != "" {
			ids[name] = id
		}
	}
	if r.short {
		return nil, fmt.Errorf("%w: %d bytes", errMetadata, len(b))
	}
	return ids, nil
}

// flexible reads the types of KIP-482. Past the end it reads nothing and sets short.
type flexible struct {
	b     []byte
	short bool
}

func (r *flexible) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.b, r.short = nil, true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *flexible) skip(n int) { r.take(n) }

func (r *flexible) uvarint() int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<30 {
		r.b, r.short = nil, true
		return 0
	}
	r.skip(n)
	return int(v)
}

// length reads the length of an array whose elements take at least one byte each.
func (r *flexible) length() int {
	n := max(0, r.uvarint()-1)
	if n > len(r.b) {
		r.b, r.short = nil, true
		return 0
	}
	return n
}

func (r *flexible) text() string { return string(r.take(max(0, r.uvarint()-1))) }

func (r *flexible) tags() {
	for range r.uvarint() {
		r.uvarint()
		r.skip(r.uvarint())
		if r.short {
			return
		}
	}
}
