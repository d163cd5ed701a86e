//go:build bench

package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var jsonFile = flag.String("json", "", "write tables and figures to this file, for machines")

// summary collects the results of this process's benchmarks, which TestMain prints at the end.
var summary report

// TestMain prints all tables again after the progress, with the missed bounds.
func TestMain(m *testing.M) {
	if spec := os.Getenv(bridgeEnv); spec != "" {
		_, _ = fmt.Fprintln(os.Stderr, "bridge:", bridge(spec))
		os.Exit(1)
	}
	flag.Parse()
	code := m.Run()
	summary.print(os.Stdout)
	if *jsonFile != "" {
		if err := summary.writeJSON(*jsonFile); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// report is the result of a run. Its methods may be called from any goroutine.
type report struct {
	mu      sync.Mutex
	Tables  []table  `json:"tables"`
	Figures []figure `json:"figures"`
}

// table is a table of the summary; every row has as many cells as Columns.
type table struct {
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = fmt.Sprint(c)
	}
	t.Rows = append(t.Rows, row)
}

// figure is a number with a bound.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Bound and Goal are the highest permitted Value, or with AtLeast the lowest.
	Bound   float64 `json:"bound"`
	Goal    float64 `json:"goal,omitempty"` // 0: none
	AtLeast bool    `json:"at_least,omitempty"`
	Met     bool    `json:"met"`
}

func (f figure) String() string {
	sign := "≤"
	if f.AtLeast {
		sign = "≥"
	}
	goal := ""
	if f.Goal != 0 {
		goal = fmt.Sprintf(", goal %s %.4g %s", sign, f.Goal, f.Unit)
	}
	return fmt.Sprintf("%s: %.4g %s (bound %s %.4g %s%s)", f.Name, f.Value, f.Unit, sign, f.Bound, f.Unit, goal)
}

// add adds a table to the summary and prints it.
func (r *report) add(t table) {
	r.mu.Lock()
	r.Tables = append(r.Tables, t)
	r.mu.Unlock()
	t.print(os.Stdout)
}

// atMost adds a figure to the summary that must not exceed bound. A goal of 0 is none.
func (r *report) atMost(name string, value float64, unit string, bound, goal float64) {
	r.take(figure{Name: name, Value: value, Unit: unit, Bound: bound, Goal: goal, Met: value <= bound})
}

// atLeast adds a figure to the summary that must reach bound. A goal of 0 is none.
func (r *report) atLeast(name string, value float64, unit string, bound, goal float64) {
	r.take(figure{Name: name, Value: value, Unit: unit, Bound: bound, Goal: goal, AtLeast: true, Met: value >= bound})
}

func (r *report) take(f figure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Figures = append(r.Figures, f)
}

func (t *table) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\n%s\n\n| %s |\n|%s\n", t.Title, strings.Join(t.Columns, " | "), strings.Repeat("---|", len(t.Columns)))
	for _, row := range t.Rows {
		_, _ = fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	_, _ = fmt.Fprintln(w)
}

func (r *report) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Tables) == 0 && len(r.Figures) == 0 {
		return
	}
	_, _ = fmt.Fprintf(w, "\n==> summary, %s, %d CPUs\n", time.Now().UTC().Format(time.RFC3339), runtime.NumCPU())
	for _, t := range r.Tables {
		t.print(w)
	}
	for _, f := range r.Figures {
		verdict := "met"
		if !f.Met {
			verdict = "MISSED"
		}
		_, _ = fmt.Fprintf(w, "%s: %s\n", verdict, f)
	}
}

func (r *report) writeJSON(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o600)
}
