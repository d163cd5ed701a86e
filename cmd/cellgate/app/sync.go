package app

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/statefile"
	"cellgate/configs"
	syncer "cellgate/sync"
)

// openSync makes the worker that forwards the outbox topics to the central unit. Without a centre there is
// none.
func (t *trust) openSync(m *kafkaclient.Metrics) (*syncer.Syncer, error) {
	if t.cfg.Central == nil {
		return nil, nil
	}
	err := t.db.Update(func(tx *statefile.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketSkips())
		return err
	})
	if err != nil {
		return nil, err
	}
	o, err := syncOptions(t.cfg, t.owner(), t.log, t.reg.own, m)
	if err != nil {
		return nil, err
	}
	worker, err := syncer.New(o)
	if err != nil {
		return nil, err
	}
	t.life.onStop("sync", stopShort, t.life.patient("what is bound for the centre", worker.Stop))
	return worker, nil
}

// syncOptions are the worker's, from the configuration's central and kafka.
func syncOptions(c *configs.Config, owner string, log *slog.Logger, reg prometheus.Registerer, m *kafkaclient.Metrics) (syncer.Options, error) {
	cell, err := producerOptions("kafka", "sync-errors", &c.Kafka, log, m)
	if err != nil {
		return syncer.Options{}, err
	}
	central, err := producerOptions("central.kafka", "central", &c.Central.Kafka, log, m)
	return syncer.Options{
		CellID: c.Cell.ID, Cell: cell, Central: central, Group: c.Central.Group, Owner: owner, Bandwidth: int64(c.Central.Bandwidth),
		CommitInterval: configs.SyncCommitInterval, Log: log, Metrics: syncer.NewMetrics(reg),
	}, err
}

// lanes lists them; none without a centre.
func (a *gateway) lanes() []LaneLoad {
	if a.sync == nil {
		return nil
	}
	var all []LaneLoad
	for _, l := range a.sync.Lag() {
		load := LaneLoad{Lane: l.Lane, Known: l.Known, Gaps: gapsOf(a.sync.Gaps(l.Lane))}
		if l.Known {
			seconds := l.Age.Seconds()
			load.LagRecords, load.LagSeconds = &l.Messages, &seconds
		}
		all = append(all, load)
	}
	return all
}
