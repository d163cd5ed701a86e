package app

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"cellgate/configs"
)

// registry has the gateway's metrics: all have the label cell, its own have the prefix cellgate_.
type registry struct {
	all *prometheus.Registry
	own prometheus.Registerer
}

func newRegistry(c *configs.Config, b Build) *registry {
	all := prometheus.NewRegistry()
	labelled := prometheus.WrapRegistererWith(prometheus.Labels{"cell": c.Cell.ID}, all)
	labelled.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r := &registry{all: all, own: prometheus.WrapRegistererWithPrefix("cellgate_", labelled)}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "build_info",
		Help:        "Always 1; the build is in its labels.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go": runtime.Version(), "node": c.Cell.Node},
	})
	info.Set(1)
	r.own.MustRegister(info)
	return r
}
