package kafkaclient

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// A request may hold the previous client when a new topic replaces it, and use it only then. Not parallel: it counts
// goroutines.
func TestReplacedClientIsClosedByItsLastRequest(t *testing.T) { //nolint:paralleltest // see above
	c := fakekafka.Cluster(t)
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(context.Background(), check.Patience)
	defer cancel()
	p := producer(t, c)
	early, late := p.client.take(), p.client.take()
	p.client.replace(p.o.client([]string{"other"}))
	check.OK(t, ping(ctx, early.Client))
	early.release()
	check.OK(t, ping(ctx, late.Client))
	late.release()
	check.OK(t, p.Close(ctx))
	goleak.VerifyNone(t, before)
}
