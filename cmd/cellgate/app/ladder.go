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
	"cellgate/broker/shared/metric"
	"cellgate/broker/shared/remote"
	"cellgate/configs"
)

// The rungs of the disk ladder. The last one is the journal's bound, which the ladder sets: the journal takes nothing
// more, and the broker stops reading and withholds acknowledgements.
const (
	rungNormal int32 = iota
	rungAlarm
	rungDrop
	rungRefuse
	rungHold
)

// reasonQuota refuses a connection for lack of room (MQTT 5, 3.2.2.2: quota exceeded).
const reasonQuota byte = 0x97

const (
	ladderEvery = 500 * time.Millisecond
	// ladderSlack is the hysteresis: how far below a watermark the used share must fall before its rung is left.
	ladderSlack = 0.02
)

// ladder watches how much of the journal's room is used, by its own bound or by the disk.
type ladder struct {
	journal *journal.Journal
	dir     string
	segment int64
	log     *slog.Logger
	ratio   prometheus.Gauge
	rungs   prometheus.Gauge
	gauge   *prometheus.GaugeVec // as it was named before 0.1.0
	rung    atomic.Int32
	used    atomic.Uint64 // deprecated name, removed after 0.1.0
	state   string        // folder of the state file
	short   atomic.Bool   // the disk of the state file has less than half of the reserve
}

func newLadder(c *configs.Journal, state string, j *journal.Journal, reg prometheus.Registerer, log *slog.Logger) *ladder {
	l := &ladder{journal: j, dir: string(c.Dir), state: state, segment: int64(c.SegmentBytes), log: log}
	to := metric.For(reg)
	l.ratio = to.Gauge("journal_used_ratio", "Share of the journal's space in use, of its bound or of the disk.")
	l.rungs = to.Gauge("journal_rung",
		"How far the journal is filled: 0 normal, 1 alarm, 2 QoS 0 is dropped, 3 new connections are refused, 4 clients are "+
			"no longer read.")
	l.gauge = to.Gauges("journal_pressure",
		"Removed after 0.1.0; use journal_used_ratio and journal_rung. used: share of the journal's space in use; rung: as "+
			"journal_rung.", "what")
	l.look(c)
	return l
}

// run follows the journal until ctx ends. running returns the configuration in force, with its watermarks.
func (l *ladder) run(ctx context.Context, running func() *configs.Config) {
	for {
		l.look(&running().Uplink.Journal)
		if !remote.Pause(ctx, ladderEvery) {
			return
		}
	}
}

func (l *ladder) look(c *configs.Journal) {
	s := l.journal.Stat()
	capacity := min(int64(c.MaxBytes), s.Bytes+free(l.dir, int64(c.ReserveBytes)))
	l.short.Store(c.ReserveBytes > 0 && free(l.state, int64(c.ReserveBytes)/2) == 0)
	limits := journal.Limits{MaxBytes: holdBytes(capacity, l.segment, c.HoldPercent), ReserveBytes: int64(c.ReserveBytes), Disk: capacity < int64(c.MaxBytes)}
	l.journal.SetLimits(limits)
	used := usedShare(s.Bytes-s.Unused, capacity)
	before := l.rung.Load()
	now := rungOf(used, before, c)
	if s.Full != nil {
		now = rungHold
	}
	l.used.Store(uint64(used * 1000))
	l.ratio.Set(used)
	l.rungs.Set(float64(now))
	l.gauge.WithLabelValues("used").Set(used)
	l.gauge.WithLabelValues("rung").Set(float64(now))
	if l.rung.Store(now); now == before {
		return
	}
	level := slog.LevelWarn
	if now == rungNormal {
		level = slog.LevelInfo
	}
	l.log.Log(context.Background(), level, "room for the journal", slog.String("is", rungText(now)), slog.Float64("used", used), slog.Int64("room_bytes", s.Room),
		slog.Bool("bound_by_disk", limits.Disk))
}

// holdBytes returns the bound of the journal's files, as a percentage of its capacity but at least three segments.
func holdBytes(capacity, segment int64, percent int) int64 {
	return max(capacity*int64(percent)/100, 3*segment)
}

// free returns the free bytes on the disk of a folder, less a reserve.
func free(dir string, reserve int64) int64 {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0
	}
	return max(0, int64(fs.Bavail)*fs.Bsize-reserve) //nolint:gosec // no disk has 2^63 bytes
}

// usedShare returns the used share of the capacity, 0 to 1.
func usedShare(written, capacity int64) float64 {
	if capacity <= 0 {
		return 1
	}
	return min(1, max(0, float64(written)/float64(capacity)))
}

// rungOf returns the rung for a used share, given the present rung.
func rungOf(used float64, from int32, c *configs.Journal) int32 {
	marks := []int{c.AlarmPercent, c.DropPercent, c.RefusePercent, c.HoldPercent}
	rung := rungNormal
	for i, percent := range marks {
		mark := float64(percent) / 100
		if int32(i) < from { //nolint:gosec // four marks
			mark -= ladderSlack
		}
		if used >= mark {
			rung = int32(i) + 1 //nolint:gosec // four marks
		}
	}
	return rung
}

func rungText(rung int32) string {
	switch rung {
	case rungAlarm:
		return "getting short"
	case rungDrop:
		return "short, QoS 0 is dropped"
	case rungRefuse:
		return "short, QoS 0 is dropped and new connections are refused"
	case rungHold:
		return "used up, vehicles are not read until a sink has accepted pending messages"
	}
	return "enough"
}

// reserveShort implements session.Options.DiskShort: the rest of the reserve is for commands and cursors.
func (l *ladder) reserveShort() bool { return l.short.Load() }

// shed implements broker.Options.Shed.
func (l *ladder) shed() bool { return l.rung.Load() >= rungDrop }

// admit implements its part of broker.Options.Admit.
func (l *ladder) admit(*auth.Identity, string) (reason byte, endpoint string) {
	if l.rung.Load() >= rungRefuse {
		return reasonQuota, ""
	}
	return 0, ""
}

// dependency returns the ladder's line of /readyz.
func (l *ladder) dependency() (remote.Health, bool) {
	rung := l.rung.Load()
	if rung == rungNormal {
		return remote.Health{}, false
	}
	return remote.Health{Name: "journal", Reason: fmt.Sprintf("room %s (%.1f %% used)", rungText(rung), float64(l.used.Load())/10)}, true
}

// admission returns an Admit that asks several in turn. The first refusal decides.
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
