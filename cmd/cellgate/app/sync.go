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

// laneState is how far a lane to the centre is behind, as /v1/status tells it.
type laneState struct {
	Lane       string  `json:"lane"`
	LagRecords int64   `json:"lag_records"`
	LagSeconds float64 `json:"lag_seconds"`
}

// lanes lists them; none without a centre.
func (a *App) lanes() []laneState {
	if a.sync == nil {
		return nil
	}
	var all []laneState
	for _, l := range a.sync.Lag() {
		all = append(all, laneState{l.Lane, l.Messages, l.Age.Seconds()})
	}
	return all
}

// syncDependencies are the two Kafkas as the worker sees them.
func (a *App) syncDependencies() []dependency {
	if a.sync == nil {
		return nil
	}
	var all []dependency
	for _, h := range a.sync.Health() {
		all = append(all, dependency{h.Name, h.OK, h.Since.UTC(), h.Reason})
	}
	return all
}
