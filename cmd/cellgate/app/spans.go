package app

import (
	"fmt"

	"cellgate/broker/shared/trace"
	"cellgate/cmd/cellgate/spans"
	"cellgate/configs"
)

// openSpans starts the export of the traces of sampled messages and commands, when tracing is on.
func (d *disk) openSpans() error {
	c := &d.cfg.Tracing
	if c.Endpoint == "" {
		return nil
	}
	tls, err := clientTLS("tracing.tls", c.TLS)
	if err != nil {
		return err
	}
	share := 0.0
	if c.OneIn > 0 {
		share = 1 / float64(c.OneIn)
	}
	headers := make(map[string]string, len(c.Headers))
	for name, value := range c.Headers {
		headers[name] = value.Reveal()
	}
	sampling := trace.NewSampling(share, d.cfg.Cell.Node, d.journal.Epoch())
	o := spans.Options{
		Endpoint: c.Endpoint, Headers: headers, TLS: tls, Cell: d.cfg.Cell.ID, Node: d.cfg.Cell.Node, Version: d.build.Version, Epoch: d.journal.Epoch(),
		Sampling: sampling, Queue: configs.SpanQueue, Messages: configs.SpanMessages, Patience: configs.SpanPatience, Log: d.log, Metrics: d.reg.own,
	}
	exporter, err := spans.New(o, d.traces.Export(sampling, trace.Bounds{
		PerSecond: configs.SpanStepsPerSecond, Steps: configs.SpanSteps, Bytes: configs.SpanBytes, Messages: configs.SpanMessages,
	}))
	if err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	d.sampling, d.spans = sampling, exporter
	d.life.onStop("spans", stopShort, exporter.Close)
	return nil
}
