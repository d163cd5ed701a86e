package conformance

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"

	"cellgate/test/check"
	"cellgate/test/mqtt"
)

func websocketCases() []testCase {
	return []testCase{
		both("websocket/frames", testWebSocketFrames),
		both("websocket/text_frame", testWebSocketText),
		both("websocket/subprotocol", testWebSocketSubprotocol),
	}
}

func (e *env) websocket(t *testing.T, protocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), mqtt.Patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "ws://"+e.ws+"/mqtt", &websocket.DialOptions{Subprotocols: protocols})
	if err == nil {
		t.Cleanup(func() { _ = ws.CloseNow() })
	}
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	return ws, resp, err
}

// testWebSocketFrames sends split and combined packets: messages and packets are not aligned.
func testWebSocketFrames(t *testing.T, e *env, v byte) {
	ws, _, err := e.websocket(t, "mqtt")
	check.OK(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	topic := "websocket/" + e.unique()
	stream := slices.Concat(mqtt.Connect{Version: v, ID: e.unique()}.Encode(),
		mqtt.Subscribe(v, 1, nil, mqtt.Filter(topic, 1)),
		mqtt.Publish{Topic: topic, Payload: "x", QoS: 1, ID: 2}.Encode(v), mqtt.Pingreq())
	for _, part := range [][]byte{stream[:1], stream[1:5], stream[5 : len(stream)-3], stream[len(stream)-3:]} {
		check.OK(t, ws.Write(ctx, websocket.MessageBinary, part))
	}
	c := mqtt.Over(t, v, websocket.NetConn(ctx, ws, websocket.MessageBinary)) // fails on any other type of message
	c.Expect(mqtt.CONNACK)
	c.Expect(mqtt.SUBACK)
	c.Await(mqtt.PUBACK, 2)
	c.Await(mqtt.PINGRESP, 0)
	equal(t, "payload", c.Message().Payload, "x")
}

func testWebSocketText(t *testing.T, e *env, v byte) {
	for _, first := range []bool{true, false} {
		ws, _, err := e.websocket(t, "mqtt")
		check.OK(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), mqtt.Patience)
		defer cancel()
		if !first {
			if err := ws.Write(ctx, websocket.MessageBinary,
				mqtt.Connect{Version: v, ID: e.unique()}.Encode()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.Read(ctx); err != nil {
				t.Fatal(err)
			}
		}
		check.OK(t, ws.Write(ctx, websocket.MessageText, mqtt.Pingreq()))
		for err == nil { // a DISCONNECT may come
			_, _, err = ws.Read(ctx)
		}
		if ctx.Err() != nil {
			t.Error("the gateway did not close the connection")
		}
	}
}

func testWebSocketSubprotocol(t *testing.T, e *env, _ byte) {
	for _, offered := range [][]string{{"mqtt"}, {"mqttv3.1", "mqtt"}, {"mqtt", "other"}} {
		ws, _, err := e.websocket(t, offered...)
		check.OK(t, err)
		equal(t, "subprotocol", ws.Subprotocol(), "mqtt")
	}
	if _, resp, err := e.websocket(t, "other"); err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another subprotocol: %v", err)
	}
}
