package command

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cellgate/broker/shared/message/duration"
)

// Limits of names, fixed for all gateways.
const (
	maxIDBytes   = 64
	maxNameBytes = 128
	maxVINBytes  = 128
	maxKeyBytes  = 255 // of an Idempotency-Key
)

// Errors of Create, Get, Cancel and Wait.
var (
	// errInvalid means that the request is not a valid command; the message says why.
	errInvalid = errors.New("invalid command")
	// errTopic means that id, VIN or name cannot be part of a command's topic. It wraps errInvalid.
	errTopic = fmt.Errorf("%w: topic", errInvalid)
	// errTooLarge means that payload and properties exceed the bound. It wraps errInvalid.
	errTooLarge = fmt.Errorf("%w: size", errInvalid)
	// errNotPermitted means that the caller may not send this command to this vehicle.
	errNotPermitted = errors.New("the caller may not send this command to this vehicle")
	// errResponseTopic means that outcomes may not be published on the response topic. It wraps errNotPermitted.
	errResponseTopic = fmt.Errorf("%w: the response topic is not one that the caller may read, or is a vehicle's own", errNotPermitted)
	// errExpired means that the time to live had passed before the gateway received the command.
	errExpired = errors.New("the command had expired before it arrived")
	// errConflict means that the id or idempotency key belongs to a command with other content.
	errConflict = errors.New("the same id or key was used for another command")
	// errQueueFull means that the vehicle has the maximum number of open commands.
	errQueueFull = errors.New("the vehicle's command queue is full")
	// errBusy means that a bound of the gateway is reached (open commands, waiting events).
	errBusy = errors.New("too many commands")
	// ErrNotFound means that this vehicle has no such command, or that it is forgotten.
	ErrNotFound = errors.New("no such command")
	// ErrNotCancellable means that the command was handed to the vehicle's connection or is final.
	ErrNotCancellable = errors.New("the command can no longer be cancelled")
	// errStore means that the state file could not be written.
	errStore = errors.New("the command store failed")
	// errUnknown means that the cell's Redis is away or its replicas have not confirmed: the decision may or may not
	// stand.
	errUnknown = errors.New("unknown")
	// errClosed means that the service is closed.
	errClosed = errors.New("the command service is closed")
)

// Request asks for a command.
type Request struct {
	// ID makes the request idempotent: [A-Za-z0-9_-]{1,64}, unique in the cell. If empty, it is derived from Key, or
	// random.
	ID string
	// Key is an idempotency key of at most 255 bytes, separate for each caller (see Caller.By and Caller.Namespace).
	Key string
	Caller
	VIN  string
	Name string
	// Payload is sent unchanged; JSON says that it is a JSON value.
	Payload []byte
	JSON    bool
	// TTL is the command's time to live; 0 means the service's default.
	TTL time.Duration
	// Urgent commands are sent before the vehicle's other unsent commands.
	Urgent bool
	// At is when the command was created and TTL begins; zero means now, and so does a later time.
	At time.Time

	// came is the time of arrival. The time to live counts from then, however long the request waits.
	came time.Time
	// named means that the id comes from a topic: none is generated.
	named bool
	props properties
	// decided is the cell's decision, nil with a single gateway.
	decided *decision
	// ours means that this gateway had it accepted, and publishes that.
	ours bool
	// sending means that this gateway requests the permission to send it while it writes it to its disk.
	sending bool
	// ready reports whether the vehicle could be sent to when the request was made. It is queried outside the
	// transaction, because the delivery engine has its own locks.
	ready bool
}

// Command is a command as the API shows it. Times are RFC 3339 in UTC with milliseconds.
type Command struct {
	ID    string `json:"id"`
	VIN   string `json:"vin"`
	Name  string `json:"name"`
	State State  `json:"state"`
	// Cause is the reason for an unsuccessful state.
	Cause string `json:"cause,omitempty"`
	// Payload is set if the payload is JSON, else PayloadBase64.
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 []byte          `json:"payload_base64,omitempty"`
	TTL           string          `json:"ttl"`
	Urgent        bool            `json:"urgent,omitempty"`
	CreatedAt     Stamp           `json:"created_at"`
	ExpiresAt     Stamp           `json:"expires_at"`
	SentAt        Stamp           `json:"sent_at,omitempty"`
	DeliveredAt   Stamp           `json:"delivered_at,omitempty"`
	AcceptedAt    Stamp           `json:"accepted_at,omitempty"`
	FinishedAt    Stamp           `json:"finished_at,omitempty"`
	// Outcome is what the vehicle reported about a late command.
	Outcome State `json:"outcome,omitempty"`
	// Result is the payload of the vehicle's last report if it is JSON, else ResultBase64.
	Result       json.RawMessage `json:"result,omitempty"`
	ResultBase64 []byte          `json:"result_base64,omitempty"`
	Origin       string          `json:"origin"`
	By           string          `json:"by,omitempty"`
}

