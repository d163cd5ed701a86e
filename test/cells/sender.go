//go:build real || bench

package cells

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/harness"
	"cellgate/test/mqtt"
)

const (
	senderPatience = 5 * time.Second // for an answer
	senderTries    = 6               // per command or cancel
)

// sender sends commands to a cell's gateways, one after the other.
type sender struct {
	cell *Cell
	name string
	rng  *rand.Rand
	kgo  *kgo.Client

	number  int
	clients map[*Node]*mqtt.Client
	// last are ids of previous commands, for queries.
	last [16]*Command
}

// senders run until ctx ends and together send rate commands per second, which are recorded in Commands.
type senders struct {
	cell  *Cell
	group sync.WaitGroup

	mu       sync.Mutex
	Commands []*Command
}

func (s *senders) add(c *Command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Commands = append(s.Commands, c)
}

// startSenders starts n senders that stop after most commands.
func startSenders(ctx context.Context, c *Cell, n int, rate float64, most int) *senders {
	c.t.Helper()
	all := &senders{cell: c}
	producer := c.Kafka.Client(c.t, kgo.RequiredAcks(kgo.AllISRAcks()))
	for i := range n {
		s := &sender{
			cell: c, name: fmt.Sprintf("sender-%d", i), rng: rand.New(rand.NewPCG(c.seed, uint64(1000+i))), kgo: producer, //nolint:gosec // a simulation
			clients: map[*Node]*mqtt.Client{},
		}
		all.group.Add(1)
		go func() {
			defer all.group.Done()
			defer s.close()
			tick := time.NewTicker(time.Duration(float64(n) / rate * float64(time.Second)))
			defer tick.Stop()
			for s.number < most/n {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					s.one(ctx, all)
				}
			}
		}()
	}
	return all
}

func (s *sender) close() {
	for _, c := range s.clients {
		c.Drop()
	}
}

// one sends a command by one of the three transports, and cancels, queries or repeats some of them.
func (s *sender) one(ctx context.Context, all *senders) {
	s.number++
	cmd := &Command{
		ID: fmt.Sprintf("%s-%d", s.name, s.number), VIN: s.cell.Cars[s.rng.IntN(len(s.cell.Cars))].VIN, Via: "http",
		TTL: []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second}[s.rng.IntN(4)], Began: time.Now(),
	}
	cmd.Meaning = cmd.ID
	all.add(cmd)
	switch n := s.rng.IntN(10); {
	case n < 5:
		s.overHTTP(ctx, cmd)
		s.rival(ctx, cmd, all)
	case n < 7:
		cmd.Via = "mqtt"
		s.overMQTT(ctx, cmd)
	default:
		cmd.Via = "kafka"
		s.overKafka(ctx, cmd)
	}
	if s.rng.IntN(6) == 0 && cmd.ID != "" {
		s.cancel(ctx, cmd)
	}
	if before := s.last[s.rng.IntN(len(s.last))]; before != nil && before.ID != "" {
		s.look(ctx, before)
	}
	s.last[s.rng.IntN(len(s.last))] = cmd
}

// rival sometimes sends another command with the same id.
func (s *sender) rival(ctx context.Context, cmd *Command, all *senders) {
	if s.rng.IntN(30) != 0 {
		return
	}
	other := &Command{ID: cmd.ID, VIN: cmd.VIN, Via: "http", Meaning: cmd.Meaning + "-rival", TTL: cmd.TTL, Began: time.Now()}
	all.add(other)
	s.overHTTP(ctx, other)
}

func (s *sender) payload(cmd *Command) map[string]string {
	return map[string]string{"meaning": cmd.Meaning}
}

// again repeats a call with an unknown outcome at another gateway.
func (s *sender) again(ctx context.Context, call func(*Node) (known bool)) {
	for try := range senderTries {
		if call(s.cell.pick(s.rng)) || ctx.Err() != nil {
			return
		}
		pause(ctx, time.Duration(try+1)*100*time.Millisecond)
	}
}

func (s *sender) overHTTP(ctx context.Context, cmd *Command) {
	body := map[string]any{"id": cmd.ID, "name": "do", "payload": s.payload(cmd), "ttl": cmd.TTL.String()}
	s.again(ctx, func(n *Node) bool {
		return s.call(ctx, cmd, n, "send", http.MethodPost, "/v1/vehicles/"+cmd.VIN+"/commands", body) != SaidUnknown
	})
}

// cancel cancels a command that has not been sent.
func (s *sender) cancel(ctx context.Context, cmd *Command) {
	s.again(ctx, func(n *Node) bool {
		return s.call(ctx, cmd, n, "cancel", http.MethodDelete, "/v1/vehicles/"+cmd.VIN+"/commands/"+cmd.ID, nil) != SaidUnknown
	})
}

func (s *sender) look(ctx context.Context, cmd *Command) {
	s.call(ctx, cmd, s.cell.pick(s.rng), "look", http.MethodGet, "/v1/vehicles/"+cmd.VIN+"/commands/"+cmd.ID, nil)
}

