package waltest

import (
	"fmt"
	"strings"
	"sync"
)

// Faults makes changes of an FS fail whose Before it is.
type Faults struct {
	From int // the first one to fail, counted from 1; 0 is none
	Many int // how many fail
	Err  error
	// If Only is not empty, only operations of that kind with Where in their name count.
	Only  Op
	Where string

	mu   sync.Mutex
	n    int
	hits []string
}

// Before is for FS.Before.
func (f *Faults) Before(o Op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Only != "" && (o != f.Only || !strings.Contains(name, f.Where)) {
		return nil
	}
	f.n++
	if f.From > 0 && f.n >= f.From && f.n-f.From < f.Many {
		f.hits = append(f.hits, fmt.Sprintf("%s %s", o, name))
		return f.Err
	}
	return nil
}

// Fail makes the next many changes fail.
func (f *Faults) Fail(many int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.From, f.Many = f.n+1, many
}

// Count returns the number of changes.
func (f *Faults) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Hits returns the changes that failed, as operation and name.
func (f *Faults) Hits() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}