// Stamp is a time in ms since the Unix epoch; 0 means none.
type Stamp int64

// stampLayout is RFC 3339 with milliseconds.
const stampLayout = "2006-01-02T15:04:05.000Z07:00"

// Time converts the stamp to UTC.
func (s Stamp) Time() time.Time { return time.UnixMilli(int64(s)).UTC() }

// String formats the time in UTC.
func (s Stamp) String() string { return time.UnixMilli(int64(s)).UTC().Format(stampLayout) }

// MarshalJSON writes the time as a string.
func (s Stamp) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// UnmarshalJSON reads what MarshalJSON writes, and any RFC 3339 time.
func (s *Stamp) UnmarshalJSON(data []byte) error {
	t, err := time.Parse(`"`+time.RFC3339+`"`, string(data))
	if err != nil {
		return fmt.Errorf("reading a time: %w", err)
	}
	*s = Stamp(t.UnixMilli())
	return nil
}

// ValidID reports whether id can name a command.
func ValidID(id string) bool {
	if id == "" || len(id) > maxIDBytes {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// validLevel reports whether s can be one level of a topic and a part of a log line.
func validLevel(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) && !strings.ContainsAny(s, "+#/") &&
		strings.IndexFunc(s, unicode.IsControl) < 0
}

// check completes the request and validates it.
func (r *Request) check(o *Options) error {
	if r.TTL == 0 {
		r.TTL = o.DefaultTTL
	}
	switch {
	case (r.ID != "" || r.named) && !ValidID(r.ID):
		return fmt.Errorf("%w: id must be 1 to 64 of A-Z a-z 0-9 _ -", errTopic)
	case len(r.Key) > maxKeyBytes:
		return fmt.Errorf("%w: Idempotency-Key is longer than %d bytes", errInvalid, maxKeyBytes)
	case !validLevel(r.VIN, maxVINBytes):
		return fmt.Errorf("%w: the VIN must be 1 to %d bytes without + # / and controls", errTopic, maxVINBytes)
	case !validLevel(r.Name, maxNameBytes):
		return fmt.Errorf("%w: name must be 1 to %d bytes without + # / and controls", errTopic, maxNameBytes)
	case len(r.Payload)+r.props.size() > o.MaxPayload && len(r.Payload) <= o.MaxPayload:
		return fmt.Errorf("%w: the payload with its properties has %d bytes, at most %d are permitted", errTooLarge, len(r.Payload)+r.props.size(), o.MaxPayload)
	case len(r.Payload) > o.MaxPayload:
		return fmt.Errorf("%w: the payload has %d bytes, at most %d are permitted", errTooLarge, len(r.Payload), o.MaxPayload)
	case r.TTL < time.Second || r.TTL > o.MaxTTL:
		return fmt.Errorf("%w: ttl must be between 1s and %v", errInvalid, o.MaxTTL)
	}
	if r.JSON {
		var compact bytes.Buffer
		if err := json.Compact(&compact, r.Payload); err != nil {
			return fmt.Errorf("%w: the payload is not JSON: %w", errInvalid, err)
		}
		r.Payload = compact.Bytes()
	}
	r.TTL = r.TTL.Truncate(time.Millisecond)
	if r.ID == "" {
		r.ID = madeID(r.By+r.Namespace, r.Key)
	}
	return nil
}

// madeID derives an id from a caller's key, so that the stored command also remembers the key; without a key it is
// random.
func madeID(by, key string) string {
	if key == "" {
		return rand.Text()
	}
	sum := sha256.Sum256([]byte(by + "\x00" + key))
	return "k-" + base64.RawURLEncoding.EncodeToString(sum[:24])
}

// digest identifies the content of a request.
func (r *Request) digest() []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(r.VIN), []byte(r.Name), r.Payload} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		_, _ = h.Write(n[:])
		_, _ = h.Write(part)
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(r.TTL.Milliseconds()))
	_, _ = h.Write(n[:])
	if r.Urgent { // digests are on disk: those of commands that are not urgent must not change
		_, _ = h.Write([]byte{1})
	}
	return h.Sum(nil)[:16]
}

