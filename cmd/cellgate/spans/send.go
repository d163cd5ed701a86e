package spans

import (
	"log/slog"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

func (e *Exporter) put(s sdk.ReadOnlySpan) {
	select {
	case e.queue <- s:
		e.waiting.Set(float64(len(e.queue)))
	default:
		e.outcome.WithLabelValues(queueFull).Inc()
	}
}

// send sends batches until the queue is closed and empty.
func (e *Exporter) send() {
	batch := make([]sdk.ReadOnlySpan, 0, batchSpans)
	for first := range e.queue {
		batch = e.fill(append(batch[:0], first))
		e.waiting.Set(float64(len(e.queue)))
		e.export(batch)
	}
}

// fill adds spans until the batch is full or has waited long enough.
func (e *Exporter) fill(batch []sdk.ReadOnlySpan) []sdk.ReadOnlySpan {
	wait := time.NewTimer(batchWait)
	defer wait.Stop()
	for len(batch) < batchSpans {
		select {
		case s, open := <-e.queue:
			if !open {
				return batch
			}
			batch = append(batch, s)
		case <-wait.C:
			return batch
		}
	}
	return batch
}

func (e *Exporter) export(batch []sdk.ReadOnlySpan) {
	err := e.client.ExportSpans(e.ctx, batch)
	outcome := exported
	switch {
	case err != nil:
		outcome = notAccepted
		if !e.failing {
			e.o.Log.Warn("the receiver of traces accepts no spans; they are dropped", slog.String("endpoint", e.o.Endpoint), slog.Any("err", err))
		}
	case e.failing:
		e.o.Log.Info("the receiver of traces accepts spans again", slog.String("endpoint", e.o.Endpoint))
	}
	e.failing = err != nil
	e.outcome.WithLabelValues(outcome).Add(float64(len(batch)))
}
