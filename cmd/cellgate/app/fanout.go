package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cellgate/broker"
	"cellgate/broker/session"
	"cellgate/broker/shared/remote"
)

// openLoops opens the loops from the journal to MQTT clients and to the command service. They are the last consumers of
// the journal.
func (c *clients) openLoops() (*broker.Fanout, *broker.Intake, error) {
	fanout, err := broker.NewFanout(broker.FanoutOptions{
		Journal: c.journal, Sessions: c.sessions, Log: c.log, Metrics: broker.NewTailMetrics(c.reg.own, "fanout"),
	})
	if err != nil {
		return nil, nil, err
	}
	intake, err := broker.NewIntake(broker.IntakeOptions{
		Journal: c.journal, Commands: c.commands, Sessions: c.sessions, Log: c.log,
		Metrics: broker.NewTailMetrics(c.reg.own, "command_intake"),
	})
	if err == nil {
		c.journal.Forget(opening)
	}
	return fanout, intake, err
}

// startFanout restores unfinished work of sessions and commands before any client connects, and then runs the loops.
// They stop after the listeners, so that the last messages journaled there are delivered too.
func (a *gateway) startFanout(ctx context.Context) error {
	if err := errors.Join(a.intake.Replay(ctx), a.fanout.Replay(ctx)); err != nil {
		return err
	}
	a.runLoop(ctx, "fan-out", a.fanout.Run, a.fanout.Close)
	a.runLoop(ctx, "command intake", a.intake.Run, a.intake.Close)
	return nil
}

func (a *gateway) runLoop(ctx context.Context, name string, run, end func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			a.log.Error("reading the journal failed", slog.String("loop", name), slog.Any("err", err))
			a.fail(err)
		}
	}()
	a.life.onStop(name, stopDisk, func(limit context.Context) error {
		cancel()
		select {
		case <-done:
			return end(limit)
		case <-limit.Done():
			return limit.Err()
		}
	})
}

// loopLate is how long a durable message may wait for a loop before /readyz reports it.
const loopLate = 5 * time.Second

// late appends a loop for which a message has waited too long.
func late(all []remote.Health, name, what string, lag func() (uint64, time.Duration)) []remote.Health {
	n, age := lag()
	if age < loopLate {
		return all
	}
	return append(all, remote.Health{Name: name, Since: time.Now().Add(-age).UTC(), Reason: fmt.Sprintf(
		"%d messages wait for %s, the oldest for %v", n, what, age.Round(time.Second))})
}

// delivery returns what is degraded in the delivery to MQTT clients.
func (a *gateway) delivery() []remote.Health {
	all := late(nil, "fan-out", "their subscribers", a.fanout.Lag)
	all = late(all, "command intake", "the command service: results are late", a.intake.Lag)
	if short := a.sessions.Shortages(); len(short) > 0 {
		all = append(all, shortages(short))
	}
	return all
}

// shortages returns the line of /readyz for session bounds that were reached within the last minute.
func shortages(met []session.Shortage) remote.Health {
	d := remote.Health{Name: "sessions", Since: met[0].Since.UTC()}
	var reasons []string
	for _, s := range met {
		reason := "bound " + s.Bound + " is reached"
		if s.Owner != "" {
			reason += fmt.Sprintf(" (last by %q)", string(s.Owner))
		}
		reasons = append(reasons, reason)
		if s.Since.Before(d.Since) {
			d.Since = s.Since.UTC()
		}
	}
	d.Reason = strings.Join(reasons, "; ") + ": messages or requests beyond it are refused and counted"
	return d
}
