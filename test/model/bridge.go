package model

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"cellgate/broker/cell"
)

// Transition is one run of a script: the data in Redis before and after it, and the answer.
type Transition struct {
	before, after data
	called        uint8
	call          call
	answer        answer
}

// Decided names the script and its verdict.
func (t Transition) Decided() string {
	out := t.call.Script.String() + ": " + t.answer.Verdict.String()
	if t.answer.Notified != 0 {
		out += ", and tells"
	}
	return out
}

// String shows what ran on which data.
func (t Transition) String() string {
	return fmt.Sprintf("%v at server %d, %+v,\nwith    %+v", t.call.Script, t.called, t.call, t.before)
}

// Transitions returns the distinct transitions that searches of these cases meet, in that order.
func Transitions(cases []Case) ([]Transition, error) {
	var all []Transition
	seen := map[Transition]bool{}
	for _, c := range cases {
		res, err := Search(c, All(), func(t Transition) {
			t = t.plain()
			if !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		})
		if err != nil || res.Broken != "" {
			return nil, fmt.Errorf("%v %w", res, err)
		}
	}
	return all, nil
}

// plain returns the transition under all rules.
func (t Transition) plain() Transition {
	t.after = t.before
	t.answer = All().apply(&t.after, t.called, t.call)
	return t
}

// Bridge runs transitions against the scripts of a real Redis.
type Bridge struct {
	client *redis.Client
	store  *cell.Store
	server string // its name
	// notices receives the notices of all gateways.
	notices *redis.PubSub
}

// The vehicle, and the real values of the model's small numbers.
const (
	vin      = "LMODEL00000000001"
	vehicle  = cell.Prefix + "{" + vin + "}:"
	far      = 4_000_000_000_000
	salt     = "model"
	sessions = cell.Prefix + "model:sessions"
	mark     = cell.Prefix + "model:mark"
	due      = cell.Prefix + "model:due"
	channels = cell.Prefix + "model:to:"
	sameID   = "same"
	holder   = cell.Prefix + "{" + sameID + "}:id"
)

// NewBridge takes a Redis that it may write to: one server, not a cluster.
func NewBridge(ctx context.Context, client *redis.Client) (*Bridge, error) {
	store, err := cell.NewStore(client, "model", cell.Confirmation{Wait: time.Second}, time.Hour)
	if err != nil {
		return nil, err
	}
	b := &Bridge{client: client, store: store, notices: client.PSubscribe(ctx, channels+"*")}
	if _, err := b.notices.Receive(ctx); err != nil {
		return nil, err
	}
	if err := client.HSet(ctx, mark, "salt", salt).Err(); err != nil {
		return nil, err
	}
	a, err := store.Look(ctx, vin, "none")
	b.server = a.Server
	return b, err
}

// Replay writes the data before a transition to Redis, runs the script, and compares its answer and the data after it.
func (b *Bridge) Replay(ctx context.Context, t Transition) error {
	if err := b.load(ctx, t); err != nil {
		return fmt.Errorf("loading %v: %w", t, err)
	}
	got, err := b.run(ctx, t)
	if err != nil {
		return fmt.Errorf("%v: %w", t, err)
	}
	if got != t.answer {
		return fmt.Errorf("%v\nanswers %+v,\nwant    %+v", t, got, t.answer)
	}
	after, err := b.read(ctx, t)
	if err == nil && after != t.after {
		err = fmt.Errorf("%v\nleaves %+v,\nwant   %+v", t, after, t.after)
	}
	return err
}

func node(g uint8) string { return string('A' + rune(g)) }

// named returns the name of a server of the model: that of the real one, or of one that does not exist.
func (b *Bridge) named(t Transition, called uint8) string {
	switch called {
	case 0:
		return ""
	case t.called:
		return b.server
	}
	return "other:" + strconv.Itoa(int(called))
}

func dueName(c uint8) string { return vin + "/" + id(c) }

func id(c uint8) string { return "command-" + strconv.Itoa(int(c)) }

