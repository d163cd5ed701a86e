package conformance

import "testing"

func authCases() []testCase {
	return []testCase{
		only(v5, "auth/unknown_method", testUnknownMethod),
		only(v5, "auth/method", testAuthMethod),
		only(v5, "auth/without_method", testAuthWithoutMethod),
		only(v5, "auth/again", testReauthentication),
		only(v5, "auth/again_failed", testReauthenticationFailed),
		both("auth/token", testToken),
	}
}

// method is the gateway's one authentication method: its data is a token.
const method = "CELL-JWT"

func authPacket(reason byte, props ...[]byte) []byte {
	return frame(tAuth<<4, []byte{reason}, properties(props...))
}

// token issues one for a service that may do everything.
func (e *env) token(t *testing.T, name string) string {
	t.Helper()
	return e.g.Cellgate("token", "issue", "--config", e.g.Config, "--service", name, "--role", "lab")
}

// authenticated connects by the method.
func (e *env) authenticated(t *testing.T, v byte) (c *client, name string) {
	t.Helper()
	name = e.unique()
	c = e.dialTo(t, v, e.tokens)
	ack := c.open(connect{
		version: v, id: name, clean: true,
		props: [][]byte{textual(pAuthMethod, method), textual(pAuthData, e.token(t, name))},
	})
	p, _ := ack.prop(pAuthMethod)
	equal(t, "method of CONNACK", p.value, method)
	return c, name
}

func testUnknownMethod(t *testing.T, e *env, v byte) {
	for _, address := range []string{e.tokens, e.lab} {
		c := e.dialTo(t, v, address)
		c.send(connect{version: v, id: "x", clean: true, props: [][]byte{textual(pAuthMethod, "SCRAM-SHA-1")}}.encode(),
			authPacket(0x18, textual(pAuthMethod, "SCRAM-SHA-1")))
		equal(t, "reason", c.expect(tConnack).reason, 0x8C)
		c.expectClosed()
	}
}

func testAuthMethod(t *testing.T, e *env, v byte) {
	c, _ := e.authenticated(t, v)
	c.ping()
	c = e.dialTo(t, v, e.tokens)
	c.send(connect{version: v, id: "x", clean: true, props: [][]byte{textual(pAuthMethod, method), textual(pAuthData, "bad")}}.encode())
	equal(t, "reason", c.expect(tConnack).reason, 0x86)
	c.expectClosed()
}

func testAuthWithoutMethod(t *testing.T, e *env, v byte) {
	_, ack := e.open(t, connect{version: v, id: e.unique(), clean: true})
	if p, there := ack.prop(pAuthMethod); there {
		t.Errorf("CONNACK with method %q", p.value)
	}
	e.violates(t, v, authPacket(0x19, textual(pAuthMethod, method)), 0x82)
	e.violates(t, v, authPacket(0x18, textual(pAuthMethod, method)), 0x82)
	e.violates(t, v, frame(tAuth<<4), 0x81, 0x82)
}

func testReauthentication(t *testing.T, e *env, v byte) {
	c, name := e.authenticated(t, v)
	for range 2 {
		c.send(authPacket(0x19, textual(pAuthMethod, method), textual(pAuthData, e.token(t, name))))
		p := c.expect(tAuth)
		equal(t, "reason", p.reason, 0)
		m, _ := p.prop(pAuthMethod)
		equal(t, "method", m.value, method)
	}
	c.publish(publish{topic: "auth/" + name, qos: 1})
}

func testReauthenticationFailed(t *testing.T, e *env, v byte) {
	for name, p := range map[string]struct {
		packet  []byte
		reasons []byte
	}{
		"bad token":       {authPacket(0x19, textual(pAuthMethod, method), textual(pAuthData, "bad")), []byte{0x87}},
		"other subject":   {authPacket(0x19, textual(pAuthMethod, method), textual(pAuthData, e.token(t, e.unique()))), []byte{0x87}},
		"other method":    {authPacket(0x19, textual(pAuthMethod, "other"), textual(pAuthData, "x")), []byte{0x82, 0x8C}},
		"no method":       {authPacket(0x19, textual(pReason, "x")), []byte{0x82}},
		"success":         {authPacket(0x00, textual(pAuthMethod, method)), []byte{0x81, 0x82}},
		"unknown reason":  {authPacket(0x55, textual(pAuthMethod, method)), []byte{0x81, 0x82}},
		"continue":        {authPacket(0x18, textual(pAuthMethod, method)), []byte{0x82}},
		"flags":           {frame(tAuth<<4|1, []byte{0x19}, properties(textual(pAuthMethod, method))), []byte{0x81}},
		"method of twice": {authPacket(0x19, textual(pAuthMethod, method), textual(pAuthMethod, method)), []byte{0x82}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := e.authenticated(t, v)
			c.send(p.packet)
			c.expectEnd(p.reasons...)
		})
	}
}

// testToken: with the token as the password, on both versions.
func testToken(t *testing.T, e *env, v byte) {
	name := e.unique()
	token := e.token(t, name)
	c := e.dialTo(t, v, e.tokens)
	c.open(connect{version: v, id: name + "/1", clean: true, user: &name, password: &token})
	c.publish(publish{topic: "auth/" + name, qos: 1})
}
