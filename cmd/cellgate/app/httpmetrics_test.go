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
	families, err := a.reg.all.Gather()
	check.OK(t, err)
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "cellgate_http_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			got[labels["route"]+" "+labels["code"]] = m.GetCounter().GetValue()
		}
	}
	for key, want := range map[string]float64{"GET /healthz 2xx": 2, "GET /v1/vehicles/{vin} 4xx": 1, "other 4xx": 2} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v of %v", key, got[key], want, got)
		}
	}
}
