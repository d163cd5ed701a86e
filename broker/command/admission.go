package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"cellgate/broker/shared/message"
)

// Origins of requests.
const (
	OriginHTTP    = "http"
	OriginMQTT    = "mqtt"
	OriginKafka   = "kafka"
	OriginGateway = "gateway" // the gateway itself, as after a revocation with purge
)

// Caller identifies who makes a request, and its origin.
type Caller struct {
	// By is the subject of the caller's token; for Kafka, the sender that the record claims.
	By string
	// Namespace separates the idempotency keys of callers with the same By.
	Namespace string
	Origin    string
	// Role, Issuer, TokenID and Address are for the audit log. They are empty for Kafka.
	Role, Issuer, TokenID, Address string
	// May reports whether the caller may send and cancel commands of that name for that vehicle; nil allows all.
	May func(vin, name string) bool
	// Respond reports whether outcomes may be published on a response topic of the caller; nil allows none.
	Respond func(topic string) bool
}

// Audited actions.
const (
	actionCommand = "command"
	actionCancel  = "cancel"
)

// Audited outcomes.
const (
	outcomeAccepted  = "accepted"
	outcomeRepeated  = "repeated" // the same command under the same id; nothing changes
	outcomeCancelled = "cancelled"
	outcomeRefused   = "refused"
)

// Audited is a request for a command or a cancellation, with its outcome.
type Audited struct {
	At            time.Time
	Action        string
	Caller        Caller
	VIN, ID, Name string
	Outcome       string
	// Reason is the label of a refusal, as in rejected_total but without "command_".
	Reason string
}

// verdict is how an error is reported to the requester.
type verdict struct {
	label  string // in the audit log, and in rejected_total after "command_"
	code   byte   // of PUBACK and PUBREC
	status int    // of HTTP
	title  string // of the problem
	retry  string // Retry-After in seconds; "" none
	do     string // what the sender can do; in reason strings
}

// verdictOn returns the verdict for err. Of several matching errors the first counts.
func verdictOn(err error) verdict {
	const doAgain = "send it again with the same id"
	for _, a := range []struct {
		is error
		verdict
	}{
		{errTopic, verdict{"topic", reasonTopicInvalid, http.StatusBadRequest, "Invalid command", "", ""}},
		{errTooLarge, verdict{"too_large", reasonQuota, http.StatusBadRequest, "Invalid command", "", ""}},
		{errInvalid, verdict{"invalid", reasonImplementation, http.StatusBadRequest, "Invalid command", "", ""}},
		{errResponseTopic, verdict{"response_topic", reasonNotAuthorized, http.StatusForbidden, "Not permitted", "", "use one below v1/{vin}/res/{id}/"}},
		{errNotPermitted, verdict{"not_permitted", reasonNotAuthorized, http.StatusForbidden, "Not permitted", "", "get a token that permits it"}},
		{errQueueFull, verdict{"queue_full", reasonQuota, http.StatusTooManyRequests, "Queue full", "1", "send it later"}},
		{errBusy, verdict{"busy", reasonQuota, http.StatusServiceUnavailable, "", "5", "send it later"}},
		{errConflict, verdict{"conflict", reasonImplementation, http.StatusConflict, "Idempotency conflict", "", "use an id of its own"}},
		{errExpired, verdict{"expired", reasonImplementation, http.StatusConflict, "Expired", "", "send it as a new command if it is still needed"}},
		{errCursor, verdict{"cursor", reasonImplementation, http.StatusBadRequest, "", "", ""}},
		{ErrNotFound, verdict{"not_found", reasonImplementation, http.StatusNotFound, "", "", ""}},
		{ErrNotCancellable, verdict{"not_cancellable", reasonImplementation, http.StatusConflict, "Not cancellable", "", ""}},
		{errStore, verdict{"store", reasonUnspecified, http.StatusServiceUnavailable, "", "5", doAgain}},
		{errUnknown, verdict{"unknown", reasonUnspecified, http.StatusServiceUnavailable, "Unknown, repeat with this id", "1", doAgain}},
		{errClosed, verdict{"closed", reasonUnspecified, http.StatusServiceUnavailable, "", "5", doAgain}},
	} {
		if errors.Is(err, a.is) {
			return a.verdict
		}
	}
	return verdict{"other", reasonImplementation, http.StatusServiceUnavailable, "", "", doAgain}
}

