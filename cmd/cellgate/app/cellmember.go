package app

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/cell"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
)

// member is this gateway as one of several. It runs the scripts, remembers for each slot what is needed to continue
// after Redis has lost data, and offers that when Redis is another server than before.
type member struct {
	store *cell.Store
	self  cell.Gateway
	wait  time.Duration // redis.confirm_timeout
	db    *statefile.DB
	log   *slog.Logger
	// remembered returns the commands of a slot on this gateway's disk. Set before run.
	remembered func(slot int) iter.Seq2[cell.Record, error]
	// living returns the living gateways. Set before run.
	living func() []string
	// owner returns the connection of a vehicle to this gateway.
	owner func(vin string) (cell.Connection, bool)
	// metrics is set before run.
	metrics *cellMetrics

	shards   *shards       // the servers of Redis, according to note
	returned atomic.Int64  // how often one of them was away and then answered
	slots    []atomic.Bool // open slots, as far as this gateway knows
	wake     chan struct{} // capacity 1

	work   sync.Mutex          // held while offering or forgetting; guards the fields below
	memory map[int]cell.Memory // as in the state file
	alone  time.Time           // since when no member that remembers anything has been found

	mu      sync.Mutex
	pending map[int]struct{}    // slots to offer to
	waiting map[string]int      // members whose offers were missing at the last look, with the number of slots
	offered map[int]bool        // pending slots that wait only for other members
	servers map[int]cell.Server // by first slot, as last seen
	turned  chan struct{}       // closed when a server is replaced by another one
}

// Errors of commands that Redis cannot decide now.
var (
	errCellAway   = errors.New("redis does not answer")
	errCellClosed = errors.New("the Redis server was replaced, and not every gateway has restored its state in it")
)

func openMember(store *cell.Store, self cell.Gateway, wait time.Duration, db *statefile.DB, log *slog.Logger) (*member, error) {
	m := &member{
		store: store, self: self, wait: wait, db: db, log: log, slots: make([]atomic.Bool, store.Slots()), wake: make(chan struct{}, 1),
		pending: map[int]struct{}{}, waiting: map[string]int{}, memory: map[int]cell.Memory{}, servers: map[int]cell.Server{}, shards: newShards(store.Slots()), offered: map[int]bool{}, turned: make(chan struct{}),
		remembered: func(int) iter.Seq2[cell.Record, error] { return func(func(cell.Record, error) bool) {} },
		living:     func() []string { return nil },
		owner:      func(string) (cell.Connection, bool) { return cell.Connection{}, false },
	}
	store.Heard(m.note)
	for slot := range m.slots {
		m.pending[slot] = struct{}{}
	}
	err := db.Update(func(tx *statefile.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketCell)
		if err != nil {
			return err
		}
		if b, err = b.CreateBucketIfNotExists(bucketSlots); err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			var one cell.Memory
			if err := json.Unmarshal(v, &one); err != nil || len(k) != 2 {
				return fmt.Errorf("slot %x: %w", k, errors.Join(err, errSlotKey))
			}
			m.memory[int(binary.BigEndian.Uint16(k))] = one
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("data_dir: state.db: the state of the cell: %w", err)
	}
	return m, nil
}

var errSlotKey = errors.New("the key is not a slot's")

// ready reports whether commands of a slot can be decided: nil, errCellAway, or errCellClosed with the members waited
// for.
func (m *member) ready(slot int) error {
	switch {
	case m.isAway(slot):
		return errCellAway
	case m.slots[slot].Load():
		return nil
	}
	if names := m.missing(); len(names) > 0 {
		return fmt.Errorf("%w: waiting for %s (`cellgate gateways forget NODE` for one that does not return)", errCellClosed, strings.Join(names, ", "))
	}
	return errCellClosed
}

