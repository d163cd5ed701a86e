package app

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cellgate/auth"
	"cellgate/broker/clock"
	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/cmd/cellgate/repair"
	"cellgate/configs"
	"cellgate/rules/op"
	"cellgate/test/check"
)

// owed is the number of messages that wait for Kafka in the folder of TestEveryLoss.
const owed = 120

// dataFolder is a gateway's data after a kill: messages that no sink has delivered, a revocation, an audit log.
type dataFolder struct {
	dir   string
	rules string
}

func killedFolder(t *testing.T) *dataFolder {
	t.Helper()
	home := t.TempDir()
	d := &dataFolder{dir: filepath.Join(home, "state"), rules: filepath.Join(home, "rules")}
	check.OK(t, os.CopyFS(d.rules, os.DirFS("../../../configs/rules")))
	a, err := started(t.Context(), smallSegments(t, write(t, home, "")), &check.Log{}, clock.System())
	check.OK(t, err)
	defer end(a)
	for i := range owed - 1 {
		journalTelemetry(t, a, i)
	}
	_, err = a.Authority().Revoke(auth.Revocation{TokenID: "gone"}, auth.Caller{By: "test"})
	check.OK(t, err)
	accounted(t, a, false)
	check.OK(t, a.dispatch.Checkpoint())
	kept := &dataFolder{dir: filepath.Join(t.TempDir(), "state"), rules: d.rules}
	kept.copyTo(t, kept.dir, d.dir)
	return kept
}

// journalTelemetry appends a message of a kilobyte to the journal, which the sample rules send to Kafka and Redis.
func journalTelemetry(t *testing.T, a *App, i int) (seq uint64) {
	t.Helper()
	vin := "LTEST000000000001"
	seq, err := a.journal.Append([]message.Record{{
		Kind: message.KindPublish, QoS: 1, Client: vin, Topic: "v1/" + vin + "/up/telemetry",
		Payload: fmt.Appendf(nil, `{"soc":50,"n":%d,"pad":%q}`, i, strings.Repeat("x", 1000)),
	}}, nil)
	if err == nil {
		err = a.journal.WaitDurable(t.Context(), seq)
	}
	check.OK(t, err)
	return seq
}

// smallSegments returns a configuration with small segments, so that the journal has several.
func smallSegments(t *testing.T, file string) *configs.Config {
	t.Helper()
	cfg, err := configs.Load(file)
	check.OK(t, err)
	cfg.Uplink.Journal.SegmentBytes, cfg.Uplink.Journal.MaxBytes, cfg.Uplink.Journal.ReserveBytes = 64<<10, 16<<20, 0
	cfg.Rules.RunTests = false // they have a limit of time
	return cfg
}

func (d *dataFolder) copyTo(t *testing.T, to, from string) {
	t.Helper()
	check.OK(t, os.CopyFS(to, os.DirFS(from)))
	err := filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, 0o700) //nolint:gosec // a folder
		}
		return os.Chmod(path, 0o600)
	})
	check.OK(t, err)
}

// damage is damage to a file or folder.
type damage struct {
	path string // below the data folder
	what string
	do   func(path string) error
}

func (h damage) String() string { return h.what + " " + h.path }

// damages returns every kind of damage to the files and folders of a data folder.
func (d *dataFolder) damages(t *testing.T) (all []damage) {
	t.Helper()
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(d.dir, path)
		switch {
		case err != nil || rel == ".":
			return err
		case strings.HasPrefix(filepath.Base(rel), "free-"):
			return nil // spare segments are alike: see the journal's own tests
		case e.IsDir():
			all = append(all, damage{rel, "lose", os.RemoveAll}, damage{rel, "a file for", asFile})
			return nil
		}
		all = append(all, damage{rel, "lose", os.Remove}, damage{rel, "empty", func(p string) error { return os.Truncate(p, 0) }},
			damage{rel, "cut", cutInHalf}, damage{rel, "garble", garble}, damage{rel, "a folder for", asFolder})
		return nil
	})
	check.OK(t, err)
	return all
}

func asFile(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("what is this"), 0o600)
}

func asFolder(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(path, "x"), []byte("x"), 0o600)
}

func cutInHalf(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

// garble overwrites a third of a file's content before its trailing zeros.
func garble(path string) error {
	b, err := os.ReadFile(path) //nolint:gosec // a test's file
	if err != nil {
		return err
	}
	end := len(strings.TrimRight(string(b), "\x00"))
	r := rand.New(rand.NewPCG(1, uint64(end))) //nolint:gosec // a test's choice
	for i := end / 3; i < 2*end/3; i++ {
		b[i] = byte(r.Uint32())
	}
	return os.WriteFile(path, b, 0o600) //nolint:gosec // a test's file
}

// start starts a gateway on a folder, after a repair if its error names one.
func (d *dataFolder) start(t *testing.T, home string) *App {
	t.Helper()
	cfg := smallSegments(t, filepath.Join(home, "cell.yaml"))
	for repaired := false; ; repaired = true {
		a, err := started(t.Context(), cfg, &check.Log{}, clock.System())
		if err == nil {
			return a
		}
		if !strings.Contains(err.Error(), "cellgate repair "+string(cfg.DataDir)) || repaired {
			t.Fatalf("repaired before: %t; no remedy: %v", repaired, err)
		}
		r, err := repair.Repair(repair.Options{Dir: string(cfg.DataDir), Journal: string(cfg.Uplink.Journal.Dir), Keys: string(cfg.Auth.KeysDir)})
		if err != nil || !r.Repaired {
			t.Fatalf("repair: %v, %+v", err, r)
		}
		if _, err := os.Stat(r.Backup); err != nil {
			t.Fatalf("nothing kept: %v", err)
		}
	}
}

// end stops a gateway without a grace period: the state after a kill has been copied or does not matter.
func end(a *App) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = a.Stop(ctx)
}

