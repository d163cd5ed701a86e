package authtest

import (
	"path/filepath"
	"strings"
	"testing"

	"cellgate/auth"
	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/configs"
	"cellgate/configs/authority"
	"cellgate/test/check"
	"cellgate/test/harness"
)

const (
	cellID = "cell-test-01"
	vinA   = "LTEST0000000000A1"
	vinB   = "LTEST0000000000B2"
)

// quick removes the connect limit for tests of many connections, and sets the log level to debug, for the search for
// secrets.
const quick = "limits: {connect_rate: 0}\nlog: {level: debug}\n"

// issuer issues with a gateway's keys like the command line, without a process per token.
type issuer struct {
	t testing.TB
	*auth.Authority
}

func issuerOf(t testing.TB, g *harness.Gateway) issuer {
	t.Helper()
	cfg, err := configs.Load(g.Config)
	check.OK(t, err)
	c := authority.Config(cfg)
	c.NoCreate = true
	a, err := auth.Open(c)
	check.OK(t, err)
	t.Cleanup(func() { check.Ended(t, a.Close) })
	return issuer{t, a}
}

func (i issuer) issue(req auth.IssueRequest) (string, auth.Identity) {
	i.t.Helper()
	err := i.Reload() // the gateway may have just revoked or rotated
	check.OK(i.t, err)
	token, id, err := i.Issue(req)
	check.OK(i.t, err)
	return token, id
}

func (i issuer) vehicle(vin string) string {
	token, _ := i.issue(auth.IssueRequest{Subject: vin, Role: auth.RoleVehicle})
	return token
}

func (i issuer) service(name string, scopes ...string) string {
	token, _ := i.issue(auth.IssueRequest{Subject: name, Role: auth.RoleService, Scopes: scopes})
	return token
}

func (i issuer) operator() string {
	token, _ := i.issue(auth.IssueRequest{Subject: "tester", Role: auth.RoleOperator})
	return token
}

func records(t testing.TB, g *harness.Gateway) []message.Record {
	t.Helper()
	var out []message.Record
	err := journal.Dump(filepath.Join(g.Dir, "data", "journal"), 1, func(r *message.Record) error {
		if r.Kind == message.KindPublish {
			out = append(out, r.Clone())
		}
		return nil
	})
	check.OK(t, err)
	return out
}

func auditLog(t testing.TB, g *harness.Gateway) string {
	t.Helper()
	b := check.Read(t, filepath.Join(g.Dir, "data", "audit.log"))
	return string(b)
}

// logs returns everything that a gateway has logged.
func logs(t testing.TB, g *harness.Gateway) string {
	t.Helper()
	b := check.Read(t, g.Log)
	return string(b) + auditLog(t, g)
}

// awaitAudit waits for a line of the audit log that contains all the parts.
func awaitAudit(t testing.TB, g *harness.Gateway, parts ...string) {
	t.Helper()
	check.Eventually(t, "audit line with "+strings.Join(parts, " "), func() bool { return anyLineHas(auditLog(t, g), parts) })
}
