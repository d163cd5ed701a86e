package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
)

// peers are the other gateways of the cell.
type peers struct {
	*disk
	liveness *liveness
	// The rest is nil in a cell with one gateway: nothing that a client waits for calls Redis then.
	member *member
	claims *claims
	told   *cellPresence
	asks   *asks

	cellStats *cellMetrics
}

// What the cell keeps in the state file.
var (
	bucketCell  = []byte("cell")
	keyIdentity = []byte("identity")
	bucketSlots = []byte("slots") // what this gateway remembers, by slot
)

// identity tells a data_dir from others, and its boots apart.
type identity struct {
	Dir   string `json:"dir"`
	Boots uint64 `json:"boots"`
}

func openPeers(d *disk) (*peers, error) {
	if _, err := joinKey(d.cfg); err != nil {
		return nil, err
	}
	client, err := cellClient(&d.cfg.Redis)
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
	p := &peers{disk: d, liveness: newLiveness(store, self, d.log)}
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
	p.told = newCellPresence(p, p.claims)
	p.claims.presence = p.told
	p.asks = &asks{m: p.member, live: p.liveness, waiting: map[string]chan json.RawMessage{}}
	return p, nil
}

// cellClient is a client for what the gateways share: who waits for it waits briefly.
func cellClient(c *configs.Redis) (redis.UniversalClient, error) {
	own := *c
	own.PoolSize = max(own.PoolSize, configs.CellPool)
	own.Timeout = configs.Duration(c.ConfirmTimeout.Std() + configs.CellTimeout)
	return redisClient(&own)
}

// minJoinKey is the shortest secret of the gateways, in bytes.
const minJoinKey = 16

// joinKey reads the secret that the gateways of the cell share, nil without one.
func joinKey(c *configs.Config) ([]byte, error) {
	if c.Cell.JoinKey == "" {
		return nil, nil
	}
	data, err := os.ReadFile(string(c.Cell.JoinKey))
	if err != nil {
		return nil, fmt.Errorf("cell.join_key: %w", err)
	}
	key := bytes.TrimSpace(data)
	if len(key) < minJoinKey {
		return nil, fmt.Errorf("cell.join_key: %s has %d bytes: use %d or more, for example of openssl rand -hex 32", c.Cell.JoinKey, len(key), minJoinKey)
	}
	return key, nil
}

// identify names this run of the gateway, and counts it.
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

// randomName is one that nobody else has.
func randomName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // it does not fail
	return hex.EncodeToString(b[:])
}

// Runs is what a gateway tells the others of itself.
type Runs struct {
	Address string `json:"address"` // of its API
	Version string `json:"version"`
	Rules   string `json:"rules"` // hash of the rule set
	// Config are hashes of the sections of the configuration, as far as they are to be alike at all gateways.
	Config      map[string]string `json:"config"`
	Phase       string            `json:"phase"`
	Connections int               `json:"connections"`
}

// runs is what this gateway tells.
func (a *App) runs() string {
	data, err := json.Marshal(Runs{
		Address: a.apiURL(), Version: a.build.Version, Rules: a.rules.hash(), Config: a.Config().Alike(),
		Phase: a.phaseName(), Connections: a.broker.Connections(),
	})
	if err != nil {
		return "{}" // of strings and a number: it does not fail
	}
	return string(data)
}

// hear takes a notice of another gateway.
func (a *App) hear(ctx context.Context, text string) {
	word, rest, _ := strings.Cut(text, " ")
	a.cellStats.received(word)
	switch word {
	case cell.NoticeTaken:
		a.claims.hear(ctx, rest)
	case noticeMembers:
		_ = a.liveness.beat(ctx, configs.CellTimeout) // who is gone is not to be learned again
		a.member.joinAgain()
	case "ask", "answer":
		a.asks.hear(word, rest)
	}
}

// apiURL is the address of the API as others are told it, before it is bound too.
func (a *App) apiURL() string {
	if a.http.addr != nil {
		return a.HTTPURL()
	}
	return a.cfg.HTTP.Address
}

// admitted finds out whether this gateway may run beside those that are there, with the Redis that is there.
func (a *App) admitted(ctx context.Context) error {
	if err := a.liveness.begin(ctx, a.runs); err != nil || a.member == nil {
		return err
	}
	if err := a.member.check(ctx); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, configs.CellTimeout)
	defer cancel()
	if err := a.keys.exchange(limit); err != nil { // what the others sign is accepted from the first CONNECT on
		a.log.Warn("keys of the other gateways not reloaded; the previous ones stay in force", slog.Any("err", err))
	}
	return nil
}

// startPeers says from now on that the gateway lives, and has it take its part in the cell. The address of the API is known.
func (a *App) startPeers() {
	a.background("liveness", func(ctx context.Context) { a.liveness.run(ctx, a.die) })
	if a.member == nil {
		return
	}
	a.background("membership", func(ctx context.Context) { a.member.run(ctx, time.Second) })
	a.asks.answer = a.answer
	a.background("keys of the cell", a.keys.run)
	a.background("claims", a.claims.run)
	a.background("notices", func(ctx context.Context) {
		for ctx.Err() == nil { // a subscription may be left at a server that nobody tells any more
			here, cancel := a.member.untilTurned(ctx)
			a.member.store.Listen(here, a.cfg.Cell.Node, a.claims.doubt, func(text string) { a.hear(ctx, text) })
			cancel()
		}
	})
	a.background("ends of sessions", a.told.watch)
	a.background("sessions of the cell", a.claims.storeAll)
	a.background("presence of the cell", a.told.run)
}
