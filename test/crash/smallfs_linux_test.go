package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
)

const (
	// recovery is how long the gateway may take to acknowledge again after space is freed.
	recovery = time.Minute
	fsBytes  = 96 << 20
)

// TestSmallFileSystem: the gateway's data is on a real file system of 96 MiB that somebody else fills to its last byte
// $DISK_ROUNDS times (3 without it), with Kafka there and with Kafka away. Vehicles of both protocol versions publish
// with QoS 1 and 0. The gateway is never restarted and keeps its connections, acknowledges again by itself when there
// is space, and nothing that was acknowledged is lost. It needs the right to mount.
func TestSmallFileSystem(t *testing.T) {
	rounds := int(fromEnv(t, "DISK_ROUNDS", 3))
	d := newSmallDisk(t)
	var slowest time.Duration
	withheld := 0
	for round := 1; round <= rounds; round++ {
		d.away.Store(round%2 == 1)
		full := d.fill()
		took := d.release()
		d.away.Store(false)
		if full {
			withheld++
		}
		slowest = max(slowest, took)
		fmt.Printf("round %d/%d: Kafka away %t, acknowledgements withheld %t; serving %v after space returned\n",
			round, rounds, round%2 == 1, full, took.Round(time.Millisecond))
		if round%2 == 1 && !full {
			t.Error("with Kafka away the full disk held nothing back")
		}
		if round%10 == 0 {
			d.audit()
		}
	}
	d.end()
	fmt.Printf("disk filled %d times, withheld %d times, slowest recovery %v: %v\n", rounds, withheld, slowest.Round(time.Millisecond), d.auditor)
}

// smallDisk is a gateway on a small file system under load.
type smallDisk struct {
	*harness.Gateway
	t       *testing.T
	data    string // where the file system is mounted
	away    *atomic.Bool
	fleets  []*harness.Process
	ledgers []string
	auditor *auditor
}

func newSmallDisk(t *testing.T) *smallDisk {
	t.Helper()
	d := &smallDisk{t: t, away: new(atomic.Bool)}
	cluster := fakekafka.Cluster(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(4))
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if d.away.Load() {
			return nil, errors.New("away"), true
		}
		return nil, nil, false
	})
	kafka := &harness.Kafka{Brokers: cluster.ListenAddrs()}
	d.Gateway = harness.PrepareGateway(t, harness.Options{
		Kafka: kafka, Redis: harness.EmbeddedRedis(t),
		Extra: "log: {level: warn}\nuplink: {journal: {segment_bytes: 1MiB, max_bytes: 1GiB, reserve_bytes: 8MiB}}\n",
	})
	d.data = filepath.Join(d.Dir, "data")
	check.OK(t, os.Mkdir(d.data, 0o750))
	if err := unix.Mount("tmpfs", d.data, "tmpfs", 0, fmt.Sprintf("size=%d", fsBytes)); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d.Start()
	for i, mqtt := range []string{"3.1.1", "5"} {
		d.ledgers = append(d.ledgers, filepath.Join(d.Dir, "ledger-"+mqtt))
		d.fleet(mqtt, i*1000, 100, "--ledger", d.ledgers[i])
		d.fleet(mqtt, i*1000+500, 20, "--qos", "0")
	}
	d.grow(200)
	d.auditor = newAuditor(kafka.Brokers, "vehicle.telemetry", d.ledgers...)
	return d
}

// fleet starts vehicles of a protocol version.
func (d *smallDisk) fleet(mqtt string, first, n int, more ...string) {
	d.t.Helper()
	args := append([]string{
		"--mqtt", mqtt, "--first", strconv.Itoa(first), "--vehicles", strconv.Itoa(n),
		"--rate", "5", "--payload-bytes", "1000", "--alarm-every", "0s", "--reconnect-max", "300ms",
	}, more...)
	d.fleets = append(d.fleets, d.Fleet(fmt.Sprintf("fleet-%d", first), args...))
}

// grow waits until both versions have the given number of further acknowledgements.
func (d *smallDisk) grow(lines int64) {
	d.t.Helper()
	var from [2]int64
	for i, name := range d.ledgers {
		if info, err := os.Stat(name); err == nil {
			from[i] = info.Size()
		}
	}
	check.Within(d.t, recovery, "acknowledgements of both versions", func() error {
		for i, name := range d.ledgers {
			info, err := os.Stat(name)
			if err != nil {
				return err
			}
			if info.Size() < from[i]+lines*bytesPerLine {
				return fmt.Errorf("%s: %d bytes", name, info.Size()-from[i])
			}
		}
		return nil
	})
}

func (d *smallDisk) hog() string { return filepath.Join(d.data, "hog") }

// fill fills the file system and reports whether the journal then withholds acknowledgements.
func (d *smallDisk) fill() (full bool) {
	d.t.Helper()
	began := time.Now()
	for time.Since(began) < 20*time.Second {
		d.hogAll()
		if _, body, err := d.Get("/metrics", ""); err == nil && regexp.MustCompile(`(?m)^cellgate_journal_full\{[^}]*\} 1$`).Match(body) {
			time.Sleep(time.Second) // for the load to run into it
			return true
		}
		if !d.away.Load() && time.Since(began) > 3*time.Second {
			return false // a journal whose records are delivered reuses its own files
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

// hogAll writes until the file system is full.
func (d *smallDisk) hogAll() {
	d.t.Helper()
	f, err := os.OpenFile(d.hog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if errors.Is(err, unix.ENOSPC) {
		return
	}
	check.OK(d.t, err)
	chunk := make([]byte, 1<<20)
	for len(chunk) >= 512 {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	_ = f.Close()
}

// release frees the space and returns the time until both versions get acknowledgements and a new connection is
// accepted.
func (d *smallDisk) release() time.Duration {
	d.t.Helper()
	check.OK(d.t, os.Remove(d.hog()))
	began := time.Now()
	d.grow(50)
	check.Within(d.t, recovery-time.Since(began), "a new connection", func() error { return publishOnce(d.Lab) })
	took := time.Since(began)
	select {
	case <-d.Done():
		d.t.Fatalf("the gateway ended:\n%s", d.Tail(40))
	default:
	}
	return took
}

func (d *smallDisk) audit() {
	d.t.Helper()
	check.OK(d.t, d.auditor.audit(d.t.Context(), time.Minute))
	fmt.Println("audit:", d.auditor)
}

// end stops the fleets, which must have kept their connections, and audits their ledgers.
func (d *smallDisk) end() {
	d.t.Helper()
	for _, f := range d.fleets {
		f.Signal(syscall.SIGINT)
	}
	for _, f := range d.fleets {
		select {
		case <-f.Done():
		case <-time.After(30 * time.Second):
			d.t.Fatal("a fleet did not end within 30 s of SIGINT")
		}
		report := regexp.MustCompile(`connects +\d+, (\d+) reconnects`).FindStringSubmatch(f.Tail(40))
		if report == nil || report[1] != "0" {
			d.t.Errorf("%s lost connections: %v\n%s", f.Name, report, f.Tail(20))
		}
	}
	operator := d.OperatorToken()
	check.Within(d.t, 5*time.Minute, "everything delivered", func() error { return d.Settled(operator) })
	d.audit()
}
