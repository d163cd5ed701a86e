package app

import (
	"encoding/json"
	"net/http"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/problem"
	"cellgate/rules/workbench"
)

// explainRules tells what the rules in force would do with a message of a vehicle without history.
func (a *gateway) explainRules(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Topic         string          `json:"topic"`
		Payload       json.RawMessage `json:"payload"`
		PayloadBase64 []byte          `json:"payload_base64"`
		ReceivedAt    time.Time       `json:"received_at"`
		QoS           byte            `json:"qos"`
		Retain        bool            `json:"retain"`
	}
	if !readJSON(w, r, &body) {
		return
	}
	if err := message.ValidTopic(body.Topic); err != nil {
		problem.Write(w, http.StatusBadRequest, "", "topic: "+err.Error(), nil)
		return
	}
	if body.ReceivedAt.IsZero() {
		body.ReceivedAt = time.Now()
	}
	rec := &message.Record{
		Kind: message.KindPublish, Seq: 1, Topic: body.Topic, Payload: body.Payload, ReceivedAt: body.ReceivedAt.UnixMilli(),
		QoS: body.QoS, Retain: body.Retain,
	}
	rec.Client = rec.VIN()
	if len(body.Payload) == 0 {
		rec.Payload = body.PayloadBase64
	}
	set := a.rules.current()
	if set == nil {
		problem.Write(w, http.StatusServiceUnavailable, "", "no rules are in force yet", nil)
		return
	}
	writeJSON(w, http.StatusOK, workbench.Explain(set, rec, nil))
}