// states are the values of a command in Redis for each state of the model.
var states = map[status][3]string{ // state, cause, outcome
	queued: {"queued"}, sent: {"sent"}, cancelled: {"cancelled"}, unsent: {"expired", "not_sent"}, unclear: {"expired", "unknown"},
	unanswered: {"expired", "not_acknowledged"}, late: {"late", "", "succeeded"}, done: {"succeeded"},
}

func statusOf(r cell.Record) (status, error) {
	for s, names := range states {
		if names[0] == r.State && (r.State != "expired" || names[1] == r.Cause) {
			return s, nil
		}
	}
	return none, fmt.Errorf("state %q, cause %q", r.State, r.Cause)
}

func endOf(t Transition) int64 {
	if t.call.Expired {
		return 1
	}
	return far
}

// recordOf returns a command of the model in the form of Redis.
func recordOf(t Transition, c uint8, r record) cell.Record {
	names := states[r.State]
	return cell.Record{
		ID: id(c), VIN: vin, State: names[0], Cause: names[1], Outcome: names[2], Digest: strconv.Itoa(int(r.Content)), Gen: uint64(r.Gen),
		Number: uint64(c) + 1, Created: 1, Expires: endOf(t), Told: r.Told,
	}
}

func (b *Bridge) load(ctx context.Context, t Transition) error {
	d := &t.before
	_, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, mark, due, sessions, holder, vehicle+"vehicle", vehicle+"open", vehicle+"command:"+id(0), vehicle+"command:"+id(1))
		p.HSet(ctx, mark, "salt", salt, "gen", d.Gen, "floor", d.Floor, "doubt", d.Doubt, "open", b.named(t, d.Open))
		if d.Fresh {
			p.HSet(ctx, mark, "fresh", "1")
		}
		for g := range uint8(maxGateways) {
			if d.Members&bit(g) != 0 {
				p.HSet(ctx, mark, "m:"+node(g), b.named(t, d.Offered[g]))
			}
		}
		if d.Holder != 0 {
			p.Set(ctx, holder, vin+" "+id(d.Holder-1), 0)
		}
		if d.Node != 0 {
			p.HSet(ctx, vehicle+"vehicle", "node", node(d.Node-1), "boot", "boot", "conn", d.Since, "epoch", epochOf(d.Epoch), "since", since(d.Since))
		}
		for c, r := range d.Commands {
			if r.State != none {
				full := recordOf(t, uint8(c), r)
				p.HSet(ctx, vehicle+"command:"+id(uint8(c)), full.List()...)
				if r.Due { // since long
					p.ZAdd(ctx, due, redis.Z{Score: 1, Member: dueName(uint8(c))})
				}
			}
		}
		return nil
	})
	return err
}

func since(conn uint8) int64 { return far + int64(beginning(conn)) }

func epochOf(e uint8) int64 {
	if e == 0 {
		return 0
	}
	return far + int64(e)
}

// small returns the model's number of an epoch.
func small(epoch int64) uint8 {
	if epoch == 0 {
		return 0
	}
	return uint8(epoch - far)
}

