package app

import (
	"encoding/json"
	"net/http"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/problem"
	"cellgate/rules/lang"
	"cellgate/rules/workbench"
)

// explainRules answers what the rules in force would do with a message, or with a vehicle's last one, given the
// operators' present state of the vehicle.
func (a *gateway) explainRules(w http.ResponseWriter, r *http.Request) {
	var body struct {
		VIN           string          `json:"vin"`
		Topic         string          `json:"topic"`
		Payload       json.RawMessage `json:"payload"`
		PayloadBase64 []byte          `json:"payload_base64"`
		ReceivedAt    time.Time       `json:"received_at"`
		QoS           byte            `json:"qos"`
		Retain        bool            `json:"retain"`
		// Files are rules to use instead of those in force.
		Files map[string]string `json:"files"`
	}
	if !readJSON(w, r, &body) {
		return
	}
	leave, err := a.drafts.enter(r.Context(), ownerOf(r))
	if err != nil {
		return // the caller has disconnected
	}
	defer leave()
	rec := &message.Record{Kind: message.KindPublish, Seq: 1, Topic: body.Topic, Payload: body.Payload, QoS: body.QoS, Retain: body.Retain}
	if body.VIN != "" && body.Topic == "" {
		var ok bool
		if rec, ok = a.lastOf(w, body.VIN); !ok {
			return
		}
	} else {
		if err := message.ValidTopic(body.Topic); err != nil {
			problem.Write(w, http.StatusBadRequest, "", "topic: "+err.Error(), nil)
			return
		}
		if body.ReceivedAt.IsZero() {
			body.ReceivedAt = time.Now()
		}
		rec.ReceivedAt, rec.Client = body.ReceivedAt.UnixMilli(), rec.VIN()
		if len(body.Payload) == 0 {
			rec.Payload = body.PayloadBase64
		}
	}
	set, ok := a.setFor(w, body.Files)
	if !ok {
		return
	}
	x := workbench.Explain(set, rec, a.dispatch.Known(rec.VIN()))
	for _, h := range a.rules.held() {
		x.Hold(h.Rule, h.Limit)
	}
	writeJSON(w, http.StatusOK, x)
}

// setFor returns the rule set of the files, or without files the one in force. On an error it answers and returns
// false.
func (a *gateway) setFor(w http.ResponseWriter, files map[string]string) (*lang.Set, bool) {
	if files == nil {
		set := a.rules.current()
		if set == nil {
			problem.Write(w, http.StatusServiceUnavailable, "", "no rules are in force yet", nil)
		}
		return set, set != nil
	}
	f, err := (&RuleFiles{Files: files}).folder()
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "", err.Error(), nil)
		return nil, false
	}
	set, found := lang.Compile(f.Source, a.rules.options)
	if err := found.Err(); err != nil {
		problem.Write(w, http.StatusUnprocessableEntity, "the rules are not valid", err.Error(), map[string]any{"diagnostics": found})
		return nil, false
	}
	return set, true
}

// maxExplanations bounds concurrent explanations: each may compile a rule set or read much of the journal.
const maxExplanations = 2

// lastRecords is how many records of the journal are searched for a vehicle's last message.
const lastRecords = 100_000

// lastOf returns the vehicle's last message, or answers and returns false.
func (a *gateway) lastOf(w http.ResponseWriter, vin string) (*message.Record, bool) {
	end := a.journal.Durable()
	from := a.journal.First()
	if end > lastRecords {
		from = max(from, end-lastRecords+1)
	}
	var last *message.Record
	err := a.records(from, end, func(rec *message.Record) {
		if rec.Kind == message.KindPublish && !rec.IsByRules() && rec.VIN() == vin {
			found := rec.Clone()
			last = &found
		}
	})
	switch {
	case err != nil:
		problem.Write(w, http.StatusInternalServerError, "the journal cannot be read", err.Error(), nil)
	case last == nil:
		problem.Write(w, http.StatusNotFound, "", "the newest records of the journal have no message of the vehicle; give a topic and a payload", nil)
	}
	return last, err == nil && last != nil
}

// records calls fn with the records of the journal from one sequence to another.
func (a *gateway) records(from, to uint64, fn func(*message.Record)) error {
	if to < from {
		return nil
	}
	reader, err := a.journal.NewReader(from)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	for reader.Position() < to {
		b, ok, err := reader.TryNext(0)
		if err != nil || !ok {
			return err
		}
		for i := range b.Records {
			fn(&b.Records[i])
		}
	}
	return nil
}