// accounted publishes a message and waits until it is in the ledger; with all, every earlier message must be there too,
// pending or dropped. A journal that has lost its newest segment may count more lost messages than there were.
func accounted(t *testing.T, a *App, all bool) {
	t.Helper()
	seq := journalTelemetry(t, a, owed)
	check.Within(t, check.Patience, "all is evaluated", func() error {
		if at := a.dispatch.Position(); at < seq {
			return fmt.Errorf("evaluated up to %d of %d", at, seq)
		}
		for _, l := range a.dispatch.Ledger() {
			dropped := uint64(0)
			for _, n := range l.Dropped {
				dropped += n
			}
			if !l.Balanced || l.Sink == string(op.SinkKafka) && (all && l.Received < owed+1 || l.Pending == 0 || l.Pending+dropped != l.Received) {
				return fmt.Errorf("%d messages, ledger %+v", owed+1, l)
			}
		}
		return nil
	})
}

// prepare copies the folder and adds a configuration.
func (d *dataFolder) prepare(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	write(t, home, "")
	check.OK(t, os.CopyFS(filepath.Join(home, "rules"), os.DirFS(d.rules)))
	d.copyTo(t, filepath.Join(home, "state"), d.dir)
	return home
}

// TestEveryLoss deletes, empties, truncates, garbles and exchanges every file and folder of data_dir: the gateway
// starts, or its error names `cellgate repair`, after which it starts. Every acknowledged message is pending or counted
// as lost.
func TestEveryLoss(t *testing.T) {
	t.Parallel()
	d := killedFolder(t)
	for _, h := range d.damages(t) {
		t.Run(h.String(), func(t *testing.T) {
			t.Parallel()
			home := d.prepare(t)
			check.OK(t, h.do(filepath.Join(home, "state", h.path)))
			a := d.start(t, home)
			defer end(a)
			accounted(t, a, true)
		})
	}
}

// TestEveryLossWithoutState is TestEveryLoss of the decision logs while state.db, which describes them, is lost or
// damaged too.
func TestEveryLossWithoutState(t *testing.T) {
	t.Parallel()
	d := killedFolder(t)
	for _, h := range d.damages(t) {
		sink, _, _ := strings.Cut(strings.TrimPrefix(h.path, "decisions/"), "/")
		if sink != string(op.SinkKafka) && sink != "mqtt" {
			continue
		}
		for what, do := range map[string]func(string) error{"lose": os.Remove, "garble": garble} {
			t.Run(h.String()+", "+what+" state.db", func(t *testing.T) {
				t.Parallel()
				home := d.prepare(t)
				check.OK(t, h.do(filepath.Join(home, "state", h.path)))
				check.OK(t, do(filepath.Join(home, "state", "state.db")))
				a := d.start(t, home)
				defer end(a)
				accounted(t, a, true)
			})
		}
	}
}

// number returns the value of an environment variable, 0 without one.
func number(t *testing.T, name string) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	check.OK(t, err)
	return n
}

// TestEveryTwoLosses is TestEveryLoss with two, and a start and a kill in between. REPAIR_PAIRS is the number of pairs,
// out of some ten thousand, and REPAIR_SEED chooses them.
func TestEveryTwoLosses(t *testing.T) {
	t.Parallel()
	d := killedFolder(t)
	type pair struct{ first, then damage }
	var pairs []pair
	all := d.damages(t)
	for _, first := range all {
		for _, then := range all {
			if first.path != then.path {
				pairs = append(pairs, pair{first, then})
			}
		}
	}
	seed := cmp.Or(number(t, "REPAIR_SEED"), rand.Uint64()) //nolint:gosec // a test's choice
	t.Logf("REPAIR_SEED=%d, %d pairs", seed, len(pairs))
	rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's choice
	rnd.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	pairs = pairs[:min(uint64(len(pairs)), cmp.Or(number(t, "REPAIR_PAIRS"), 12))]
	for _, p := range pairs {
		t.Run(p.first.String()+", "+p.then.String(), func(t *testing.T) {
			t.Parallel()
			home := d.prepare(t)
			data := filepath.Join(home, "state")
			check.OK(t, p.first.do(filepath.Join(data, p.first.path)))
			a := d.start(t, home)
			killed := filepath.Join(t.TempDir(), "state")
			// A kill leaves no half transaction, unlike a copy during a write.
			check.OK(t, a.db.Update(func(*statefile.Tx) error { d.copyTo(t, killed, data); return nil }))
			end(a)
			check.OK(t, os.RemoveAll(data))
			check.OK(t, os.Rename(killed, data))
			path := filepath.Join(data, p.then.path)
			if _, err := os.Stat(path); err == nil {
				check.OK(t, p.then.do(path))
			}
			a = d.start(t, home)
			defer end(a)
			// Without state.db and the journal, the disk no longer shows what there was.
			journal := strings.HasPrefix(p.first.path, "journal") || strings.HasPrefix(p.then.path, "journal")
			state := p.first.path == "state.db" || p.then.path == "state.db"
			accounted(t, a, !journal || !state)
		})
	}
}
