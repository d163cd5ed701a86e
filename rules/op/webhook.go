package op

import (
	"slices"
	"strings"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// SinkWebhook are the HTTP endpoints of the configuration.
const SinkWebhook SinkKind = "webhook"

var webhook = Target{
	Kind: SinkWebhook,
	Keys: []Key{
		{Name: "name", Value: Value{schema: TextOf("an endpoint of the configuration's webhooks"), read: readText, Place: true}, Need: "name: crm, an endpoint of the configuration's webhooks"},
		{Name: "headers", Value: noneValue()},
	},
	New:    newWebhook,
	View:   webhookView,
	Expect: []string{"name", "value", "headers"},
	Reference: "`webhook: {name: crm}`: a signed POST to the endpoint `crm` of the configuration's `webhooks`, at least once, in order " +
		"per vehicle. `headers: none` sends no header that tells of the vehicle. See [Webhooks](#webhooks).",
}

// webhookTarget makes the bodies of requests.
type webhookTarget struct {
	name      string
	transform *expr.Value // nil: the payload
	bare      bool
}

func newWebhook(a *Args) Sender {
	s, known := a.scalar("name"), a.env.Webhooks
	if s == nil {
		return nil // reported
	}
	if known != nil && !a.env.Stored && !slices.Contains(known, s.Value) {
		suggestion := "define it: webhooks: {" + s.Value + ": {url: …, keys: […]}}"
		if len(known) > 0 {
			suggestion = doc.DidYouMean(s.Value, known) + ", or " + suggestion
		}
		a.d.Fail(s.Line, s.Col, doc.CodeEndpoint, strings.TrimPrefix(suggestion, ", or "), "the configuration has no webhook %q", s.Value)
		return nil
	}
	return &webhookTarget{name: s.Value, transform: a.transform(), bare: a.Text("headers") == nothing}
}

// Render implements Sender.
func (t *webhookTarget) Render(sc *expr.Scope, r *Rendered) error {
	r.Topic, r.Bare = t.name, t.bare
	return r.renderBody(sc, t.transform)
}

func webhookView(r *Rendered) map[string]any {
	v := map[string]any{"name": r.Topic, "value": jsonOrText(r.Value)}
	if !r.Bare {
		v["headers"] = headersView(r)
	}
	return v
}
