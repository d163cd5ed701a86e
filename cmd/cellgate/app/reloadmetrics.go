package app

import (
	"time"

	"cellgate/broker/shared/metric"
)

// reloadReadings returns the metrics of the rules and configuration in force and of their last reload, as in GET
// /v1/rules and /v1/status.
func (p *process) reloadReadings(keeper *ruleKeeper) *metric.Readings {
	const ok, at = ": 1 if the last reload succeeded, 0 if it was refused.", ": time of the last successful reload in seconds since the Unix epoch."
	r := &metric.Readings{}
	rules := r.Add("rules_in_force", "Rules in force.")
	rulesInfo := r.Add("rules_info", "Always 1; the hash of the rule set in force is in its label.", "hash")
	rulesOK := r.Add("rules_last_reload_successful", "Rules"+ok)
	rulesAt := r.Add("rules_last_reload_success_timestamp_seconds", "Rules"+at)
	configInfo := r.Add("config_info", "Always 1; the hash of the configuration file in force is in its label.", "hash")
	configOK := r.Add("config_last_reload_successful", "Configuration with certificates, keys and rules"+ok)
	configAt := r.Add("config_last_reload_success_timestamp_seconds", "Configuration"+at)
	restart := r.Add("config_keys_waiting", "Changed keys of the configuration file that need a restart.")
	r.Read = func(to metric.Sample) {
		if set, o := keeper.reloaded(); set != nil {
			to.Gauge(rules, float64(len(set.Rules())))
			to.Gauge(rulesInfo, 1, set.Hash())
			to.Flag(rulesOK, o.ok)
			to.Gauge(rulesAt, o.seconds())
		}
		o := *p.reloaded.Load()
		to.Gauge(configInfo, 1, p.Config().Hash)
		to.Flag(configOK, o.ok)
		to.Gauge(restart, float64(len(*p.waiting.Load())))
		to.Gauge(configAt, o.seconds())
	}
	return r
}

// outcome is the outcome of the last reload.
type outcome struct {
	ok bool
	at time.Time // of the last successful one
}

// note returns the outcome after another attempt.
func (o outcome) note(err error) outcome {
	o.ok = err == nil
	if o.ok {
		o.at = time.Now()
	}
	return o
}

func (o outcome) seconds() float64 {
	if o.at.IsZero() {
		return 0
	}
	return float64(o.at.UnixMilli()) / 1000
}
