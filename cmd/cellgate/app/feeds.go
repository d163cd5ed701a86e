package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/broker/journal"
	"cellgate/broker/presence"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/problem"
	"cellgate/cmd/cellgate/stream"
)

// The event streams of the API show what this gateway sees: the state at the beginning, and then changes. They show
// what Kafka gets, sooner and without a guarantee. A consumer that must not miss anything reads Kafka.

// Keys of the hub.
const (
	keyAllPresence = "presence"
	keyAllCommands = "commands"
)

func keyVehicle(vin string) string    { return "vehicle " + vin } // everything of a vehicle except its commands
func keyCommandsOf(vin string) string { return "commands of " + vin }
func keyCommand(id string) string     { return "command " + id }

// PresenceSeen is the event presence.
type PresenceSeen struct {
	VIN    string `json:"vin"`
	Event  string `json:"event"`
	At     string `json:"at,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// MessageSeen is the event message: one published by a vehicle or a rule.
type MessageSeen struct {
	Seq        uint64 `json:"seq"`
	VIN        string `json:"vin"`
	Topic      string `json:"topic"`
	QoS        byte   `json:"qos"`
	Retain     bool   `json:"retain,omitempty"`
	ReceivedAt string `json:"received_at"`
	Bytes      int    `json:"bytes"`
	// Payload is set if the payload is JSON and short enough. Otherwise PayloadText or PayloadBase64 has its beginning.
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadText   string          `json:"payload_text,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty"`
	Cut           bool            `json:"cut,omitempty"`
}

// maxSeenPayload bounds the payload in an event, in bytes.
const maxSeenPayload = 4 << 10

func messageSeen(rec *message.Record) MessageSeen {
	m := MessageSeen{
		Seq: rec.Seq, VIN: rec.VIN(), Topic: rec.Topic, QoS: rec.QoS, Retain: rec.Retain,
		ReceivedAt: rec.Time().Format(message.TimeLayout), Bytes: len(rec.Payload),
	}
	if len(rec.Payload) <= maxSeenPayload && json.Valid(rec.Payload) {
		var compact bytes.Buffer // an event's data is one line
		_ = json.Compact(&compact, rec.Payload)
		m.Payload = compact.Bytes()
		return m
	}
	part := rec.Payload[:min(len(rec.Payload), maxSeenPayload)]
	m.Cut = len(part) < len(rec.Payload)
	for cut := 0; m.Cut && cut < utf8.UTFMax && !utf8.Valid(part); cut++ {
		part = part[:len(part)-1]
	}
	if utf8.Valid(part) {
		m.PayloadText = string(part)
	} else {
		m.PayloadBase64 = part
	}
	return m
}

func event(name string, v any) stream.Event {
	data, err := json.Marshal(v)
	if err != nil { // never: the values are our own
		data = []byte("null")
	}
	return stream.Event{Name: name, Data: data}
}

// watchPresence publishes a vehicle's presence to streams.
func (p *process) watchPresence(s *session.Presence) {
	if !s.Vehicle {
		return
	}
	p.hub.Publish(func() stream.Event {
		e := presence.Event{VIN: s.Key, Kind: kindOf(s), At: s.At.UnixMilli(), Reason: string(s.Reason)}
		return event("presence", presenceSeen(&e))
	}, keyAllPresence, keyVehicle(s.Key))
}

func presenceSeen(e *presence.Event) PresenceSeen {
	return PresenceSeen{e.VIN, e.Kind.String(), e.Time(), e.Reason}
}

// watchCommand is command.Options.Watch.
func (o *outlets) watchCommand(c command.Change) {
	id := c.Command.ID
	o.hub.Publish(func() stream.Event { return stream.Event{Name: "command", Data: c.Value} }, keyAllCommands, keyCommandsOf(c.Command.VIN), keyCommand(id))
	if c.Command.State.Final() {
		o.hub.End(stream.EndFinal, keyCommand(id))
	}
	o.spans.Command(c)
}

// follow opens a stream and returns when it has ended. begin adds the first events, after the stream follows the keys.
func (a *gateway) follow(w http.ResponseWriter, r *http.Request, begin func(f *stream.Feed), keys ...string) {
	f, expires := a.enter(w, r)
	if f == nil {
		return
	}
	defer a.gate.Leave(f)
	defer a.hub.Follow(f, keys...)()
	begin(f)
	f.Serve(w, r, expires)
}

// enter admits a stream, with the time at which its token expires, or answers and returns nil. The caller calls gate.Leave.
func (a *gateway) enter(w http.ResponseWriter, r *http.Request) (*stream.Feed, time.Time) {
	id, _ := auth.IdentityFrom(r.Context())
	f, err := a.gate.Enter(id)
	if err != nil {
		a.rejected("streams")
		w.Header().Set("Retry-After", "10")
		problem.Write(w, http.StatusTooManyRequests, "", err.Error()+": close some, or wait", nil)
		return nil, time.Time{}
	}
	if a.auth.Ended(id) != nil { // the token ended between its check and Enter
		f.End(stream.EndToken)
	}
	return f, a.auth.Deadline(id)
}

// vehicleEvents streams one vehicle's presence, messages, and, for callers who may read commands, its commands.
func (a *gateway) vehicleEvents(w http.ResponseWriter, r *http.Request) {
	vin := r.PathValue("vin")
	keys := []string{keyVehicle(vin)}
	if id, _ := auth.IdentityFrom(r.Context()); id.HasScope(auth.ScopeCommandRead) {
		keys = append(keys, keyCommandsOf(vin))
	}
	a.messages.enter()
	defer a.messages.leave()
	a.follow(w, r, func(f *stream.Feed) {
		last := presence.Event{VIN: vin, Kind: presence.Disconnected}
		if e, known := a.presence.Last(vin); known {
			last = e
		}
		f.Send("presence", presenceSeen(&last))
	}, keys...)
}

// commandEvents streams one command until it is done.
func (a *gateway) commandEvents(w http.ResponseWriter, r *http.Request) {
	vin, id := r.PathValue("vin"), r.PathValue("id")
	cmd, err := a.commands.Get(r.Context(), vin, id)
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, command.ErrNotFound) {
			status = http.StatusNotFound
		}
		problem.Write(w, status, "", err.Error(), nil)
		return
	}
	a.follow(w, r, func(f *stream.Feed) {
		if now, err := a.commands.Get(r.Context(), vin, id); err == nil {
			cmd = now
		}
		f.Send("state", cmd)
		if cmd.State.Final() {
			f.End(stream.EndFinal)
		}
	}, keyCommand(id))
}

// allCommandEvents streams all commands.
func (a *gateway) allCommandEvents(w http.ResponseWriter, r *http.Request) {
	a.follow(w, r, func(*stream.Feed) {}, keyAllCommands)
}

// presenceEvents streams the presence of all vehicles.
func (a *gateway) presenceEvents(w http.ResponseWriter, r *http.Request) {
	a.follow(w, r, func(*stream.Feed) {}, keyAllPresence)
}

// ledgerEvery is how often a stream checks whether the ledger has changed.
const ledgerEvery = time.Second

// ledgerEvents streams the ledger, each time that it has changed.
func (a *gateway) ledgerEvents(w http.ResponseWriter, r *http.Request) {
	a.follow(w, r, func(f *stream.Feed) {
		var last []byte
		send := func() {
			if e := event("ledger", LedgerAnswer{Sinks: a.dispatch.Ledger()}); !bytes.Equal(e.Data, last) {
				last = e.Data
				f.Offer(e)
			}
		}
		send()
		go func() {
			tick := time.NewTicker(ledgerEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					send()
				case <-r.Context().Done():
					return
				}
			}
		}()
	})
}

// messageTail reads the journal for the streams of vehicles while there are any. All streams share one reader.
type messageTail struct {
	journal *journal.Journal
	hub     *stream.Hub
	log     *slog.Logger

	mu     sync.Mutex // guards below
	users  int
	reader *journal.Reader // nil without streams
}

// enter starts the reader for the first stream.
func (t *messageTail) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users++; t.users > 1 && t.reader != nil {
		return
	}
	reader, err := t.journal.NewReader(t.journal.Durable() + 1)
	if err != nil {
		t.log.Warn("event streams get no messages of vehicles", slog.Any("err", err))
		return
	}
	t.reader = reader
	go t.run(reader)
}

// leave closes the reader after the last stream.
func (t *messageTail) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users == 0 && t.reader != nil {
		_ = t.reader.Close() //nolint:errcheck // read-only
		t.reader = nil
	}
}

func (t *messageTail) run(reader *journal.Reader) {
	for {
		b, err := reader.Next(context.Background(), message.FlagUplink|message.FlagResult|message.FlagOther|message.FlagRetain)
		if err != nil {
			if !errors.Is(err, journal.ErrClosed) {
				t.log.Warn("event streams get no more messages of vehicles", slog.Any("err", err))
			}
			return
		}
		for i := range b.Records {
			rec := &b.Records[i]
			if vin := rec.VIN(); vin != "" && rec.Kind == message.KindPublish {
				t.hub.Publish(func() stream.Event { return event("message", messageSeen(rec)) }, keyVehicle(vin))
			}
		}
	}
}
