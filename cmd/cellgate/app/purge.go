package app

import (
	"context"
	"errors"
	"log/slog"

	"cellgate/auth"
	"cellgate/broker/command"
	"cellgate/broker/session"
	"cellgate/broker/shared/message"
)

// purges delete what waits for a vehicle whose tokens were revoked with purge: its session with the queue at once, then
// its commands that have not been sent. These would otherwise reach the next client that connects as the vehicle.
type purges struct {
	sessions func(match func(session.Owner) bool)
	commands *command.Service
	waiting  chan string
	log      *slog.Logger
}

// maxPurges bounds the vehicles whose commands are still to be cancelled. Commands of further ones are left to expire.
const maxPurges = 10_000

func newPurges(sessions func(func(session.Owner) bool), commands *command.Service, log *slog.Logger) *purges {
	return &purges{sessions: sessions, commands: commands, waiting: make(chan string, maxPurges), log: log}
}

// add purges a subject. It runs on the authority's goroutine, so it leaves the commands, each a commit, to run.
func (p *purges) add(r auth.Revocation) {
	p.sessions(func(o session.Owner) bool {
		subject, role, issuer := message.SplitSessionKey(string(o))
		if role == "" {
			role, issuer = auth.RoleVehicle, r.Issuer // a vehicle is the same under every issuer
		}
		return r.Names(issuer, role, subject)
	})
	if !r.Names(r.Issuer, auth.RoleVehicle, r.Subject) {
		return // only vehicles have commands
	}
	select {
	case p.waiting <- r.Subject:
	default:
		p.log.Warn("too many purges at once: commands are left to expire", slog.String("vin", r.Subject))
	}
}

func (p *purges) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case vin := <-p.waiting:
			if err := p.cancelCommands(ctx, vin); err != nil && ctx.Err() == nil {
				p.log.Error("not all commands of a purged vehicle are cancelled", slog.String("vin", vin), slog.Any("err", err))
			}
		}
	}
}

func (p *purges) cancelCommands(ctx context.Context, vin string) error {
	// First take back the commands that were in the session's queue.
	if err := p.commands.Sync(ctx); err != nil {
		return err
	}
	by := command.Caller{By: "purge", Origin: command.OriginGateway}
	filter := command.Filter{VIN: vin, State: command.Queued, Limit: command.MaxPage}
	for {
		page, next, err := p.commands.List(ctx, filter)
		if err != nil {
			return err
		}
		for _, c := range page {
			// A command that was sent, answered or has expired meanwhile cannot be cancelled.
			if _, err := p.commands.Cancel(ctx, by, vin, c.ID); err != nil && !errors.Is(err, command.ErrNotFound) && !errors.Is(err, command.ErrNotCancellable) {
				return err
			}
		}
		if filter.Cursor = next; next == "" {
			return nil
		}
	}
}
