package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloadMetrics tell what is in force and how the last reload went, of the rules and of the configuration. They are
// read when they are asked for, so that they cannot differ from GET /v1/rules and /v1/status.
type reloadMetrics struct {
	a                                                                  *App
	rules, rulesInfo, rulesOK, rulesAt, configInfo, configOK, configAt *prometheus.Desc
}

func newReloadMetrics(a *App) *reloadMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	const ok, at = "1 while the last attempt to put them in force succeeded, 0 after one that was refused.",
		"When they were last put in force or found to be in force, in seconds since the Unix epoch."
	return &reloadMetrics{
		a:          a,
		rules:      desc("rules_in_force", "Rules in force."),
		rulesInfo:  desc("rules_info", "1, with the hash of the rule set in force in its label.", "hash"),
		rulesOK:    desc("rules_last_reload_successful", "The rule files: "+ok),
		rulesAt:    desc("rules_last_reload_success_timestamp_seconds", "The rule files: "+at),
		configInfo: desc("config_info", "1, with the hash of the configuration file in force in its label.", "hash"),
		configOK:   desc("config_last_reload_successful", "The configuration, with certificates, keys and rules: "+ok),
		configAt:   desc("config_last_reload_success_timestamp_seconds", "The configuration: "+at),
	}
}

// Describe implements prometheus.Collector.
func (m *reloadMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.rules, m.rulesInfo, m.rulesOK, m.rulesAt, m.configInfo, m.configOK, m.configAt} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *reloadMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	told := func(ok, at *prometheus.Desc, o outcome) {
		gauge(ok, o.value())
		gauge(at, o.seconds())
	}
	if set, o := m.a.rules.reloaded(); set != nil {
		gauge(m.rules, float64(len(set.Rules())))
		gauge(m.rulesInfo, 1, set.Hash())
		told(m.rulesOK, m.rulesAt, o)
	}
	gauge(m.configInfo, 1, m.a.Config().Hash)
	told(m.configOK, m.configAt, *m.a.reloaded.Load())
}

// outcome is how the last reload went.
type outcome struct {
	ok bool
	at time.Time // of the last one that succeeded
}

// note is the outcome after another attempt.
func (o outcome) note(err error) outcome {
	o.ok = err == nil
	if o.ok {
		o.at = time.Now()
	}
	return o
}

func (o outcome) value() float64 {
	if o.ok {
		return 1
	}
	return 0
}

func (o outcome) seconds() float64 {
	if o.at.IsZero() {
		return 0
	}
	return float64(o.at.UnixMilli()) / 1000
}
