package console

import (
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cellgate/test/check"
)

// BenchmarkCell is the Cell page with a full hour of samples, which an open page loads every ten seconds.
func BenchmarkCell(b *testing.B) {
	s := &site{now: time.Now()}
	c, err := New(options(s))
	check.OK(b, err)
	for i := range maxSamples {
		x := sample{at: s.now.Add(time.Duration(i) * sampleEvery), rate: math.Sin(float64(i)), p50: 0.004, p99: 0.02, sinkLag: map[string]float64{}, laneLag: map[string]float64{}}
		for _, name := range []string{"kafka", "redis", "central", "webhook", "mqtt"} {
			x.sinkLag[name] = float64(i)
		}
		c.history.ring = append(c.history.ring, x)
	}
	id := people["admin"]
	cookie := &http.Cookie{Name: c.cookieName(), Value: c.sessions.open("admin", &id).key}
	mux := http.NewServeMux()
	c.Register(mux)
	for b.Loop() {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.AddCookie(cookie)
		w := httptest.NewRecorder()
		if mux.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
