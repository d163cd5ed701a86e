package webhook

import (
	"slices"
	"strings"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
	"cellgate/rules/op"
)

const kind op.SinkKind = "webhook"

// Target describes the configured HTTP endpoints.
var Target = op.Target{
	Kind: kind,
	Keys: []op.Key{
		{Name: "name", Value: op.PlaceValue("an endpoint of the configuration's webhooks"), Need: "name: crm, an endpoint of the configuration's webhooks"},
		{Name: "headers", Value: op.NoneValue()},
	},
	New:    newTarget,
	View:   view,
	Expect: []string{"name", "value", "headers"},
	Reference: "`webhook: {name: crm}`: a signed POST to the endpoint `crm` of the configuration's `webhooks`, at least once, in order " +
		"per vehicle. `headers: none` sends no header that identifies the vehicle. See [Webhooks](#webhooks).",
}

// target renders request bodies.
type target struct {
	name      string
	transform *expr.Value // nil: the payload
	bare      bool
}

func newTarget(a *op.Args) op.Sender {
	s, known := a.Scalar("name"), a.Env().Webhooks
	if s == nil {
		return nil // already reported
	}
	if known != nil && !a.Env().Stored && !slices.Contains(known, s.Value) {
		suggestion := "define it: webhooks: {" + s.Value + ": {url: …, keys: […]}}"
		if len(known) > 0 {
			suggestion = doc.DidYouMean(s.Value, known) + ", or " + suggestion
		}
		a.Fail(s, doc.CodeEndpoint, strings.TrimPrefix(suggestion, ", or "), "the configuration has no webhook %q", s.Value)
		return nil
	}
	return &target{name: s.Value, transform: a.Transform(), bare: a.None("headers")}
}

// Render implements Sender.
func (t *target) Render(sc *expr.Scope, r *op.Rendered) error {
	r.Topic, r.Bare = t.name, t.bare
	return r.Body(sc, t.transform)
}

func view(r *op.Rendered) map[string]any {
	v := map[string]any{"name": r.Topic, "value": op.PayloadView(r.Value)}
	if !r.Bare {
		v["headers"] = r.HeadersView()
	}
	return v
}
