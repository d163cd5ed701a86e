package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/trace"
	"cellgate/rules/engine"
	"cellgate/rules/op"
)

// deadLetterRetry is the pause before retrying a dead letter that could not be made, or that the error topic refused.
const deadLetterRetry = 10 * time.Second

// deadLetterQueue is the dead-letter queue: it sends messages that a sink refused to their rules' error topics. They stay
// pending until the error topic has them; an error topic that takes nothing is parked like any other destination.
type deadLetterQueue struct {
	p    *pipeline
	wake chan struct{}

	mu    sync.Mutex
	queue []refusal

	// Owned by run.
	src recordSource
	out op.Rendered
}

type refusal struct {
	t      Ticket
	reason string
	due    time.Time
}

// refused implements settler.
func (p *pipeline) refused(t Ticket, err error) {
	p.env.noteRefused(p.name, err)
	if p.env.trace.On() {
		p.env.trace.Settled(t.seq, t.rule, t.target, p.name, trace.RefusedBy, err.Error())
	}
	if t.dead {
		p.env.parkDeadLetter(err, &parking{t: t, owner: p})
		return
	}
	p.refusals.add(refusal{t: t, reason: err.Error()})
}

func (g *deadLetterQueue) add(r refusal) {
	g.mu.Lock()
	g.queue = append(g.queue, r)
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// take returns a refusal that is due, or the time until one is; 0 and false if there is none.
func (g *deadLetterQueue) take(now time.Time) (refusal, time.Duration, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var wait time.Duration
	for i, r := range g.queue {
		d := r.due.Sub(now)
		if d <= 0 {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			return r, 0, true
		}
		if wait == 0 || d < wait {
			wait = d
		}
	}
	return refusal{}, wait, false
}

// run sends dead letters until ctx ends.
func (g *deadLetterQueue) run(ctx context.Context) {
	defer g.src.close()
	for ctx.Err() == nil {
		r, wait, ok := g.take(time.Now())
		if ok {
			if err := g.send(ctx, r); err != nil && ctx.Err() == nil {
				g.later(r, err)
			}
			continue
		}
		g.src.close()
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-g.wake:
		case <-timer:
		case <-ctx.Done():
		}
	}
}

// later queues a refusal again: nothing is dropped.
func (g *deadLetterQueue) later(r refusal, err error) {
	g.p.log.Error("dead letter cannot be built; the message waits",
		"seq", r.t.seq, "rule", r.t.rule, "target", r.t.target, "refused", r.reason, "err", err)
	r.due = time.Now().Add(deadLetterRetry)
	g.add(r)
}

// send sends the original message to its rule's error topic.
func (g *deadLetterQueue) send(ctx context.Context, r refusal) error {
	if g.p.abandoned(r.t.seq) {
		r.t.Dropped(Retention)
		return nil
	}
	env := g.p.env
	set, err := env.sets.get(r.t.set)
	if err != nil {
		return err
	}
	rec, err := g.src.find(ctx, env.journal, r.t.seq)
	if err != nil {
		return fmt.Errorf("read record %d: %w", r.t.seq, err)
	}
	err = set.RenderDeadLetter(r.t.decision(), r.reason, rec, &g.out)
	if errors.Is(err, engine.ErrNoDeadLetter) {
		r.t.Dropped(OnErrorNone)
		return nil
	}
	if err != nil {
		return fmt.Errorf("render the dead letter: %w", err)
	}
	d := r.t.decision()
	m := Message{Record: d.Record(rec), Out: &g.out, idPrefix: env.idPrefix}
	t := r.t
	t.to, t.dead = &deadLetter{g: g, r: r}, true
	env.deadLetters.Deliver(&m, t)
	return nil
}

// deadLetter settles a message when its dead letter is settled.
type deadLetter struct {
	g *deadLetterQueue
	r refusal
}

func (b *deadLetter) settle(_ Ticket, o outcome, reason string) { b.r.t.to.settle(b.r.t, o, reason) }

func (b *deadLetter) refused(_ Ticket, err error) { b.g.p.env.parkDeadLetter(err, b.parking()) }

func (b *deadLetter) park(_ Ticket, dest string, why error) bool {
	env := b.g.p.env
	env.parkedStore.add(env.byName[deadLetterSink], dest, why, b.parking())
	return true
}

func (b *deadLetter) parking() *parking {
	return &parking{t: b.r.t, owner: b.g.p, dead: true, reason: b.r.reason}
}

// parkDeadLetter parks a dead letter that the error topic refuses: it is retried, and other messages continue.
func (env *environment) parkDeadLetter(why error, m *parking) {
	topic := env.errorTopic
	var out op.Rendered
	if set, err := env.sets.get(m.t.set); err == nil && set.RenderDeadLetter(m.t.decision(), "", &message.Record{}, &out) == nil {
		topic = out.Topic
	}
	env.parkedStore.add(env.byName[deadLetterSink], topic, why, m)
}

func (b *deadLetter) abandoned(seq uint64) bool { return b.g.p.abandoned(seq) }

// refusalInterval is the shortest time between two lines of the log about refused messages.
const refusalInterval = time.Minute

// refusals collects the messages that sinks permanently refuse, for the log.
type refusals struct {
	mu     sync.Mutex
	by     map[string]refusedBy
	logged time.Time
}

type refusedBy struct {
	n   uint64
	why string // of the last one
}

// noteRefused counts a message that goes to an error topic because its destination will never take it.
func (env *environment) noteRefused(sink string, why error) {
	env.metrics.refused.WithLabelValues(sink).Inc()
	r := &env.refusals
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[string]refusedBy)
	}
	r.by[sink] = refusedBy{r.by[sink].n + 1, why.Error()}
}

// report logs what was refused since the last line, if that is long enough ago.
func (r *refusals) report(log *slog.Logger, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.by) == 0 || now.Sub(r.logged) < refusalInterval {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(r.by)) {
		log.Warn("sink permanently refuses messages; they go to the error topic", "sink", name, "count", r.by[name].n, "last_reason", r.by[name].why)
	}
	r.by, r.logged = nil, now
}
