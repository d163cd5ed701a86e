package broker

import (
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cellgate/auth"
	"cellgate/broker/frame"
	"cellgate/test/check"
	"cellgate/test/mqtt"
)

// slowAuth calls then before it returns the nth result of Permissions.
type slowAuth struct {
	Authenticator
	nth   int32
	calls atomic.Int32
	then  func()
}

func (a *slowAuth) Permissions(id auth.Identity) *auth.Permissions {
	p := a.Authenticator.Permissions(id)
	if a.calls.Add(1) == a.nth {
		a.then()
	}
	return p
}

// A role change takes effect even if it happens after a connection has read its permissions and before
// RefreshPermissions can find it.
func TestRolesChangeDuringConnect(t *testing.T) {
	t.Parallel()
	slow := &slowAuth{nth: 2}
	h := newHarness(t, func(o *Options) { slow.Authenticator, o.Auth = o.Auth, slow })
	slow.then = func() {
		c := authConfig(filepath.Join(h.dir, "auth"))
		c.Roles = map[string]auth.RolePolicy{"lab": {Publish: []string{"new/#"}, AssignedClientID: true}}
		check.OK(t, h.auth.Reconfigure(c))
		h.b.RefreshPermissions()
	}
	c := h.connect("lab", "x", frame.Version5, mqtt.Connect{})
	c.Send(publishFrame(5, 1, 1, "old/x", "x"))
	c.ExpectAck(mqtt.PUBACK, 1, frame.ReasonNotAuthorized)
}

// A token that is refreshed while RefreshPermissions uses the old one takes effect in the end.
func TestRolesChangeDuringRefresh(t *testing.T) {
	t.Parallel()
	slow := &slowAuth{nth: 3} // CONNECT asks twice
	h := newHarness(t, func(o *Options) { slow.Authenticator, o.Auth = o.Auth, slow })
	token := func(scope string) string {
		text, _, err := h.auth.Issue(auth.IssueRequest{Subject: "billing", Role: auth.RoleService, Scopes: []string{scope}, TTL: time.Hour})
		check.OK(t, err)
		return text
	}
	c := h.connect("tokens", "billing/1", frame.Version5, mqtt.Connect{Props: authProps("CELL-JWT", token(auth.ScopeCommandSend))})
	answered := make(chan byte, 1)
	slow.then = func() {
		c.Send(mqtt.Frame(0xF0, slices.Concat([]byte{0x19}, mqtt.Properties(authProps("CELL-JWT", token(auth.ScopeTelemetryRead))...))))
		go func() {
			first, _, _ := c.ReadFrame()
			answered <- first
		}()
		select {
		case first := <-answered:
			answered <- first
		case <-time.After(300 * time.Millisecond): // it waits for RefreshPermissions
		}
	}
	h.b.RefreshPermissions()
	if first := <-answered; first != 0xF0 {
		t.Fatalf("answer to AUTH: %#x", first)
	}
	c.Send(publishFrame(5, 1, 1, "v1/"+testVIN+"/cmd/1/unlock", "x"))
	c.ExpectAck(mqtt.PUBACK, 1, frame.ReasonNotAuthorized)
}
