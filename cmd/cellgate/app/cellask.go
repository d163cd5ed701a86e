package app

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"cellgate/broker/cell"
)

// asks lets a gateway ask the others for what only they know: by notices, which may be lost, so that each question has a time.
type asks struct {
	m    *member
	live *liveness
	// answer is what this gateway says to a question; set before anything is heard.
	answer func(ctx context.Context, q *question) any

	mu      sync.Mutex
	waiting map[string]chan json.RawMessage // by question
}

// question is one of another gateway.
type question struct {
	ID   string `json:"id"`
	From string `json:"from"`
	// What is vehicles (whose VINs begin with Prefix, behind After, at most Limit), vehicle, disconnect (with an Endpoint, if it is to go
	// there), or operators (what rules remember of a vehicle that From has, by a claim of Epoch and Since).
	What     string `json:"what"`
	VIN      string `json:"vin,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	After    string `json:"after,omitempty"`
	Limit    int    `json:"limit,omitempty"`
	Epoch    int64  `json:"epoch,omitempty"`
	Since    int64  `json:"since,omitempty"`
}

// askLimit is how long another gateway has to answer.
const askLimit = 2 * time.Second

// errNoAnswer says that a gateway did not answer in time.
var errNoAnswer = errors.New("the gateway does not answer")

// ask asks a gateway, and reads its answer into out.
func (a *asks) ask(ctx context.Context, node string, q question, out any) error {
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
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := a.m.tell(ctx, node, "ask", string(text)); err != nil {
		return err
	}
	select {
	case got := <-answer:
		return json.Unmarshal(got, out)
	case <-ctx.Done():
		return errNoAnswer
	}
}

// hear takes a question, or an answer. A question is answered on a goroutine of its own: there are as many as others ask.
func (a *asks) hear(word, text string) {
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
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		defer cancel()
		body, err := json.Marshal(a.answer(ctx, &q))
		if err == nil {
			_ = a.m.tell(ctx, q.From, "answer", q.ID+" "+string(body)) // who asked waits no longer than askLimit
		}
	}()
}

// others are the gateways that live, but for this one.
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
