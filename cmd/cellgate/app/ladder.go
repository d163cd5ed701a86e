package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/auth"
	"cellgate/broker/journal"
	"cellgate/configs"
)

// The rungs of the disk ladder. The last one is the journal's own: at its bound it takes nothing more, and
// the broker stops reading and withholds acknowledgements.
const (
	rungNormal int32 = iota
	rungAlarm
	rungRefuse
	rungHold
)

// reasonQuota refuses a connection for want of room (MQTT 5, 3.2.2.2: quota exceeded).
const reasonQuota byte = 0x97

const (
	ladderEvery = 500 * time.Millisecond
	// ladderSlack is how far below a watermark the use must fall before its rung is left, so that the gateway
	// does not flap at it.
	ladderSlack = 0.02
)

// ladder watches how much of the journal's room is used, by its own bound and by the disk.
type ladder struct {
	journal *journal.Journal
	dir     string
	reserve int64
	log     *slog.Logger
	gauge   *prometheus.GaugeVec
	rung    atomic.Int32
	used    atomic.Uint64 // per mille
}

func newLadder(c *configs.Journal, j *journal.Journal, reg prometheus.Registerer, log *slog.Logger) *ladder {
	l := &ladder{journal: j, dir: string(c.Dir), reserve: int64(c.ReserveBytes), log: log}
	l.gauge = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "journal_pressure", Help: "used: the share of the journal's room that is used; rung: 0 normal, 1 alarm, 2 new connections refused, 3 reading stopped.",
	}, []string{"what"})
	reg.MustRegister(l.gauge)
	return l
}

// run follows the journal until ctx ends. running gives the watermarks in force.
func (l *ladder) run(ctx context.Context, running func() *configs.Config) {
	for {
		l.look(&running().Uplink.Journal)
		if !pause(ctx, ladderEvery) {
			return
		}
	}
}

func (l *ladder) look(c *configs.Journal) {
	s := l.journal.Stat()
	used := usedShare(s.Bytes, s.MaxBytes, int64(c.MaxBytes), s.Room, l.free())
	before := l.rung.Load()
	now := rungOf(used, before, c)
	if s.Full != nil {
		now = rungHold
	}
	l.used.Store(uint64(used * 1000))
	l.gauge.WithLabelValues("used").Set(used)
	l.gauge.WithLabelValues("rung").Set(float64(now))
	if l.rung.Store(now); now == before {
		return
	}
	level := slog.LevelWarn
	if now == rungNormal {
		level = slog.LevelInfo
	}
	l.log.Log(context.Background(), level, "room for the journal", slog.String("is", rungText(now)), slog.Float64("used", used), slog.Int64("room_bytes", s.Room))
}

// free is what the disk has left for the journal.
func (l *ladder) free() int64 {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(l.dir, &fs); err != nil {
		return 0
	}
	return max(0, int64(fs.Bavail)*fs.Bsize-l.reserve) //nolint:gosec // no disk has 2^63 bytes
}

// usedShare is the used part of most, or of what the disk has if that is less. bytes are the journal's files,
// room is what can still be written to them and to new ones, up to the journal's own bound.
func usedShare(bytes, bound, most, room, free int64) float64 {
	capacity := min(most, bytes+free)
	if capacity <= 0 {
		return 1
	}
	used := min(bound, bytes+free) - room
	return min(1, max(0, float64(used)/float64(capacity)))
}

// rungOf returns the rung for a used share, coming from another.
func rungOf(used float64, from int32, c *configs.Journal) int32 {
	marks := []int{c.AlarmPercent, c.RefusePercent, c.HoldPercent}
	rung := rungNormal
	for i, percent := range marks {
		mark := float64(percent) / 100
		if int32(i) < from { //nolint:gosec // three marks
			mark -= ladderSlack
		}
		if used >= mark {
			rung = int32(i) + 1 //nolint:gosec // three marks
		}
	}
	return rung
}

func rungText(rung int32) string {
	switch rung {
	case rungAlarm:
		return "getting short"
	case rungRefuse:
		return "short, new connections are refused"
	case rungHold:
		return "used up, nothing more is read from vehicles until a sink has taken what is there"
	}
	return "enough"
}

// admit implements a part of broker.Options.Admit.
func (l *ladder) admit(*auth.Identity, string) (reason byte, endpoint string) {
	if l.rung.Load() >= rungRefuse {
		return reasonQuota, ""
	}
	return 0, ""
}

// dependency is the ladder's line of /readyz.
func (l *ladder) dependency() (dependency, bool) {
	rung := l.rung.Load()
	if rung == rungNormal {
		return dependency{}, false
	}
	return dependency{Name: "journal", Reason: fmt.Sprintf("room %s (%.1f %% used)", rungText(rung), float64(l.used.Load())/10)}, true
}

// admission asks several, and the first that refuses decides.
func admission(ask ...func(*auth.Identity, string) (byte, string)) func(*auth.Identity, string) (byte, string) {
	return func(id *auth.Identity, client string) (byte, string) {
		for _, a := range ask {
			if reason, endpoint := a(id, client); reason != 0 {
				return reason, endpoint
			}
		}
		return 0, ""
	}
}
