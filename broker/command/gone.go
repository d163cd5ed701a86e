package command

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Gap is a part of vehicle.commands that was gone before it was read.
type Gap struct {
	What string // topic, partition and range, for people
	// Records is how many are gone; negative when that is not known.
	Records int64
	// Next is the timestamp of the first record after the gap. The lost records are not newer than it.
	// It is zero when there is none.
	Next time.Time
}

// Gaps are what vehicle.commands has lost since the start, but for what was older than every time to live.
type Gaps struct {
	Gaps int `json:"gaps"`
	// Records is how many were gone; null when that is not known of some gap.
	Records *int64    `json:"records"`
	At      time.Time `json:"at"` // the last one
	Last    string    `json:"last"`
}

// gapLog keeps them.
type gapLog struct {
	mu      sync.Mutex
	all     Gaps
	records int64
	unknown bool // of some gap
}

// Gone counts and reports what is gone from vehicle.commands. What nobody could have sent any more is no alarm.
func (s *Service) Gone(g Gap) {
	age, level := "unknown", slog.LevelError
	if !g.Next.IsZero() && s.o.Clock.Wall().Sub(g.Next) > s.o.MaxTTL {
		age, level = "expired", slog.LevelInfo
	}
	s.metrics.gaps.WithLabelValues(age).Inc()
	s.metrics.gone.WithLabelValues(age).Add(float64(max(0, g.Records)))
	s.o.Log.Log(context.Background(), level, "commands are gone from vehicle.commands before they were read", "gap", g.What, "records", g.Records, "age", age)
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

// state is nil while there has been none.
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
