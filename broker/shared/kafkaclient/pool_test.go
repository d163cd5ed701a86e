package kafkaclient

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cellgate/test/fakekafka"
)

// A request may hold the old client when a new topic replaces it, and use it only then. Not parallel: it counts
// goroutines.
func TestReplacedClientIsClosedByItsLastRequest(t *testing.T) { //nolint:paralleltest // see above
	c := fakekafka.Cluster(t)
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p := producer(t, c)
	early, late := p.client.take(), p.client.take()
	p.client.replace(p.o.client([]string{"other"}))
	if err := ping(ctx, early.Client); err != nil {
		t.Fatal(err)
	}
	early.release()
	if err := ping(ctx, late.Client); err != nil {
		t.Fatal(err)
	}
	late.release()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}
