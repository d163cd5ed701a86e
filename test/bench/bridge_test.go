//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/segmentio/kafka-go"

	"cellgate/test/check"
	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

// bridgeEnv makes this binary the bridge: its address, the Kafka brokers and the Redis, separated by spaces.
const bridgeEnv = "CELLGATE_BENCH_BRIDGE"

// Packet types, in the first byte of a frame.
const (
	typeConnect = 1
	typePublish = 3
)

// startBridge starts the peer of the low-rate path: a bridge that stores nothing, acknowledges at once, and writes to
// Kafka and Redis in batches at the gateway's pace. Its figures are the cost of the machine, Kafka and the clients.
func startBridge(t *testing.T, k *harness.Kafka, redis string) (addr string, p *harness.Process) {
	t.Helper()
	exe, err := os.Executable()
	check.OK(t, err)
	addr = harness.FreeAddr(t)
	p = harness.StartProcess(t, "bridge", t.TempDir(), []string{bridgeEnv + "=" + strings.Join([]string{addr, strings.Join(k.Brokers, ","), redis}, " ")}, exe)
	harness.AwaitTCP(t, addr, 10*time.Second, p)
	return addr, p
}

// bridge serves until it is killed.
func bridge(spec string) error {
	parts := strings.Fields(spec)
	l, err := net.Listen("tcp", parts[0])
	if err != nil {
		return err
	}
	w := &kafka.Writer{
		Addr: kafka.TCP(strings.Split(parts[1], ",")...), Topic: "vehicle.telemetry", Balancer: &kafka.Hash{},
		RequiredAcks: kafka.RequireAll, BatchTimeout: 3 * time.Millisecond, BatchSize: 10000, Async: true,
	}
	states := make(chan bridged, 100000)
	go writeStates(goredis.NewClient(&goredis.Options{Addr: parts[2]}), states)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			err := bridgeConn(c, w, states)
			if err != nil && !errors.Is(err, net.ErrClosed) {
				_, _ = fmt.Fprintln(os.Stderr, "bridge:", err)
			}
			_ = c.Close()
		}()
	}
}

// bridged is a message on its way to Redis.
type bridged struct{ vin, payload string }

func bridgeConn(conn net.Conn, w *kafka.Writer, states chan<- bridged) error {
	c := mqtt.New(conn, mqtt.V4)
	for {
		first, body, err := c.ReadFrame()
		if err != nil {
			return nil //nolint:nilerr // the vehicle has disconnected
		}
		switch first >> 4 {
		case typeConnect:
			err = c.Send([]byte{0x20, 2, 0, 0})
		case typePublish:
			n := int(body[0])<<8 | int(body[1])
			topic, id, payload := string(body[2:2+n]), body[2+n:4+n], body[4+n:]
			vin := strings.Split(topic, "/")[1]
			if err = w.WriteMessages(context.Background(), kafka.Message{Key: []byte(vin), Value: payload}); err != nil {
				return err
			}
			states <- bridged{vin, string(payload)}
			err = c.Send([]byte{0x40, 2, id[0], id[1]})
		}
		if err != nil {
			return err
		}
	}
}

// writeStates writes the received states every 10 ms.
func writeStates(client *goredis.Client, states <-chan bridged) {
	for s := range states {
		pipe := client.Pipeline()
		pipe.HSet(context.Background(), "bridge:"+s.vin, "payload", s.payload)
		for range len(states) {
			s = <-states
			pipe.HSet(context.Background(), "bridge:"+s.vin, "payload", s.payload)
		}
		if _, err := pipe.Exec(context.Background()); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "bridge:", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
