package spans

import (
	"cmp"

	"go.opentelemetry.io/otel/attribute"
	otel "go.opentelemetry.io/otel/trace"

	"cellgate/broker/command"
)

// Command handles a state change of a command. The time in the previous state becomes a span, and at the end so does
// the whole command. It does not block.
func (e *Exporter) Command(change command.Change) {
	if e == nil {
		return
	}
	c := &change.Command
	at, sampled := e.o.Sampling.Command(c.ID, change.Parent)
	if !sampled || c.State == command.Late {
		return
	}
	whole := at.CommandSpan(c.ID, "command")
	before, since := stateBefore(c)
	now := cmp.Or(stampOf(c, c.State), c.FinishedAt)
	if before != "" {
		e.emit(&span{
			at: at.CommandSpan(c.ID, string(before)), parent: whole.Span, name: "command " + string(before), kind: kindOf(before),
			begin: since.Time(), end: now.Time(), attributes: aboutCommand(c),
		})
	}
	if !c.State.Final() {
		return
	}
	s := &span{at: whole, parent: at.Span, name: "command", kind: otel.SpanKindServer, begin: c.CreatedAt.Time(), end: now.Time(), attributes: aboutCommand(c)}
	if c.State != command.Succeeded {
		s.failed = string(c.State) + " " + c.Cause
	}
	e.emit(s)
}

// stampOf returns when a command reached a state that is not final.
func stampOf(c *command.Command, s command.State) command.Stamp {
	switch s {
	case command.Queued:
		return c.CreatedAt
	case command.Sent:
		return c.SentAt
	case command.Delivered:
		return c.DeliveredAt
	case command.Accepted:
		return c.AcceptedAt
	}
	return 0
}

// stateBefore returns the last state with a time before the present one, and that time.
func stateBefore(c *command.Command) (before command.State, since command.Stamp) {
	for _, s := range []command.State{command.Queued, command.Sent, command.Delivered, command.Accepted} {
		if s == c.State {
			break
		}
		if at := stampOf(c, s); at != 0 {
			before, since = s, at
		}
	}
	return before, since
}

// kindOf returns producer for the time in which the command travels to the vehicle, whose own span continues it.
func kindOf(s command.State) otel.SpanKind {
	if s == command.Sent {
		return otel.SpanKindProducer
	}
	return otel.SpanKindInternal
}

func aboutCommand(c *command.Command) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attribute.String("cellgate.command.id", c.ID), attribute.String("cellgate.command.name", c.Name), attribute.String("cellgate.vin", c.VIN),
		attribute.String("cellgate.command.state", string(c.State)),
	}
	if c.Cause != "" {
		all = append(all, attribute.String("cellgate.reason", c.Cause))
	}
	return all
}
