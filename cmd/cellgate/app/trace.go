package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"cellgate/auth"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/problem"
	"cellgate/broker/shared/spelling"
	"cellgate/broker/shared/trace"
	"cellgate/configs"
	"cellgate/rules/lang"
	"cellgate/rules/state"
	"cellgate/rules/workbench"
)

func newTraces(j *journal.Journal) *trace.Traces {
	return trace.New(trace.Options{
		Max: configs.MaxTracers, WaitDurable: j.WaitDurable, Durable: j.Durable,
		Bounds: trace.Bounds{
			PerSecond: configs.TraceStepsPerSecond, Steps: configs.TraceBufferSteps, Bytes: configs.TraceBufferBytes, Messages: configs.TraceMessages,
		},
	})
}

func traceReadings(t *trace.Traces) *metric.Readings {
	r := &metric.Readings{}
	tracers := r.Add("tracers", "Open traces (GET /v1/trace).")
	limit := r.Add("tracers_limit", "Bound of tracers.")
	dropped := r.Add("trace_dropped_total", "Steps that a trace omitted because of its rate or buffer.")
	r.Read = func(to metric.Sample) {
		to.Gauge(tracers, float64(t.Tracers()))
		to.Gauge(limit, configs.MaxTracers)
		to.Counter(dropped, float64(t.Dropped()))
	}
	return r
}

// explainSteps returns what each rule with a matching topic does with a message.
func explainSteps(set *lang.Set, rec *message.Record, known *state.State) []trace.Step {
	x := workbench.Explain(set, rec, known)
	steps := make([]trace.Step, len(x.Rules))
	for i := range x.Rules {
		r := &x.Rules[i]
		s := trace.Step{Rule: r.ID, Outcome: trace.Stopped, Stage: r.Stage, Reason: r.Reason}
		switch {
		case r.Stage == "error":
			s.Outcome = trace.Failed
		case r.Matched:
			s.Outcome = trace.Matched
		}
		if len(r.Values) > 0 {
			s.Values, _ = json.Marshal(r.Values) //nolint:errcheck // values of expressions are always JSON
		}
		steps[i] = s
	}
	return steps
}

// getTrace streams what happens to messages, step by step, until the client ends it.
func (a *gateway) getTrace(w http.ResponseWriter, r *http.Request) {
	f, err := a.traceFilter(r.URL.Query())
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "", err.Error(), nil)
		return
	}
	feed, expires := a.enter(w, r)
	if feed == nil {
		return
	}
	defer a.gate.Leave(feed)
	tracer, err := a.traces.Begin(f, ownerOf(r))
	if err != nil {
		text := fmt.Sprintf("%d trace is open, which is the maximum: end one of them", configs.MaxTracers)
		if errors.Is(err, trace.ErrShare) {
			text = fmt.Sprintf("%d of at most %d traces are yours, and the rest is for others: end one of them", configs.MaxTracers/2, configs.MaxTracers)
		}
		w.Header().Set("Retry-After", "10")
		problem.Write(w, http.StatusTooManyRequests, "", text, nil)
		return
	}
	defer tracer.End()
	a.auditTrace(r, "began")
	sent, began := 0, time.Now()
	defer func() {
		a.auditTrace(r, fmt.Sprintf("ended after %s, %d steps", time.Since(began).Round(time.Second), sent))
	}()
	ctx, last := feed.Until(r.Context(), expires)
	stream := newEventStream(w)
	for steps := []trace.Step(nil); ctx.Err() == nil; sent += len(steps) {
		if stream.send(steps) != nil { // the first call opens the stream
			break
		}
		idle, cancel := context.WithTimeout(ctx, eventsIdle)
		steps = tracer.Next(idle)
		cancel()
	}
	if end := last(); end != nil {
		_ = stream.write(end) //nolint:errcheck // nothing follows
	}
}

func (a *gateway) auditTrace(r *http.Request, outcome string) {
	a.audit.Write(auth.AuditEvent{
		At: time.Now(), Event: auth.AuditTrace, Subject: r.URL.Query().Get("vin"), Caller: auth.CallerOf(r),
		What: r.Method + " " + r.URL.RequestURI(), Outcome: outcome,
	})
}

// traceFilter returns the filter of a request.
func (a *gateway) traceFilter(q url.Values) (trace.Filter, error) {
	for name := range q {
		if name != "vin" && name != "topic" && name != "rule" {
			return trace.Filter{}, fmt.Errorf("unknown parameter %s: use vin, topic or rule", strconv.Quote(name))
		}
	}
	f := trace.Filter{VIN: q.Get("vin"), Topic: q.Get("topic"), Rule: q.Get("rule")}
	if f.VIN == "" && f.Topic == "" && f.Rule == "" {
		return f, errors.New("select messages by vin, topic or rule")
	}
	if f.Topic != "" {
		if err := message.ValidFilter(f.Topic); err != nil {
			return f, fmt.Errorf("topic: %w", err)
		}
	}
	if f.Rule != "" {
		f.From = a.topicsOf(f.Rule)
		if f.From() == nil {
			return f, fmt.Errorf("no rule %q is in force%s; `cellgate rules status` lists them", f.Rule, a.nearRule(f.Rule))
		}
	}
	return f, nil
}

// nearRule returns the rule that a mistyped name resembles.
func (a *gateway) nearRule(id string) string {
	var ids []string
	if set := a.rules.current(); set != nil {
		for _, info := range set.Rules() {
			ids = append(ids, info.ID)
		}
	}
	if near := spelling.Nearest(id, ids); near != "" {
		return ": did you mean " + near + "?"
	}
	return ""
}

// topicsOf returns the present topic filters of a rule, nil when it is gone.
func (a *gateway) topicsOf(rule string) func() []string {
	type known struct {
		set  *lang.Set
		from []string
	}
	var last atomic.Pointer[known]
	return func() []string {
		set := a.rules.current()
		if k := last.Load(); k != nil && k.set == set {
			return k.from
		}
		k := &known{set: set}
		if set != nil {
			for _, info := range set.Rules() {
				if info.ID == rule {
					k.from = info.From
				}
			}
		}
		last.Store(k)
		return k.from
	}
}