// run runs the transition's call.
func (b *Bridge) run(ctx context.Context, t Transition) (answer, error) {
	c := t.call
	conn := cell.Connection{Node: node(c.Gateway), Boot: "boot", Number: uint64(c.Since), Epoch: epochOf(c.Epoch), Since: since(c.Since)}
	memory := cell.Memory{Remembers: c.Remembers, Gen: uint64(c.Gen), Floor: uint64(c.Floor)}
	for g := range uint8(maxGateways) {
		if c.Members&bit(g) != 0 {
			memory.Members = append(memory.Members, node(g))
		}
	}
	switch c.Script {
	case claim:
		got, err := b.store.Claim(ctx, vin, conn, 0, true)
		if err != nil {
			return answer{}, err
		}
		notified, err := b.notified(ctx, c, got)
		return answer{Verdict: verdictOf(got.Verdict), Epoch: small(got.Epoch), Notified: notified}, err
	case join:
		got, err := b.store.Join(ctx, 0, node(c.Gateway), memory, b.named(t, c.Server), false)
		return answer{Verdict: verdictOf(got.Verdict), Gen: uint8(got.Gen), Floor: uint8(got.Floor)}, err
	case told:
		return answer{}, b.store.NotifyCommands(ctx, []cell.Notice{{What: cell.NoticePublished, VIN: vin, ID: id(c.Command)}})
	case forget:
		got, err := b.store.Forget(ctx, 0, node(c.Gateway), memory)
		return answer{Verdict: verdictOf(got.Verdict), Gen: uint8(got.Gen), Floor: uint8(got.Floor)}, err
	}
	got, err := b.command(ctx, t, conn)
	if err != nil {
		return answer{}, err
	}
	a := answer{Verdict: verdictOf(got.Verdict)}
	if got.Record.State != "" {
		a.Record, err = smallRecord(got.Record)
	} else if c.Script != accept && c.Script != reserve && a.Verdict != closed && a.Verdict != missing {
		a.Record = t.before.Commands[c.Command].answer() // a refusal does not return the record
	}
	return a, err
}

// notified returns who was notified of a claim: it reads notices up to its own marker.
func (b *Bridge) notified(ctx context.Context, c call, got cell.Claimed) (who uint8, err error) {
	if _, err := b.store.Notify(ctx, "nobody", ""); err != nil {
		return 0, err
	}
	for {
		m, err := b.notices.ReceiveMessage(ctx)
		if err != nil || m.Channel == channels+"nobody" {
			return who, err
		}
		_, text, _ := strings.Cut(m.Payload, cell.NoticeTaken+" ")
		n, err := cell.ParseSuccessor(text)
		if err != nil || n != (cell.Successor{VIN: vin, Epoch: got.Epoch, Since: since(c.Since)}) {
			return 0, fmt.Errorf("it tells %s %q: %w", m.Channel, m.Payload, err)
		}
		who = strings.TrimPrefix(m.Channel, channels)[0] - 'A' + 1
	}
}

// Close ends the bridge. It does not close the client.
func (b *Bridge) Close() error { return b.notices.Close() }

func (b *Bridge) command(ctx context.Context, t Transition, conn cell.Connection) (cell.Answer, error) {
	c := t.call
	switch c.Script {
	case reserve:
		return b.store.Reserve(ctx, vin, sameID, id(c.Command), time.Minute)
	case accept:
		o := cell.Offered{VIN: vin, ID: id(c.Command), Digest: strconv.Itoa(int(c.Content)), TTL: far * time.Millisecond, MaxOpen: 100, Reserved: b.named(t, c.Reserved)}
		if c.Expired {
			o.Created, o.TTL = 1, time.Minute
		}
		return b.store.Accept(ctx, o)
	case send:
		return b.store.Send(ctx, vin, id(c.Command), conn)
	case report:
		return b.store.Report(ctx, vin, id(c.Command), cell.Said{Status: "succeeded", At: time.UnixMilli(far)})
	case cancel:
		return b.store.Cancel(ctx, vin, id(c.Command))
	case expire:
		return b.store.Expire(ctx, vin, id(c.Command))
	case look:
		return b.store.Look(ctx, vin, id(c.Command))
	case offer:
		return b.store.Offer(ctx, recordOf(t, c.Command, c.Record))
	}
	return cell.Answer{}, fmt.Errorf("no such script")
}

func verdictOf(v cell.Verdict) verdict {
	for i, name := range verdictNames {
		if string(v) == name {
			return verdict(i)
		}
	}
	return 0xff
}

func smallRecord(r cell.Record) (record, error) {
	s, err := statusOf(r)
	content, _ := strconv.Atoi(r.Digest)
	return record{State: s, Gen: uint8(r.Gen), Content: uint8(content), Told: r.Told}, err
}

