package command

import "testing"

// TestEveryTransition compares every pair of states with the documented state machine.
func TestEveryTransition(t *testing.T) {
	t.Parallel()
	may := map[State][]State{
		Queued:    {Sent, Delivered, Accepted, Succeeded, Failed, Rejected, Expired, Cancelled},
		Sent:      {Delivered, Accepted, Succeeded, Failed, Rejected, Expired},
		Delivered: {Accepted, Succeeded, Failed, Rejected, Expired},
		Accepted:  {Succeeded, Failed, Rejected, Expired},
		Expired:   {Late},
		Late:      {Late},
	}
	for _, from := range States() {
		allowed := map[State]bool{}
		for _, to := range may[from] {
			allowed[to] = true
		}
		for _, to := range append(States(), "unknown") {
			if got := next(from, to); got != allowed[to] {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
		if len(may[from]) == 0 != from.Final() && from != Expired && from != Late {
			t.Errorf("%s: final is %v", from, from.Final())
		}
		if !from.valid() {
			t.Errorf("%s is not valid", from)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"a": true, "A-9_z": true, "": false, "a/b": false, "a b": false, "ä": false, "a+": false,
		string(make([]byte, 65)): false,
	} {
		if ValidID(id) != want {
			t.Errorf("ValidID(%q) = %v", id, !want)
		}
	}
}