// record is a command on disk, without payload and result, which are stored separately. The JSON names are the format:
// never reuse one.
type record struct {
	Seq       uint64 `json:"-"` // its key: the order of acceptance
	ID        string `json:"id"`
	VIN       string `json:"vin"`
	Name      string `json:"name"`
	State     State  `json:"state"`
	Cause     string `json:"cause,omitempty"`
	Origin    string `json:"origin,omitempty"`
	By        string `json:"by,omitempty"`
	Digest    []byte `json:"digest"`
	JSON      bool   `json:"json,omitempty"`
	Urgent    bool   `json:"urgent,omitempty"`
	Props     bool   `json:"props,omitempty"`   // the command has properties
	Respond   bool   `json:"respond,omitempty"` // the properties include a response topic
	TTL       int64  `json:"ttl"`               // ms, as are the times
	Created   int64  `json:"created"`
	Expires   int64  `json:"expires"`
	Sent      int64  `json:"sent,omitempty"`
	Delivered int64  `json:"delivered,omitempty"`
	Accepted  int64  `json:"accepted,omitempty"`
	Finished  int64  `json:"finished,omitempty"`
	Late      int64  `json:"late,omitempty"` // of the last report after the expiry; with several gateways of the result
	// The times above are wall clock times, for people; none is before the one of the state before. These count, by the
	// gateway's clock: Until is when the command expires; after Latest it is not sent, because its time may have passed
	// (clock.Clock.Latest); Done is when it ended. Records of older versions have none.
	Until  int64 `json:"until,omitempty"`
	Latest int64 `json:"latest,omitempty"`
	Done   int64 `json:"done,omitempty"`
	// Handed means that the command was or is about to be given to a connection. It is set on disk before the delivery
	// engine gets the command, and cleared only when the engine is known not to have sent it.
	Handed  bool  `json:"handed,omitempty"`
	Outcome State `json:"outcome,omitempty"`
	// With several gateways: Number orders the vehicle's commands, Gen is the generation of acceptance, and Node the
	// gateway that accepted the command.
	Number uint64 `json:"number,omitempty"`
	Gen    uint64 `json:"gen,omitempty"`
	Node   string `json:"node,omitempty"`
	// LateAccepted is when the vehicle reported, after the expiry, that it had accepted the command.
	LateAccepted int64 `json:"late_accepted,omitempty"`
	// EndPublished means that this gateway has published, or will publish, the end of the command, or knows that another one
	// has. See published.
	EndPublished bool `json:"told,omitempty"`
}

// held returns the answer of the cell that the request writes, if any.
func (r *Request) held() *held {
	if r.decided == nil {
		return nil
	}
	return r.decided.held
}

// published reports whether the end of an ended command is known to be published. With a single gateway it always is.
func (r *record) published() bool { return r.EndPublished || r.Number == 0 }

// lastAt returns the time of the record's state.
func (r *record) lastAt() int64 {
	return max(r.Created, r.Sent, r.Delivered, r.Accepted, r.Finished, r.LateAccepted, r.Late)
}

// orderTimes lets no time be before the one of the state before: Redis and several gateways have made them.
func (r *record) orderTimes() {
	last := r.Created
	for _, at := range []*int64{&r.Sent, &r.Delivered, &r.Accepted, &r.Finished} {
		if *at != 0 {
			*at = max(*at, last)
			last = *at
		}
	}
}

func (r *record) until() int64 { return cmp.Or(r.Until, r.Expires) }

func (r *record) latest() int64 { return cmp.Or(r.Latest, r.Expires) }

func (r *record) done() int64 { return cmp.Or(r.Done, r.Finished) }

// view returns r as the API shows it. payload and result are copied.
func (r *record) view(payload, result []byte) Command {
	c := Command{
		ID: r.ID, VIN: r.VIN, Name: r.Name, State: r.State, Cause: r.Cause, Origin: r.Origin, By: r.By,
		Urgent: r.Urgent, TTL: duration.Text(time.Duration(r.TTL) * time.Millisecond), CreatedAt: Stamp(r.Created), ExpiresAt: Stamp(r.Expires),
		SentAt: Stamp(r.Sent), DeliveredAt: Stamp(r.Delivered), AcceptedAt: Stamp(r.Accepted),
		FinishedAt: Stamp(r.Finished), Outcome: r.Outcome,
	}
	switch {
	case r.JSON:
		c.Payload = bytes.Clone(payload)
	case len(payload) > 0:
		c.PayloadBase64 = bytes.Clone(payload)
	}
	c.Result, c.ResultBase64 = splitJSON(result)
	return c
}

// splitJSON returns a copy of data as value if it is JSON, else as raw.
func splitJSON(data []byte) (value json.RawMessage, raw []byte) {
	switch {
	case len(data) == 0:
		return nil, nil
	case json.Valid(data):
		return bytes.Clone(data), nil
	}
	return nil, bytes.Clone(data)
}
