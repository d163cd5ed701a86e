package app

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"cellgate/test/check"
)

func TestTheConsoleIsServedUnlessItIsOff(t *testing.T) {
	t.Parallel()
	on, _ := boot(t, write(t, t.TempDir(), ""))
	file := write(t, t.TempDir(), "")
	check.Replace(t, file, `http: {address: "127.0.0.1:0"}`, `http: {address: "127.0.0.1:0", console: false}`)
	off, _ := boot(t, file)
	for a, want := range map[*App]int{on: http.StatusOK, off: http.StatusNotFound} {
		resp, err := http.Get(a.HTTPURL() + "/")
		check.OK(t, err)
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Body.Close() != nil || resp.StatusCode != want {
			t.Errorf("%d, want %d, %v", resp.StatusCode, want, err)
		}
	}
	var no struct{ Status int }
	if code := get(t, on, "/nothing", "", &no); code != http.StatusNotFound || no.Status != code {
		t.Errorf("what is not there: %d, %+v", code, no)
	}
}

// TestTheChartsMetricsAreThere: the gateway has every metric that the console's charts use.
func TestTheChartsMetricsAreThere(t *testing.T) {
	t.Parallel()
	code := check.Read(t, "../console/history.go")
	names := regexp.MustCompile(`"(cellgate_[a-z_]+)"`).FindAllStringSubmatch(string(code), -1)
	if len(names) < 6 {
		t.Fatalf("%v", names)
	}
	a, _ := boot(t, write(t, t.TempDir(), ""))
	drive(t, a, 0)
	there := map[string]bool{}
	for name := range check.Series(t, a.reg.all) {
		name, _, _ = strings.Cut(name, "{")
		there[name] = true
	}
	for _, n := range names {
		if !there[n[1]] {
			t.Errorf("there is no metric %s any more", n[1])
		}
	}
}
