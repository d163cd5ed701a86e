// Package preflight checks, before the gateway starts, everything that its configuration refers to: certificates, Kafka
// and its topics, Redis, rules, the disk, descriptors and the clock. It only writes one file next to the journal, and
// removes it.
package preflight

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cellgate/cmd/cellgate/app"
	"cellgate/configs"
	"cellgate/rules/lang"
	"cellgate/rules/op"
)

// Levels of findings.
const (
	Good    = "ok"
	Warning = "warning" // works, but is probably not intended
	Bad     = "error"   // the gateway would not start, or would not deliver
)

// Finding is the result of one check.
type Finding struct {
	// Check names the check: certificate, kafka, topic, redis, rules, disk, descriptors, clock.
	Check string `json:"check"`
	Level string `json:"level"`
	// Where is the configuration's key, or the topic or file.
	Where string `json:"where"`
	What  string `json:"what"`
	// Do says what to do; empty when there is nothing.
	Do string `json:"do,omitempty"`
}

// checks collects findings.
type checks struct {
	cfg   *configs.Config
	set   *lang.Set // nil when the rules cannot be read
	now   time.Time
	found []Finding
}

// timeLimit is the timeout of each check of something outside.
const timeLimit = 15 * time.Second

// Run makes all checks and returns a finding for each.
func Run(ctx context.Context, cfg *configs.Config) []Finding {
	c := &checks{cfg: cfg, now: time.Now()}
	c.certificates()
	c.rules(ctx)
	c.kafka(ctx)
	clocks := c.redis(ctx)
	c.disk()
	c.descriptors()
	c.clock(ctx, clocks)
	return c.found
}

// Worst returns the highest level among findings.
func Worst(found []Finding) string {
	worst := Good
	for _, f := range found {
		switch f.Level {
		case Bad:
			return Bad
		case Warning:
			worst = Warning
		}
	}
	return worst
}

func (c *checks) good(check, where, format string, args ...any) {
	c.found = append(c.found, Finding{Check: check, Level: Good, Where: where, What: fmt.Sprintf(format, args...)})
}

func (c *checks) warn(check, where, what, do string) {
	c.found = append(c.found, Finding{Check: check, Level: Warning, Where: where, What: what, Do: do})
}

func (c *checks) bad(check, where, what, do string) {
	c.found = append(c.found, Finding{Check: check, Level: Bad, Where: where, What: what, Do: do})
}

func (c *checks) rules(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()
	set, err := app.Rules(ctx, c.cfg)
	if err != nil {
		c.bad("rules", "rules.path", err.Error(), "`cellgate rules check "+string(c.cfg.Rules.Path)+"` shows each place")
		return
	}
	c.set = set
	if sending := set.SendingTo(op.SinkCentral); c.cfg.Central == nil && len(sending) > 0 {
		c.warn("rules", "central", "rules send to the centre ("+strings.Join(sending, ", ")+"), and the configuration has no section central: nothing reads the outbox topics",
			"add the section central, or run `cellgate sync` for the cell, or remove the target central from these rules")
	}
	c.good("rules", "rules.path", "%d rules in %s", len(set.Rules()), c.cfg.Rules.Path)
}
