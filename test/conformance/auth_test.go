package conformance

import (
	"testing"

	"cellgate/test/mqtt"
)

func authCases() []testCase {
	return []testCase{
		only(mqtt.V5, "auth/unknown_method", testUnknownMethod),
		only(mqtt.V5, "auth/method", testAuthMethod),
		only(mqtt.V5, "auth/without_method", testAuthWithoutMethod),
		only(mqtt.V5, "auth/again", testReauthentication),
		only(mqtt.V5, "auth/again_failed", testReauthenticationFailed),
		both("auth/token", testToken),
	}
}

// method is the gateway's one authentication method: its data is a token.
const method = "CELL-JWT"

func authPacket(reason byte, props ...[]byte) []byte {
	return mqtt.Frame(mqtt.AUTH<<4, []byte{reason}, mqtt.Properties(props...))
}

// token issues a token for a service with all permissions.
func (e *env) token(t *testing.T, name string) string {
	t.Helper()
	return e.g.Cellgate("token", "issue", "--config", e.g.Config, "--service", name, "--role", "lab")
}

// authenticated connects with the authentication method.
func (e *env) authenticated(t *testing.T, v byte) (c *mqtt.T, name string) {
	t.Helper()
	name = e.unique()
	c = e.dialTo(t, v, e.tokens)
	ack := c.Open(mqtt.Connect{
		Version: v, ID: name,
		Props: [][]byte{mqtt.String(mqtt.AuthMethod, method), mqtt.String(mqtt.AuthData, e.token(t, name))},
	})
	p, _ := ack.Prop(mqtt.AuthMethod)
	equal(t, "method of CONNACK", p.Value, method)
	return c, name
}

func testUnknownMethod(t *testing.T, e *env, v byte) {
	for _, address := range []string{e.tokens, e.lab} {
		c := e.dialTo(t, v, address)
		c.Send(mqtt.Connect{Version: v, ID: "x", Props: [][]byte{mqtt.String(mqtt.AuthMethod, "SCRAM-SHA-1")}}.Encode(),
			authPacket(0x18, mqtt.String(mqtt.AuthMethod, "SCRAM-SHA-1")))
		equal(t, "reason", c.Expect(mqtt.CONNACK).Reason, 0x8C)
		c.ExpectClosed()
	}
}

func testAuthMethod(t *testing.T, e *env, v byte) {
	c, _ := e.authenticated(t, v)
	c.Ping()
	c = e.dialTo(t, v, e.tokens)
	c.Send(mqtt.Connect{Version: v, ID: "x", Props: [][]byte{
		mqtt.String(mqtt.AuthMethod, method),
		mqtt.String(mqtt.AuthData, "bad"),
	}}.Encode())
	equal(t, "reason", c.Expect(mqtt.CONNACK).Reason, 0x86)
	c.ExpectClosed()
}

func testAuthWithoutMethod(t *testing.T, e *env, v byte) {
	_, ack := e.open(t, mqtt.Connect{Version: v, ID: e.unique()})
	if p, there := ack.Prop(mqtt.AuthMethod); there {
		t.Errorf("CONNACK with method %q", p.Value)
	}
	e.violates(t, v, authPacket(0x19, mqtt.String(mqtt.AuthMethod, method)), 0x82)
	e.violates(t, v, authPacket(0x18, mqtt.String(mqtt.AuthMethod, method)), 0x82)
	e.violates(t, v, mqtt.Frame(mqtt.AUTH<<4), 0x81, 0x82)
}

func testReauthentication(t *testing.T, e *env, v byte) {
	c, name := e.authenticated(t, v)
	for range 2 {
		c.Send(authPacket(0x19, mqtt.String(mqtt.AuthMethod, method), mqtt.String(mqtt.AuthData, e.token(t, name))))
		p := c.Expect(mqtt.AUTH)
		equal(t, "reason", p.Reason, 0)
		m, _ := p.Prop(mqtt.AuthMethod)
		equal(t, "method", m.Value, method)
	}
	c.Publish(mqtt.Publish{Topic: "auth/" + name, QoS: 1})
}

func testReauthenticationFailed(t *testing.T, e *env, v byte) {
	for name, p := range map[string]struct {
		packet  []byte
		reasons []byte
	}{
		"bad token": {
			authPacket(0x19, mqtt.String(mqtt.AuthMethod, method), mqtt.String(mqtt.AuthData, "bad")),
			[]byte{0x87},
		},
		"other subject": {authPacket(0x19, mqtt.String(mqtt.AuthMethod, method),
			mqtt.String(mqtt.AuthData, e.token(t, e.unique()))), []byte{0x87}},
		"other method": {
			authPacket(0x19, mqtt.String(mqtt.AuthMethod, "other"), mqtt.String(mqtt.AuthData, "x")),
			[]byte{0x82, 0x8C},
		},
		"no method":      {authPacket(0x19, mqtt.String(mqtt.ReasonString, "x")), []byte{0x82}},
		"success":        {authPacket(0x00, mqtt.String(mqtt.AuthMethod, method)), []byte{0x81, 0x82}},
		"unknown reason": {authPacket(0x55, mqtt.String(mqtt.AuthMethod, method)), []byte{0x81, 0x82}},
		"continue":       {authPacket(0x18, mqtt.String(mqtt.AuthMethod, method)), []byte{0x82}},
		"flags": {mqtt.Frame(mqtt.AUTH<<4|1, []byte{0x19},
			mqtt.Properties(mqtt.String(mqtt.AuthMethod, method))), []byte{0x81}},
		"method of twice": {authPacket(0x19, mqtt.String(mqtt.AuthMethod, method),
			mqtt.String(mqtt.AuthMethod, method)), []byte{0x82}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := e.authenticated(t, v)
			c.Send(p.packet)
			c.ExpectEnd(p.reasons...)
		})
	}
}

// testToken: with the token as the password, on both versions.
func testToken(t *testing.T, e *env, v byte) {
	name := e.unique()
	token := e.token(t, name)
	c := e.dialTo(t, v, e.tokens)
	c.Open(mqtt.Connect{Version: v, ID: name + "/1", User: name, Password: token})
	c.Publish(mqtt.Publish{Topic: "auth/" + name, QoS: 1})
}
