package app

import (
	"context"
	"log/slog"

	"cellgate/broker"
)

// openFanout opens the loop between the journal and MQTT clients, the last of the journal's consumers.
func (a *App) openFanout(context.Context) (err error) {
	a.fanout, err = broker.NewFanout(broker.FanoutOptions{
		Journal: a.journal, Sessions: a.sessions, Commands: a.commands, Log: a.log, Metrics: broker.NewFanoutMetrics(a.reg.own),
	})
	if err == nil {
		a.journal.Forget(opening)
	}
	return err
}

// startFanout restores what sessions were in the middle of, before any client connects, and then runs the
// loop. The loop outlives the listeners: what they journaled last is fanned out too.
func (a *App) startFanout(ctx context.Context) error {
	if err := a.fanout.Replay(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.fanout.Run(ctx); err != nil {
			a.log.Error("fan-out failed", slog.Any("error", err))
			a.die(err)
		}
	}()
	a.life.onStop("fan-out", stopDisk, func(limit context.Context) error {
		cancel()
		<-done
		return a.fanout.Close(limit)
	})
	return nil
}
