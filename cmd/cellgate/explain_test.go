package main

import (
	"strings"
	"testing"
	"time"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/test/check"
	"cellgate/test/parts"
)

// A record that has been consumed is said to be gone, and not taken for the next one.
func TestExplainOfAConsumedRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := parts.Journal(dir)
	o.SegmentBytes, o.BufferBytes = 16<<10, 16<<10
	j, _, err := journal.Open(o)
	check.OK(t, err)
	defer j.Close(t.Context()) //nolint:errcheck // a test
	deadline := time.Now().Add(check.Patience)
	for j.First() == 1 && time.Now().Before(deadline) {
		last, err := j.Append([]message.Record{{Kind: message.KindPublish, Client: "V", Topic: "v1/V/up/x", Payload: make([]byte, 2000)}}, nil)
		if err == nil {
			err = j.WaitDurable(t.Context(), last)
		}
		check.OK(t, err)
		j.Retain("test", last)
	}
	if j.First() == 1 {
		t.Fatal("nothing was recycled")
	}
	// The journal passes a segment over before its file is recycled.
	for ; err == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		_, err = recordAt(dir, 1)
	}
	if err == nil || !strings.Contains(err.Error(), "has no record 1; it may have been consumed already") {
		t.Errorf("consumed: %v", err)
	}
	rec, err := recordAt(dir, j.Durable())
	if err != nil || rec.Seq != j.Durable() {
		t.Errorf("kept: %v", err)
	}
	if _, err := recordAt(dir, 1<<40); err == nil || !strings.Contains(err.Error(), "has no record") {
		t.Errorf("not there yet: %v", err)
	}
}
