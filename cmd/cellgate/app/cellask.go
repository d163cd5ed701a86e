package app

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cellgate/broker/cell"
)

// asks lets a gateway query the others for what only they know. Questions and answers are notices and may be lost, so
// each question has a timeout.
type asks struct {
	m    *member
	live *liveness
	// answer answers a question. It is set before any notice is received.
	answer func(ctx context.Context, q *question) any
	limit  atomic.Int64 // askLimit; longer in tests

	mu      sync.Mutex
	waiting map[string]chan json.RawMessage // by question ID
}

// question is a question of one gateway to another.
type question struct {
	ID   string `json:"id"`
	From string `json:"from"`
	// What is vehicles (VINs that begin with Prefix, after After, at most Limit), vehicle, disconnect (with Endpoint as
	// the server reference, if set), or operators (the operators' state of a vehicle that From claims, with Epoch and
	// Since).
	What     string `json:"what"`
	VIN      string `json:"vin,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	After    string `json:"after,omitempty"`
	Limit    int    `json:"limit,omitempty"`
	Epoch    int64  `json:"epoch,omitempty"`
	Since    int64  `json:"since,omitempty"`
}

// askLimit is how long a gateway waits for another one's answer.
const askLimit = 2 * time.Second

func newAsks(m *member, live *liveness) *asks {
	a := &asks{m: m, live: live, waiting: map[string]chan json.RawMessage{}}
	a.limit.Store(int64(askLimit))
	return a
}

// errNoAnswer means that a gateway did not answer in time.
var errNoAnswer = errors.New("the gateway does not answer")

// ask sends a question to a gateway and decodes the answer into out. It calls unheard,
// if set, when the gateway was not listening.
func (a *asks) ask(ctx context.Context, node string, q question, unheard func(), out any) error {
	q.ID, q.From = randomName(), a.m.self.Node
	text, err := json.Marshal(q)
	if err != nil {
		return err
	}
	answer := make(chan json.RawMessage, 1)
	a.mu.Lock()
	a.waiting[q.ID] = answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.waiting, q.ID)
		a.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.limit.Load()))
	defer cancel()
	listening, err := a.m.notify(ctx, node, "ask", string(text))
	if err != nil {
		return err
	}
	if !listening && unheard != nil {
		unheard()
	}
	select {
	case got := <-answer:
		return json.Unmarshal(got, out)
	case <-ctx.Done():
		return errNoAnswer
	}
}

// onNotice handles a question or an answer. Each question is answered on a goroutine of its own.
func (a *asks) onNotice(word, text string) {
	if word == "answer" {
		id, body, _ := strings.Cut(text, " ")
		a.mu.Lock()
		defer a.mu.Unlock()
		if c := a.waiting[id]; c != nil {
			select {
			case c <- json.RawMessage(body):
			default:
			}
		}
		return
	}
	var q question
	if json.Unmarshal([]byte(text), &q) != nil {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a.limit.Load()))
		defer cancel()
		body, err := json.Marshal(a.answer(ctx, &q))
		if err == nil {
			_, _ = a.m.notify(ctx, q.From, "answer", q.ID+" "+string(body)) // the other gateway waits no longer
		}
	}()
}

// others returns the living gateways except this one.
func (a *asks) others() []cell.Gateway {
	all, _ := a.live.gateways()
	var others []cell.Gateway
	for _, g := range all {
		if g.Lives && g.Node != a.m.self.Node {
			others = append(others, g)
		}
	}
	return others
}
