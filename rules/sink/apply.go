package sink

import (
	"context"
	"errors"
	"fmt"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
)

// enter puts another rule set in force. If its source is missing or no longer compiles, the current one stays in force
// and the dispatcher reports that.
func (d *Dispatcher) enter(hash string, seq uint64) {
	set, index, err := d.sets.enter(hash, seq)
	if err != nil {
		d.o.Log.Error("rule set cannot be used; the previous one stays in force", "hash", hash, "seq", seq, "err", err)
		d.setHealth(err)
		return
	}
	d.use(set, index)
	d.o.Log.Info("rule set in use", "hash", hash, "seq", seq, "rules", len(set.ids))
}

func (d *Dispatcher) use(set *ruleSet, index uint32) {
	ids := set.ids
	d.counts.before = d.countRules()
	workers := set.workers(d.state, d.o.Workers)
	s := setInUse{set: set, index: index, hash: set.hash, worker: workers[0]}
	d.rounds.use(workers)
	counters := make([]engine.Counter, len(workers))
	for i, w := range workers {
		counters[i] = w
	}
	d.limits.Use(set.Compiled, counters)
	d.env.deliveries.use(ids)
	d.o.Metrics.forget(d.current.set, ids)
	for _, id := range ids {
		s.matched = append(s.matched, d.o.Metrics.ruleMatched.WithLabelValues(id))
		s.failed = append(s.failed, d.o.Metrics.ruleErrors.WithLabelValues(id))
	}
	d.current = s
	d.departures.remembers.Store(len(set.Set.OperKeys) > 0)
	d.noteLimits()
	d.announce(set)
}

// announce passes the set's topics to the sinks.
func (d *Dispatcher) announce(set *ruleSet) {
	for _, p := range d.pipelines {
		p.sink.Announce(Topics(set.Set, p.sink.Kind()))
	}
}

// ApplyRules compiles a source and puts it in force for everything that is journaled from now on. It returns when
// the change is durable. Applying the same source again changes nothing. After an error nothing has changed; a
// doc.Diagnostics error names the places. Exception: if the journal cannot tell whether it has taken the change, the
// set in force is unknown until rules are applied again.
func (d *Dispatcher) ApplyRules(ctx context.Context, src *lang.Source) error {
	d.applyMu.Lock()
	defer d.applyMu.Unlock()
	source := src.Marshal()
	set, err := d.sets.compile(source)
	if err != nil {
		return err
	}
	if set.hash == d.applied && !d.unsure {
		return nil
	}
	for _, k := range set.kinds() {
		if d.pipelineOf(k) == nil {
			return fmt.Errorf("%w: %s; configure it, or remove the targets", ErrNoSink, k)
		}
	}
	d.unsure = true
	if err := d.sets.announce(set, source); err != nil {
		return err
	}
	recs := []message.Record{{Kind: message.KindRuleSet, Payload: []byte(set.hash)}}
	seq, err := d.o.Journal.Append(recs, nil)
	if err != nil {
		return fmt.Errorf("apply rules: %w", err)
	}
	if err := d.o.Journal.WaitDurable(ctx, seq); err != nil {
		return fmt.Errorf("apply rules: %w", err)
	}
	d.announce(set)
	d.applied, d.unsure = set.hash, false
	return d.o.DB.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketDispatch)
		return errors.Join(b.Put(keyApplied, []byte(d.applied)), b.Delete(keyApplying))
	})
}