// audit is the only place that counts requests and writes them to the audit log, once their outcome is certain.
func (s *Service) audit(a Audited, err error) {
	a.At = s.o.Clock.Wall()
	if err != nil {
		a.Outcome, a.Reason = outcomeRefused, verdictOn(err).label
		s.o.Refused("command_" + a.Reason)
	}
	s.o.Audit(a)
}

// auditRequest audits a request for a command.
func (s *Service) auditRequest(r *Request, created bool, err error) {
	a := Audited{Action: actionCommand, Caller: r.Caller, VIN: r.VIN, ID: r.ID, Name: r.Name, Outcome: outcomeRepeated}
	if created {
		a.Outcome = outcomeAccepted
	}
	s.audit(a, err)
}

// undecided reports whether the store took no decision, so that no batch audits it.
func undecided(err error) bool {
	return errors.Is(err, errStore) || errors.Is(err, errClosed) || errors.Is(err, errUnknown)
}

// unknown returns err if it leaves the outcome unknown, else nil.
func unknown(err error) error {
	if errors.Is(err, errUnknown) {
		return err
	}
	return nil
}

// check completes a request and makes every check that needs no other command.
func (s *Service) check(r *Request) error {
	if err := r.check(&s.o); err != nil {
		return err
	}
	if r.May != nil && !r.May(r.VIN, r.Name) {
		return errNotPermitted
	}
	if topic := r.props.ResponseTopic; topic != "" && (r.Respond == nil || !r.Respond(topic)) {
		return errResponseTopic
	}
	_, r.ready = s.o.Deliverer.Ready(r.VIN)
	return nil
}

// take accepts a request unless check found an error. With notify, an event reports a refusal, because the sender gets no
// other answer.
func (b *batch) take(r *Request, found error, notify bool) (cmd Command, created bool, err error) {
	if err = found; err == nil {
		cmd, created, err = b.create(r)
	}
	if b.fail != nil {
		return Command{}, false, b.fail
	}
	b.after = append(b.after, func() { b.s.auditRequest(r, created, err) })
	if err != nil && notify {
		if failed := b.refuse(r, err); failed != nil {
			return Command{}, false, failed
		}
	}
	return cmd, created, err
}

// Create accepts a command. For a known id with the same content it returns that command and false.
func (s *Service) Create(ctx context.Context, r Request) (cmd Command, created bool, err error) {
	if err := s.check(&r); err != nil {
		s.auditRequest(&r, false, err)
		return Command{}, false, err
	}
	var out struct {
		cmd     Command
		created bool
	}
	if r.came.IsZero() {
		r.came = time.Now()
	}
	var found error
	done := make(chan error, 1)
	err = s.enter(ctx, r.VIN, &request{id: r.ID, done: done, run: func(b *batch) (err error) {
		out.cmd, out.created, err = b.take(&r, found, false)
		return err
	}}, func(ctx, waits context.Context) (*held, error) {
		found = s.decide(ctx, waits, &r)
		return r.held(), unknown(found)
	})
	if err == nil {
		err = wait(ctx, done)
	}
	if undecided(err) {
		s.auditRequest(&r, false, err)
	}
	if err != nil { // out may still be written to if ctx ended first
		return Command{}, false, err
	}
	return out.cmd, out.created, nil
}

// Cancel ends a command that has not been sent. Cancelling a cancelled command is no error. With ErrNotCancellable it
// returns the command too.
func (s *Service) Cancel(ctx context.Context, c Caller, vin, id string) (cmd Command, err error) {
	if s.o.Cell != nil {
		return s.cancelTogether(ctx, c, vin, id)
	}
	var out Command
	asked := Audited{Action: actionCancel, Caller: c, VIN: vin, ID: id, Outcome: outcomeCancelled}
	err = s.submit(ctx, false, func(b *batch) (err error) {
		var name string
		if out, name, err = b.cancel(c.May, vin, id); b.fail != nil {
			return b.fail
		}
		b.after = append(b.after, func() {
			a := asked
			a.Name = name
			b.s.audit(a, err)
		})
		return err
	})
	if undecided(err) {
		s.audit(asked, err)
	}
	if err != nil && ctx.Err() != nil { // out may still be written to
		return Command{}, err
	}
	return out, err
}