// unusable returns why commands of some slots cannot be decided although their server answers; nil if all can.
func (m *member) unusable() error {
	for slot := range m.slots {
		if err := m.ready(slot); err != nil && !errors.Is(err, errCellAway) {
			return err
		}
	}
	return nil
}

// limit returns the timeout of a call that waits for the replicas.
func (m *member) limit() time.Duration { return m.wait + configs.CellTimeout }

// missing returns the members that were waited for at the last look.
func (m *member) missing() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.waiting))
}

// closed records that a script answered cell.Closed: the slot needs another offer.
func (m *member) closed(slot int) {
	m.slots[slot].Store(false)
	m.mu.Lock()
	m.pending[slot] = struct{}{}
	m.mu.Unlock()
	m.wakeUp()
}

func (m *member) wakeUp() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// notify sends a notice to a gateway. Nothing depends on its arrival. heard reports whether the gateway was listening.
func (m *member) notify(ctx context.Context, node, word, rest string) (heard bool, err error) {
	m.metrics.sent(word)
	if rest != "" {
		rest = " " + rest
	}
	return m.store.Notify(ctx, node, word+rest)
}

// check returns an error for a Redis that would lose commands.
func (m *member) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, configs.CellTimeout)
	defer cancel()
	err := m.store.Check(ctx)
	if errors.Is(err, cell.ErrUnfit) {
		return fmt.Errorf("redis: %w", err)
	}
	if err != nil {
		m.log.Warn("Redis does not show its settings; make sure that it evicts nothing and has the replicas of redis.replicas", slog.Any("err", err))
	}
	return nil
}

// run checks periodically whether Redis is there and is the same server, and makes the pending offers.
func (m *member) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		m.look(ctx)
		if !m.allAway() {
			m.work.Lock()
			m.offerPending(ctx)
			m.work.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.wake:
		}
	}
}

