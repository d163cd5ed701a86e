package complete_test

import (
	"strings"
	"testing"
	"time"

	"cellgate/broker/shared/complete"
)

type bounds struct{ Max int }

type options struct {
	bounds
	Rate    int `zero:"no limit"`
	Share   float64
	Wait    time.Duration
	Name    string
	Done    func()
	On      bool
	Names   []string
	Inner   bounds
	private int
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*options){
		"":                   func(*options) {},
		"Wait is not set":    func(o *options) { o.Wait = 0 },
		"Name is not set":    func(o *options) { o.Name = "" },
		"Done is not set":    func(o *options) { o.Done = nil },
		"Inner.Max is not s": func(o *options) { o.Inner.Max = 0 },
		"Rate is negative":   func(o *options) { o.Rate = -1 },
		"Share is not set":   func(o *options) { o.Share = 0 },
		"Share is negative":  func(o *options) { o.Share = -0.5 },
	} {
		o := options{Share: 1, Wait: 1, Name: "x", Done: func() {}, Inner: bounds{1}}
		o.private++
		change(&o)
		if err := complete.Check(o); (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
