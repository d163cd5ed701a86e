package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cellgate/broker/journal"
	"cellgate/broker/shared/statefile"
	"cellgate/broker/shared/trace"
	"cellgate/cmd/cellgate/spans"
	"cellgate/configs"
)

// disk adds what the gateway keeps on disk.
type disk struct {
	*process
	fresh   bool // state.db did not exist
	db      *statefile.DB
	losses  *losses
	clock   *timekeeper
	journal *journal.Journal
	ladder  *ladder
	traces  *trace.Traces
	// sampling selects the messages and commands that are traced; spans exports their traces. Both are nil when tracing
	// is off.
	sampling *trace.Sampling
	spans    *spans.Exporter
}

func openDisk(p *process) (*disk, error) {
	_, err := os.Stat(filepath.Join(string(p.cfg.DataDir), "state.db"))
	fresh := errors.Is(err, fs.ErrNotExist)
	db, err := openState(string(p.cfg.DataDir), p.fail)
	if err != nil {
		return nil, err
	}
	p.life.onStop("state file", stopDisk, closeState(db))
	lost, err := openLosses(db, p.log)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(reportFallBack(db.FellBack(), p.reg.own, lost), p.reg.own.Register(lost.readings())); err != nil {
		return nil, err
	}
	keeper, err := openTimekeeper(db, p.source, p.log)
	if err != nil {
		return nil, err
	}
	opened, err := p.openJournal(db, fresh, keeper, lost)
	if err != nil {
		return nil, err
	}
	traces := newTraces(opened)
	if err := p.reg.own.Register(traceReadings(traces)); err != nil {
		return nil, err
	}
	d := &disk{
		process: p, fresh: fresh, db: db, losses: lost, clock: keeper, journal: opened, traces: traces,
		ladder: newLadder(&p.cfg.Uplink.Journal, string(p.cfg.DataDir), opened, p.reg.own, p.log),
	}
	return d, d.openSpans()
}

// opening is the consumer that retains the whole journal until all others have registered their positions.
const opening = "opening"

func (p *process) openJournal(db *statefile.DB, fresh bool, keeper *timekeeper, lost *losses) (*journal.Journal, error) {
	j := &p.cfg.Uplink.Journal
	age := j.MaxAge.Std()
	if age == 0 || age > configs.JournalSegmentAge {
		age = configs.JournalSegmentAge
	}
	epoch, last, err := journalKnown(db)
	if err != nil {
		return nil, err
	}
	opened, found, err := journal.Open(journal.Options{
		KnownEpoch: epoch, KnownLast: last, Machine: journal.ThisMachine(p.source), Jump: max(keeper.jump, 0), OnStep: keeper.stepped,
		Dir: string(j.Dir), SegmentBytes: int64(j.SegmentBytes),
		MaxBytes:     holdBytes(int64(j.MaxBytes), int64(j.SegmentBytes), j.HoldPercent),
		ReserveBytes: int64(j.ReserveBytes), SegmentAge: age,
		CommitInterval: j.CommitInterval.Std(), BufferBytes: int(j.BufferBytes), OnFatal: p.fail,
		Log: p.log, Metrics: journal.NewMetrics(p.reg.own),
	})
	if err != nil {
		return nil, fmt.Errorf("uplink.journal: %w", err)
	}
	lost.watchJournal(opened)
	switch {
	case fresh && !found.Created:
		err = p.reportMissing(lost, partState, "sessions, queued messages and commands are lost, the ledger begins at the first record of the journal, "+
			"where delivery starts again")
	case found.Created && epoch != 0:
		err = p.reportMissing(lost, partJournal, "what was pending is counted as lost")
	case epoch != 0 && found.Epoch != epoch:
		err = lost.note(partJournal, "it is a different journal: what was pending is counted as lost")
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close(context.Background()))
	}
	// The journal recycles what every registered consumer has passed. None is registered yet: without this one, the
	// first to register would release what the others have not read.
	opened.Retain(opening, opened.First())
	p.life.onStop("journal", stopDisk, opened.Close)
	return opened, nil
}
