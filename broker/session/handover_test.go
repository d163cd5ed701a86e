package session

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/model"
)

const (
	mover   = "V"
	movedID = 7
)

// movingCell is a cell with two gateways and a Redis that may be away.
type movingCell struct {
	t        *testing.T
	gateways []*movingGateway
	away     bool
	owner    *movingGateway
	session  []byte
	claims   uint64
	written  bool // gateways write their sessions before they are killed
}

// movingGateway is one gateway, as its sessions see the cell.
type movingGateway struct {
	noCell
	*env
	cell   *movingCell
	synced uint64 // its journal is durable up to here
	conn   *conn
	claim  uint64
}

func (g *movingGateway) Claim(context.Context, string) Claim {
	c := g.cell
	c.claims++
	g.claim = c.claims
	out := Claim{Number: g.claim}
	if c.away {
		return out
	}
	out.Known, out.Here, out.Session = true, c.owner == nil || c.owner == g, c.session
	c.owner = g
	return out
}

func newMovingCell(t *testing.T, gateways int) *movingCell {
	t.Helper()
	c := &movingCell{t: t}
	for range gateways {
		g := &movingGateway{cell: c}
		g.env = newEnv(t, func(o *Options) { o.Cell = g })
		c.gateways = append(c.gateways, g)
	}
	return c
}

// play plays a step, and returns what the model must have said of it: whether the session is present, or a PUBLISH a repeat.
func (c *movingCell) play(s *model.HandoverStep) (said bool) {
	c.t.Helper()
	g := c.gateways[s.Gateway]
	switch s.Kind {
	case model.HandoverConnects:
		for _, other := range c.gateways {
			if other.conn != nil {
				other.conn.detach(false)
				other.conn = nil
			}
		}
		g.conn, said = g.attach(mover, vehicle)
	case model.HandoverPublishes:
		return c.publish(g, s)
	case model.HandoverSyncs:
		g.synced = g.journal.Last()
	case model.HandoverAcknowledges:
	case model.HandoverReleases:
		g.release2(g.conn, movedID)
	case model.HandoverStores:
		session, needs, has := g.m.Portable(mover)
		if !has || needs > g.synced {
			c.t.Errorf("stored: a session %v, needs %d of %d", has, needs, g.synced)
		}
		c.session = session
	case model.HandoverHears:
		g.m.Moved(mover, g.claimed())
	case model.HandoverClaims:
		c.owner = g
	case model.HandoverKilled, model.HandoverPowerCut:
		if c.written {
			g.write()
		}
		if s.Kind == model.HandoverPowerCut {
			g.journal.lose(g.synced)
		}
		g.kill()
		g.conn, g.synced = nil, g.journal.Last()
	case model.HandoverRedisAway:
		c.away = true
	case model.HandoverRedisBack:
		c.away = false
	}
	return said
}

// write fans out what is durable, and writes the sessions.
func (g *movingGateway) write() {
	g.cell.t.Helper()
	for _, rec := range g.journal.from(g.m.fan.reached + 1) {
		if rec.Seq <= g.synced {
			g.m.Fanout(&rec)
		}
	}
	check.OK(g.cell.t, g.m.writer.wait(g.cell.t.Context(), g.m.writer.afterAll))
}

// claimed returns the claim of the gateway's session; 0 for one of an earlier run.
func (g *movingGateway) claimed() uint64 {
	if st := g.m.lookup(mover); st != nil {
		return st.claim
	}
	return 0
}

func (c *movingCell) publish(g *movingGateway, s *model.HandoverStep) (repeat bool) {
	const topic = "v1/V/up/a"
	payload := fmt.Appendf(nil, "message %d", s.Message)
	if _, repeat = g.conn.s.ReceiveQoS2(movedID, s.Dup, topic, payload); repeat {
		return true
	}
	recs := []message.Record{{Kind: message.KindPublish, Client: mover, Topic: topic, Payload: payload, QoS: 2, PacketID: movedID}}
	_, err := g.journal.Append(recs)
	check.OK(c.t, err)
	g.conn.s.JournaledQoS2(movedID, recs[0].Seq)
	return false
}

func killed(s model.HandoverStep) bool {
	return s.Kind == model.HandoverKilled || s.Kind == model.HandoverPowerCut
}

// TestHandover plays the model's histories of a vehicle that moves with an open QoS 2 exchange. Each has the outcome that the model
// says.
func TestHandover(t *testing.T) {
	t.Parallel()
	histories, err := model.HandoverHistories(model.HandoverCase{Gateways: 2, Messages: 2, Connects: 3, Kills: 1, Cuts: 1, Absences: 1, States: 5e6}, 10)
	check.OK(t, err)
	if len(histories) < 200 {
		t.Errorf("%d histories: the case is too small", len(histories))
	}
	for i, history := range histories {
		for _, written := range []bool{true, false} {
			if written && !slices.ContainsFunc(history, killed) {
				continue
			}
			t.Run(fmt.Sprintf("%d, written %v", i, written), func(t *testing.T) {
				t.Parallel()
				c := newMovingCell(t, 2)
				c.written = written
				for at, step := range history {
					if said := c.play(&step); said != (step.Present || step.Repeat) {
						t.Fatalf("step %d is otherwise:\n%v", at+1, history)
					}
				}
			})
		}
	}
}
