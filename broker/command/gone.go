package command

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Gap is a part of vehicle.commands that was removed before it was read.
type Gap struct {
	What string // topic, partition and range, for messages
	// Records is the number of lost records; negative if unknown.
	Records int64
	// Next is the timestamp of the first record after the gap, zero if there is none. The lost records are not newer.
	Next time.Time
}

// Gaps counts the losses of vehicle.commands since the start, except for records older than every time to live.
type Gaps struct {
	Gaps int `json:"gaps"`
	// Records is the number of lost records; null if it is unknown for some gap.
	Records *int64    `json:"records"`
	At      time.Time `json:"at"` // of the last gap
	Last    string    `json:"last"`
}

type gapLog struct {
	mu      sync.Mutex
	all     Gaps
	records int64
	unknown bool // for some gap
}

// Gone counts and reports a gap in vehicle.commands. Records that had expired anyway raise no alarm.
func (s *Service) Gone(g Gap) {
	age, level := "unknown", slog.LevelError
	if !g.Next.IsZero() && s.o.Clock.Wall().Sub(g.Next) > s.o.MaxTTL {
		age, level = "expired", slog.LevelInfo
	}
	s.metrics.gaps.WithLabelValues(age).Inc()
	s.metrics.gone.WithLabelValues(age).Add(float64(max(0, g.Records)))
	s.o.Log.Log(context.Background(), level, "commands were deleted from vehicle.commands before they were read", "gap", g.What, "records", g.Records, "age", age)
	if age == "expired" {
		return
	}
	l := &s.gaps
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Gaps++
	l.all.At, l.all.Last = time.Now().UTC(), g.What
	l.records += max(0, g.Records)
	l.unknown = l.unknown || g.Records < 0
}

// state returns nil if there was no gap.
func (l *gapLog) state() *Gaps {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all.Gaps == 0 {
		return nil
	}
	g := l.all
	if records := l.records; !l.unknown {
		g.Records = &records
	}
	return &g
}
