package main

import (
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/wal"
)

// journalReport is a journal's report as printed by `stat --json` and `verify --json`.
type journalReport struct {
	Dir         string           `json:"dir"`
	Epoch       uint64           `json:"epoch"`
	First       uint64           `json:"first"`
	Last        uint64           `json:"last"`
	Bytes       int64            `json:"bytes"`
	Spares      int              `json:"spares"`
	TornBytes   int64            `json:"torn_bytes"`
	Segments    []journalSegment `json:"segments"`
	Corruptions []wal.Corruption `json:"corruptions"`
	Steps       []clockStep      `json:"clock_steps"` // the first 1,000
	StepsInAll  int              `json:"clock_steps_total"`
}

// clockStep is a step of the gateway's wall clock.
type clockStep struct {
	Seq  uint64 `json:"seq"`
	From string `json:"from"`
	To   string `json:"to"`
}

type journalSegment struct {
	Name    string    `json:"name"`
	Index   uint64    `json:"index"`
	First   uint64    `json:"first"`
	Last    uint64    `json:"last"`
	Bytes   int64     `json:"bytes"`
	Used    int64     `json:"used"`
	Created time.Time `json:"created"`
	Batches int       `json:"batches"`
	Records uint64    `json:"records"`
}

func reportOf(r *journal.Report) journalReport {
	out := journalReport{
		Dir: r.Dir, Epoch: r.Epoch, First: r.First, Last: r.Last, Bytes: r.Bytes, Spares: r.Spares, TornBytes: r.TornBytes,
		Segments: []journalSegment{}, Corruptions: append([]wal.Corruption{}, r.Corruptions...),
		Steps: []clockStep{}, StepsInAll: r.StepsInAll,
	}
	for _, s := range r.Steps {
		out.Steps = append(out.Steps, clockStep{s.Seq, millisText(s.From), millisText(s.To)})
	}
	for _, s := range r.Segments {
		out.Segments = append(out.Segments, journalSegment(s))
	}
	return out
}