// call calls the HTTP API and records the answer.
func (s *sender) call(ctx context.Context, cmd *Command, n *Node, call, method, path string, body any) Said {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), senderPatience)
	defer cancel()
	began := time.Now()
	status, head, answer, err := harness.Call(limited, method, "http://"+n.HTTP+path, s.cell.Token(), body)
	a := understood(status, answer, err)
	a.Gateway, a.Call, a.Took = n.Name, call, time.Since(began)
	if status == http.StatusServiceUnavailable && head.Get("Retry-After") == "" {
		s.cell.t.Errorf("%s at %s: 503 without Retry-After: %s", call, n.Name, answer)
	}
	if call == "send" && a.Said == SaidState {
		a.Said = SaidAccepted
	}
	cmd.Answered(a)
	return a.Said
}

// understood returns the meaning of an HTTP response.
func understood(status int, body []byte, err error) Answer {
	var c struct {
		State, Cause string
		ExpiresAt    time.Time `json:"expires_at"`
		Detail       string
		Title        string
	}
	_ = json.Unmarshal(body, &c)
	a := Answer{State: c.State, Cause: c.Cause, Expires: c.ExpiresAt, Detail: fmt.Sprint(status, " ", c.Detail)}
	switch {
	case err != nil:
		a.Said, a.Detail = SaidUnknown, err.Error()
	case status == http.StatusOK || status == http.StatusAccepted:
		a.Said, a.Detail = SaidState, ""
	case status == http.StatusNotFound:
		a.Said = SaidMissing
	case status == http.StatusConflict:
		a.Said = SaidConflict
	case status >= 500 || status == http.StatusTooManyRequests:
		a.Said = SaidUnknown
	default:
		a.Said = SaidRefused
	}
	return a
}

func (s *sender) overMQTT(ctx context.Context, cmd *Command) {
	payload, _ := json.Marshal(s.payload(cmd))
	p := mqtt.Publish{
		Topic: "v1/" + cmd.VIN + "/cmd/" + cmd.ID + "/do", Payload: string(payload), QoS: 1,
		Props: [][]byte{mqtt.Number(mqtt.MessageExpiry, uint32(cmd.TTL.Seconds()))},
	}
	s.again(ctx, func(n *Node) bool {
		a := Answer{Gateway: n.Name, Call: "send", Said: SaidUnknown}
		c, err := s.client(n)
		if err == nil {
			var reason byte
			p.ID = 0
			if reason, err = c.Publish(p); err == nil {
				a.Said, a.Detail = saidBy(reason), fmt.Sprintf("0x%02X", reason)
			}
		}
		if err != nil {
			a.Detail = err.Error()
			s.hangUp(n)
		}
		cmd.Answered(a)
		return a.Said != SaidUnknown
	})
}

// saidBy returns the meaning of a reason code to the sender of a command.
func saidBy(reason byte) Said {
	switch reason {
	case 0x00, 0x10: // success; no matching subscribers
		return SaidAccepted
	case 0x83: // conflict, or already expired
		return SaidConflict
	case 0x87, 0x90, 0x99:
		return SaidRefused
	}
	return SaidUnknown // 0x80, 0x88, 0x97
}

func (s *sender) client(n *Node) (*mqtt.Client, error) {
	if c := s.clients[n]; c != nil {
		return c, nil
	}
	c, err := mqtt.Dial(n.MQTT, mqtt.V5, nil)
	if err != nil {
		return nil, err
	}
	c.Patience = senderPatience
	if err := c.Enter(mqtt.Connect{Version: mqtt.V5, ID: "control/" + s.name, User: "control", Password: s.cell.service()}); err != nil {
		c.Drop()
		return nil, err
	}
	s.clients[n] = c
	return c, nil
}

func (s *sender) hangUp(n *Node) {
	if c := s.clients[n]; c != nil {
		c.Drop()
		delete(s.clients, n)
	}
}

// overKafka writes a record. Every third has no id; its position in the topic then identifies it.
func (s *sender) overKafka(ctx context.Context, cmd *Command) {
	named := s.number%3 != 0
	value := map[string]any{"vin": cmd.VIN, "name": "do", "payload": s.payload(cmd), "ttl": cmd.TTL.String()}
	if named {
		value["id"] = cmd.ID
	}
	b, _ := json.Marshal(value)
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	r := &kgo.Record{Topic: "vehicle.commands", Key: []byte(cmd.VIN), Value: b, Timestamp: time.Now()}
	a := Answer{Gateway: "kafka", Call: "send", Said: SaidAccepted, Expires: r.Timestamp.Truncate(time.Millisecond).Add(cmd.TTL)}
	if err := s.kgo.ProduceSync(limited, r).FirstErr(); err != nil {
		a.Said, a.Detail = SaidUnknown, err.Error()
		if !errors.Is(err, context.DeadlineExceeded) {
			s.cell.t.Errorf("kafka: %v", err)
		}
	}
	if !named {
		cmd.ID = "" // unknown without the record's position
		if a.Said == SaidAccepted {
			cmd.ID = fmt.Sprintf("kafka-%d-%d-%s", r.Partition, r.Offset, strconv.FormatInt(r.Timestamp.UnixMilli(), 36))
		}
	}
	cmd.Answered(a)
}
