package app

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cellgate/broker/shared/metric"
)

// httpMetrics are the metrics of one listener's requests. Routes are patterns, so that clients cannot create labels.
type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newHTTPMetrics(reg prometheus.Registerer) *httpMetrics {
	to := metric.For(reg)
	return &httpMetrics{
		requests: to.Counters("http_requests_total", "HTTP requests by route (other: no route) and class of the status code.", "route", "code"),
		seconds: to.Histograms("http_request_seconds", "Duration of HTTP requests by route, including streams and ?wait=.",
			[]float64{.001, .005, .025, .1, .5, 2.5, 10, 60}, "route"),
	}
}

// measured measures the requests that h answers. The mux below it sets the request's pattern.
func (m *httpMetrics) measured(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began, answer := time.Now(), &answered{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			route := r.Pattern
			if route == "" {
				route = "other"
			}
			if _, path, found := strings.Cut(route, " "); found {
				route = r.Method + " " + path // GET patterns match HEAD too
			}
			m.requests.WithLabelValues(route, strconv.Itoa(answer.status/100)+"xx").Inc()
			m.seconds.WithLabelValues(route).Observe(time.Since(began).Seconds())
		}()
		h.ServeHTTP(answer, r)
	})
}
