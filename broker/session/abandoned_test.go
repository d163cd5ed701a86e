package session

import (
	"context"
	"errors"
	"testing"
	"time"

	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// A refused CONNECT (state file too slow) leaves no session behind. A client that later finds it present would rely on
// subscriptions that it never made (MQTT 5, 3.2.2.1.1).
func TestSessionOfARefusedConnectIsNotPresent(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*env){
		"a new client": func(*env) {},
		"a clean start": func(e *env) {
			c, _ := e.attach("c")
			c.subscribe(sub("t", 1))
			c.detach(true)
			e.checkpoint()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			before(e)
			stuck, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				ended <- e.db.Update(func(*statefile.Tx) error {
					close(stuck)
					<-goOn
					return nil
				})
			}()
			<-stuck
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, _, err := e.tryAttach(ctx, "c", clean); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("attached on a disk that hangs: %v", err)
			}
			close(goOn)
			check.OK(t, <-ended)
			e.checkpoint()
			c, present := e.attach("c")
			if present {
				t.Error("the session of the refused CONNECT is present")
			}
			c.detach(true)
			e.kill()
			if _, present = e.attach("c"); !present {
				t.Error("the session is not present after a restart")
			}
		})
	}
}
