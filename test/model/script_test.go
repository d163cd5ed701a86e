package model

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"cellgate/test/check"
)

// TestScriptsDecideAsTheModel runs transitions of every kind against the scripts in an embedded Redis. All of them run
// against a real one in test/real.
func TestScriptsDecideAsTheModel(t *testing.T) {
	t.Parallel()
	all, err := Transitions(Replayed())
	check.OK(t, err)
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1, DisableIdentity: true, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = client.Close() })
	b, err := NewBridge(t.Context(), client)
	check.OK(t, err)
	t.Cleanup(func() { _ = b.Close() })
	met := map[string]int{}
	for _, one := range all {
		if met[one.Decided()]++; met[one.Decided()] > 20 {
			continue
		}
		check.OK(t, b.Replay(t.Context(), one))
	}
	for _, name := range slices.Sorted(maps.Keys(met)) {
		t.Logf("%5d %s", met[name], name)
	}
	for _, must := range decided() {
		if met[must] == 0 {
			t.Errorf("no transition is %q: the cases are too small", must)
		}
	}
}

// decided lists the verdicts of each script, except those outside of the model (full queues, ids).
func decided() (all []string) {
	for script, verdicts := range map[string]string{
		"claim": "ok older", "reserve": "ok conflict closed", "accept": "ok already conflict expired moved closed", "send": "ok already doubt not-owner expired missing closed",
		"report": "ok already missing closed", "cancel": "ok already doubt missing closed", "expire": "ok already missing closed",
		"look": "ok missing closed", "offer": "ok", "told": "ok", "join": "ok waiting moved empty", "forget": "ok waiting",
	} {
		for v := range strings.FieldsSeq(verdicts) {
			all = append(all, script+": "+v)
		}
	}
	return append(all, "claim: ok, and tells")
}