// fromMQTT parses a PUBLISH on v1/{vin}/cmd/{id}/{name}. The message expiry is the time to live; without one the
// default applies.
func (s *Service) fromMQTT(rec *message.Record, c Caller) (Request, error) {
	vin, _, rest := message.SplitTopic(strings.Clone(rec.Topic)) // the topic may alias a buffer of the connection
	id, name, _ := strings.Cut(rest, "/")
	c.Origin = OriginMQTT
	r := Request{
		ID: id, VIN: vin, Name: name, Payload: bytes.Clone(rec.Payload), JSON: json.Valid(rec.Payload), Caller: c, named: true,
		props: propertiesOf(&rec.Props),
	}
	var err error
	if r.Urgent, err = r.props.urgent(); err != nil {
		return r, err
	}
	if rec.Props.HasExpiry {
		r.TTL = max(time.Duration(rec.Props.Expiry)*time.Second, time.Second)
	}
	return r, s.check(&r)
}

// Submit decides on a command that a client published and answers once the decision is on disk. It calls answer exactly
// once, with the reason code and reason string of the acknowledgement (MQTT 5, 3.4.2), from any goroutine and perhaps
// before it returns. answer must not block. If Submit returns an error, it never calls answer.
//
// A client that is not refusable (MQTT 3.1.1) cannot receive a refusal code: it gets 0, and the refusal is an event on
// vehicle.command-results. Refusals for the topic and decisions that could not be written are answered with their code
// even so. Submit waits for room in the inbox, never for the disk. It does not keep the record.
func (s *Service) Submit(ctx context.Context, rec *message.Record, c Caller, refusable bool, answer func(reason byte, text string)) error {
	r, found := s.fromMQTT(rec, c)
	r.came = time.Now()
	if found != nil && (refusable || ofTopic(found)) {
		s.auditRequest(&r, false, found)
		answer(acknowledgement(found))
		return nil
	}
	err := s.enter(ctx, r.VIN, &request{
		id: r.ID, run: func(b *batch) error {
			_, _, err := b.take(&r, found, !refusable)
			return err
		},
		then: func(err error) {
			if undecided(err) {
				s.auditRequest(&r, false, err)
			} else if !refusable {
				err = nil
			}
			answer(acknowledgement(err))
		},
	}, func(ctx, waits context.Context) (*held, error) {
		if found == nil {
			found = s.decide(ctx, waits, &r)
		}
		return r.held(), unknown(found)
	})
	return err
}

// ofTopic reports whether a command is refused because of its topic.
func ofTopic(err error) bool { return errors.Is(err, errTopic) || errors.Is(err, errNotPermitted) }

// Reason codes of PUBACK and PUBREC (MQTT 5, 3.4.2.1). The remaining ones are 0x10, 0x91 and 0x99.
const (
	reasonSuccess        byte = 0x00
	reasonUnspecified    byte = 0x80 // the decision could not be written: retry
	reasonImplementation byte = 0x83 // valid but not accepted: a conflict, a time to live out of range
	reasonNotAuthorized  byte = 0x87
	reasonTopicInvalid   byte = 0x90 // invalid id or name
	reasonQuota          byte = 0x97 // a bound: the vehicle's queue, the gateway, a command's size
)

// acknowledgement returns the reason code and the reason string for the outcome of a request.
func acknowledgement(err error) (reason byte, text string) {
	if err == nil {
		return reasonSuccess, ""
	}
	v := verdictOn(err)
	switch {
	case v.code == reasonUnspecified || v.label == "other": // the cause is the gateway's own
		return v.code, "whether the command was accepted is unknown: " + v.do
	case v.do == "":
		return v.code, err.Error()
	}
	return v.code, err.Error() + ": " + v.do
}