// look reads the names of the servers. The slots of a server with another name than before need to be offered again.
func (m *member) look(ctx context.Context) {
	servers, err := m.store.Servers(ctx, configs.CellTimeout)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.note(0, err) // the cluster has never answered
		return
	}
	m.shards.split(servers)
	for first, one := range servers {
		m.note(first, one.Err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	turned := false
	for first, one := range servers {
		if one.Err != nil || m.servers[first] == one {
			continue
		}
		turned = true
		m.servers[first] = one
		for slot := first; slot <= one.Last; slot++ {
			m.offerToLocked(slot)
		}
	}
	if turned {
		close(m.turned)
		m.turned = make(chan struct{})
	}
}

// untilTurned returns a context that ends when a server is replaced by another one.
func (m *member) untilTurned(ctx context.Context) (context.Context, context.CancelFunc) {
	m.mu.Lock()
	turned := m.turned
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-turned:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// offerToLocked marks a slot for an offer.
func (m *member) offerToLocked(slot int) {
	m.pending[slot] = struct{}{}
	delete(m.offered, slot)
}

// joinAgain makes this gateway join in every slot again, and so remember the current members.
func (m *member) joinAgain() {
	m.mu.Lock()
	for slot := range m.slots {
		m.offerToLocked(slot)
	}
	m.mu.Unlock()
	m.wakeUp()
}

// offering is how many slots are asked at a time; offeringSaved is how many are written to the state file in one
// transaction.
const (
	offering      = 16
	offeringSaved = 1024
)

// offerPending offers what is remembered of the slots that are not open. Those without an offer come first; of the
// others, as many as show whether the missing members have come. It also remembers the living gateways. The caller
// holds work.
func (m *member) offerPending(ctx context.Context) {
	slots := m.toOffer()
	waiting, stored := map[string]int{}, error(nil)
	all := make([]cell.Offering, len(slots))
	for i, slot := range slots {
		all[i] = cell.Offering{Slot: slot, Memory: m.memory[slot], Remembered: m.remembered(slot)}
	}
	answers, empty := 0, 0
	m.store.Rejoin(ctx, m.self.Node, all, m.begins(), func(joined map[int]cell.Joined, err error) bool {
		if err != nil { // a pipeline takes long: look decides whether Redis answers
			m.log.Debug("offering to Redis", slog.Any("err", err))
		}
		if stored = errors.Join(stored, m.keep(joined)); stored != nil {
			return false
		}
		for _, j := range joined {
			if answers++; j.Verdict == cell.Empty {
				empty++
			}
		}
		return m.open(joined, waiting) || err != nil
	})
	m.mu.Lock()
	m.waiting = waiting
	m.mu.Unlock()
	if stored == nil {
		stored = m.learn()
	}
	if stored != nil {
		m.log.Error("state of the cell not written; commands wait", slog.Any("err", stored))
	}
	switch { // all slots are empty when the cell is new
	case answers > empty:
		m.alone = time.Time{}
	case empty > 0 && m.alone.IsZero():
		m.alone = time.Now()
	}
}

// toOffer returns the slots that are marked for an offer and whose server answers: first those that have had none.
func (m *member) toOffer() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(m.answering(m.pending), func(a, b int) int {
		if m.offered[a] != m.offered[b] {
			if m.offered[a] {
				return 1
			}
			return -1
		}
		return a - b
	})
}

// learn adds the living gateways to the members: one that joined after this one must be waited for as well.
func (m *member) learn() error {
	living, kept := m.living(), map[int]cell.Memory{}
	for slot, one := range m.memory {
		all := one.Members
		for _, node := range living {
			if !slices.Contains(all, node) {
				all = append(slices.Clone(all), node)
			}
		}
		if one.Remembers && len(all) > len(one.Members) {
			slices.Sort(all)
			one.Members = all
			kept[slot] = one
		}
	}
	return m.save(kept)
}

// begins reports whether no member that remembers anything has come for so long that this gateway may begin the cell.
func (m *member) begins() bool {
	return !m.alone.IsZero() && time.Since(m.alone) > configs.CellBeginsAfter
}

// keep writes what is to be remembered before any of it takes effect. A gateway that remembers nothing begins to with
// its first OK.
func (m *member) keep(joined map[int]cell.Joined) error {
	kept := map[int]cell.Memory{}
	for slot, j := range joined {
		before, now := m.memory[slot], j.Memory()
		if j.Verdict != cell.OK && (j.Verdict != cell.Waiting || !before.Remembers) {
			continue
		}
		now.Gen, now.Floor = max(now.Gen, before.Gen), max(now.Floor, before.Floor)
		if !before.Remembers || now.Gen != before.Gen || now.Floor != before.Floor || !slices.Equal(now.Members, before.Members) {
			kept[slot] = now
		}
	}
	return m.save(kept)
}

// save writes what is to be remembered of some slots.
func (m *member) save(kept map[int]cell.Memory) error {
	if len(kept) == 0 {
		return nil
	}
	err := m.db.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketCell).Bucket(bucketSlots)
		for slot, now := range kept {
			data, err := json.Marshal(now)
			if err == nil {
				err = b.Put(binary.BigEndian.AppendUint16(nil, uint16(slot)), data) //nolint:gosec // at most 16,383
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		maps.Copy(m.memory, kept)
	}
	return err
}

// open records which slots are open, and adds the members that the others wait for to waiting. It returns false when
// asking about further slots would show nothing new, because all answers still wait.
func (m *member) open(joined map[int]cell.Joined, waiting map[string]int) (more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for slot, j := range joined {
		for name, offered := range j.Members {
			if !offered && j.Verdict == cell.Waiting {
				waiting[name]++
			}
		}
		more = more || j.Verdict != cell.Waiting || !m.offered[slot]
		switch j.Verdict {
		case cell.Waiting:
			m.offered[slot] = true
		case cell.OK:
			delete(m.pending, slot)
			delete(m.offered, slot)
			m.slots[slot].Store(true)
		}
	}
	return more
}
