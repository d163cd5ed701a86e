package app

import (
	"context"

	syncer "cellgate/sync"
)

// openSync makes the worker that forwards the outbox topics to the central unit. Without a centre there is
// none.
func (a *App) openSync(context.Context) error {
	c := a.cfg.Central
	if c == nil {
		return nil
	}
	cell, err := kafkaConfig("kafka", &a.cfg.Kafka)
	if err != nil {
		return err
	}
	central, err := kafkaConfig("central.kafka", &c.Kafka)
	if err != nil {
		return err
	}
	a.sync, err = syncer.New(syncer.Options{
		CellID: a.cfg.Cell.ID, Cell: cell, Central: central, Group: c.Group, Bandwidth: int64(c.Bandwidth), AutoCreate: topicSpec(&c.Kafka),
		Log: a.log, Metrics: syncer.NewMetrics(a.reg.own), KafkaMetrics: a.kafkaMetrics,
	})
	if err != nil {
		return err
	}
	a.life.onStop("sync", stopShort, a.life.patient("what is bound for the centre", a.sync.Stop))
	return nil
}

// lanes lists them; none without a centre.
func (a *App) lanes() []LaneLoad {
	if a.sync == nil {
		return nil
	}
	var all []LaneLoad
	for _, l := range a.sync.Lag() {
		all = append(all, LaneLoad{l.Lane, l.Messages, l.Age.Seconds()})
	}
	return all
}

// syncDependencies are the two Kafkas as the worker sees them.
func (a *App) syncDependencies() []Dependency {
	if a.sync == nil {
		return nil
	}
	var all []Dependency
	for _, h := range a.sync.Health() {
		all = append(all, Dependency{h.Name, h.OK, h.Since.UTC(), h.Reason})
	}
	return all
}
