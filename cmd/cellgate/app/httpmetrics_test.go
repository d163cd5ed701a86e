package app

import (
	"net/http"
	"testing"

	"cellgate/test/check"
	"cellgate/test/harness"
)

// TestRequestsAreCounted: by pattern, so that requests for unknown paths create no labels.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	a, _ := boot(t, write(t, t.TempDir(), ""))
	for path, n := range map[string]int{"/healthz": 2, "/v1/vehicles/X": 1, "/nothing/1": 1, "/nothing/2": 1} {
		for range n {
			_, _, _, err := harness.Call(t.Context(), http.MethodGet, a.HTTPURL()+path, "", nil)
			check.OK(t, err)
		}
	}
	got := check.Series(t, a.reg.all)
	for labels, want := range map[string]float64{
		"{code=2xx,route=GET /healthz}": 2, "{code=4xx,route=GET /v1/vehicles/{vin}}": 1, "{code=4xx,route=other}": 2,
	} {
		if n := got["cellgate_http_requests_total"+labels]; n != want {
			t.Errorf("%s: %v, want %v of %v", labels, n, want, got)
		}
	}
}
