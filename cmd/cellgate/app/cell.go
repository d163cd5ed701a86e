package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/broker/shared/stable"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
)

// peers adds what connects this gateway to the other gateways of the cell.
type peers struct {
	*disk
	liveness *liveness
	// The rest is nil in a cell with one gateway: there, nothing that a client waits for calls Redis.
	member  *member
	claims  *claims
	numbers *cellPresence
	asks    *asks

	cellStats *cellMetrics
}

// Buckets and keys of the cell in the state file.
var (
	bucketCell  = []byte("cell")
	keyIdentity = []byte("identity")
	bucketSlots = []byte("slots") // what this gateway remembers, by slot
)

// identity distinguishes a data_dir from others, and its boots from each other.
type identity struct {
	Dir   string `json:"dir"`
	Boots uint64 `json:"boots"`
}

func openPeers(d *disk) (*peers, error) {
	if _, err := joinKey(d.cfg); err != nil {
		return nil, err
	}
	client, err := d.cellClient()
	if err != nil {
		return nil, err
	}
	d.life.onStop("redis of the cell", stopShort, func(context.Context) error { return client.Close() })
	confirm := cell.Confirmation{Replicas: d.cfg.Redis.Replicas, Wait: d.cfg.Redis.ConfirmTimeout.Std()}
	store, err := cell.NewStore(client, d.cfg.Cell.ID, confirm, d.cfg.Commands.KeepFor.Std())
	if err != nil {
		return nil, err
	}
	self, err := d.identify()
	if err != nil {
		return nil, err
	}
	p := &peers{disk: d, liveness: &liveness{store: store, self: self, log: d.log}}
	d.life.onStop("place in the cell", stopShort, p.liveness.leave)
	if !d.cfg.Cell.Several() {
		return p, nil
	}
	if p.member, err = openMember(store, self, confirm.Wait, d.db, d.log); err != nil {
		return nil, err
	}
	p.member.living = p.liveness.alive
	p.cellStats = newCellMetrics(d.reg.own)
	p.member.metrics = p.cellStats
	p.claims = newClaims(p)
	p.member.owner = p.claims.connection
	p.numbers = newCellPresence(p, p.claims)
	p.claims.presence = p.numbers
	p.asks = newAsks(p.member, p.liveness)
	return p, nil
}

// cellClient returns a client for the state that the gateways share. Its timeout covers a wait for the replicas.
func (p *process) cellClient() (redis.UniversalClient, error) {
	own := p.cfg.Redis
	own.PoolSize = max(own.PoolSize, configs.CellPool)
	own.Timeout = configs.Duration(own.ConfirmTimeout.Std() + configs.CellTimeout)
	return p.redis.client(&own)
}

// minJoinKey is the shortest secret of the gateways, in bytes.
const minJoinKey = 16

// joinKey reads the secret shared by the gateways of the cell; nil without one.
func joinKey(c *configs.Config) ([]byte, error) {
	if c.Cell.JoinKey == "" {
		return nil, nil
	}
	data, err := stable.ReadFile(string(c.Cell.JoinKey))
	if err != nil {
		return nil, fmt.Errorf("cell.join_key: %w", err)
	}
	key := bytes.TrimSpace(data)
	if len(key) < minJoinKey {
		return nil, fmt.Errorf("cell.join_key: %s has %d bytes: use %d or more, for example of openssl rand -hex 32", c.Cell.JoinKey, len(key), minJoinKey)
	}
	return key, nil
}

// identify returns the identity of this run of the gateway, and counts the run.
func (d *disk) identify() (cell.Gateway, error) {
	var id identity
	err := d.db.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketCell)
		if err != nil {
			return err
		}
		if v := b.Get(keyIdentity); v != nil {
			if err := json.Unmarshal(v, &id); err != nil {
				return err
			}
		}
		if id.Boots++; id.Dir == "" {
			id.Dir = randomName()
		}
		data, err := json.Marshal(id)
		if err != nil {
			return err
		}
		return b.Put(keyIdentity, data)
	})
	if err != nil {
		return cell.Gateway{}, fmt.Errorf("data_dir: state.db: the gateway's identity: %w", err)
	}
	return cell.Gateway{
		Node: d.cfg.Cell.Node, Boot: randomName(), Dir: id.Dir, Boots: id.Boots, Start: d.started, Mode: d.cfg.Cell.Gateways,
	}, nil
}

// randomName returns a unique name.
func randomName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Runs is a gateway's published description of itself.
type Runs struct {
	Address string `json:"address"` // of its API
	Version string `json:"version"`
	Rules   string `json:"rules"` // hash of the rule set
	// Config has hashes of those sections of the configuration that must be the same at all gateways.
	Config      map[string]string `json:"config"`
	Phase       string            `json:"phase"`
	Connections int               `json:"connections"`
}

// runs returns the Runs of this gateway as JSON.
func (a *App) runs() string {
	data, err := json.Marshal(Runs{
		Address: a.apiURL(), Version: a.build.Version, Rules: a.rules.hash(), Config: a.Config().Alike(),
		Phase: a.phaseName(), Connections: a.broker.Connections(),
	})
	if err != nil {
		return "{}" // strings and a number: never fails
	}
	return string(data)
}

// onNotice handles a notice of another gateway.
func (a *App) onNotice(ctx context.Context, text string) {
	word, rest, _ := strings.Cut(text, " ")
	a.cellStats.received(word)
	switch word {
	case cell.NoticeTaken:
		a.claims.onNotice(ctx, rest)
	case noticeMembers:
		_ = a.liveness.beat(ctx, configs.CellTimeout) // otherwise learn would add the gateway that is gone again
		a.member.joinAgain()
	case "ask", "answer":
		a.asks.onNotice(word, rest)
	}
}

// apiURL returns the address of the API as published to other gateways. It works before the address is bound.
func (a *App) apiURL() string {
	if a.http.addr != nil {
		return a.HTTPURL()
	}
	return a.cfg.HTTP.Address
}

// admitted reports, as an error, why this gateway may not run next to those that run already, or with this Redis.
func (a *App) admitted(ctx context.Context) error {
	if err := a.liveness.begin(ctx, a.runs); err != nil || a.member == nil {
		return err
	}
	if err := a.member.check(ctx); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
	defer cancel()
	if err := a.keys.exchange(limit); err != nil { // so that their tokens are accepted from the first CONNECT on
		a.log.Warn("keys of the other gateways not reloaded; the previous ones stay in force", slog.Any("err", err))
	}
	return nil
}

// startPeers starts the heartbeat and the other threads of a gateway in a cell. The address of the API is known by
// then.
func (a *App) startPeers() {
	a.background("liveness", func(ctx context.Context) { a.liveness.run(ctx, a.fail) })
	if a.member == nil {
		return
	}
	a.background("membership", func(ctx context.Context) { a.member.run(ctx, time.Second) })
	a.asks.answer = a.answer
	a.background("keys of the cell", a.keys.run)
	a.background("claims", a.claims.run)
	a.background("notices", func(ctx context.Context) {
		for ctx.Err() == nil { // a subscription may be left at a server that nobody notifies any more
			here, cancel := a.member.untilTurned(ctx)
			a.member.store.Listen(here, a.cfg.Cell.Node, a.claims.doubt, func(text string) { a.onNotice(ctx, text) })
			cancel()
		}
	})
	a.background("ends of sessions", a.numbers.watch)
	a.background("sessions of the cell", a.claims.storeAll)
	a.background("presence of the cell", a.numbers.run)
}