// read returns the data now in Redis.
func (b *Bridge) read(ctx context.Context, t Transition) (data, error) {
	var d data
	var marked, vehicles *redis.MapStringStringCmd
	var commands [maxCommands]*redis.MapStringStringCmd
	var held *redis.StringCmd
	var waits [maxCommands]*redis.FloatCmd
	if _, err := b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		marked, vehicles = p.HGetAll(ctx, mark), p.HGetAll(ctx, vehicle+"vehicle")
		for c := range commands {
			commands[c] = p.HGetAll(ctx, vehicle+"command:"+id(uint8(c)))
			waits[c] = p.ZScore(ctx, due, dueName(uint8(c)))
		}
		held = p.Get(ctx, holder)
		return nil
	}); err != nil && !errors.Is(err, redis.Nil) {
		return d, err
	}
	b.readMark(&d, t, marked.Val())
	for c := range uint8(maxCommands) {
		if held.Val() == vin+" "+id(c) {
			d.Holder = c + 1
		}
	}
	if v := vehicles.Val(); v["node"] != "" {
		epoch, _ := strconv.ParseInt(v["epoch"], 10, 64)
		d.Node, d.Since, d.Epoch = v["node"][0]-'A'+1, uint8(number(v["conn"])), small(epoch)
	}
	for c, cmd := range commands {
		if f := cmd.Val(); len(f) > 0 {
			r, err := smallRecord(cell.Record{State: f["state"], Cause: f["cause"], Digest: f["digest"], Gen: uint64(number(f["gen"])), Told: f["told"] != ""})
			if err != nil {
				return d, err
			}
			r.Due = r.State.final() && waits[c].Err() == nil
			d.Commands[c] = r
		}
	}
	return d, nil
}

func (b *Bridge) readMark(d *data, t Transition, m map[string]string) {
	called := func(name string) uint8 {
		switch other, ok := strings.CutPrefix(name, "other:"); {
		case ok:
			return uint8(number(other))
		case name == "":
			return 0
		}
		return t.called
	}
	d.Open, d.Gen, d.Floor, d.Doubt = called(m["open"]), uint8(number(m["gen"])), uint8(number(m["floor"])), uint8(number(m["doubt"]))
	d.Fresh = m["fresh"] == "1"
	for g := range uint8(maxGateways) {
		if offered, ok := m["m:"+node(g)]; ok {
			d.Members |= bit(g)
			d.Offered[g] = called(offered)
		}
	}
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// Replayed returns the cases whose transitions are run against the scripts: together they reach every verdict of each.
func Replayed() []Case {
	return []Case{
		{Gateways: 2, Servers: 2, Connects: 2, Promotions: 1, Late: true, Depth: 9, States: 1e6},
		{Gateways: 2, Commands: 1, Servers: 2, Connects: 1, Promotions: 1, Expiry: true, Looks: true, Removal: true, Late: true, Depth: 10, States: 1e6},
		{Gateways: 1, Commands: 1, Servers: 1, Connects: 1, Expiry: true, Removal: true, States: 1e6},
		{Gateways: 1, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Beside: true, Depth: 17, States: 1e6},
		{Gateways: 1, Commands: 1, Servers: 1, Connects: 1, Expiry: true, InDoubt: true, States: 1e6},
		{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Disks: 1, Expiry: true, Beside: true, Depth: 11, States: 1e6},
		{Gateways: 2, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Contents: true, Kills: 1, Forgets: 1, Depth: 11, States: 1e6},
		{Gateways: 2, Commands: 2, Servers: 1, Connects: 1, Losses: 1, Depth: 10, States: 1e6},
		{Gateways: 3, Commands: 1, Servers: 1, Connects: 1, Losses: 1, Depth: 10, States: 1e6},
		{Gateways: 2, Commands: 2, Servers: 2, Promotions: 1, SameID: true, Depth: 8, States: 1e6},
		{Gateways: 1, Commands: 2, Servers: 1, Losses: 1, SameID: true, Late: true, Depth: 9, States: 1e6},
	}
}
