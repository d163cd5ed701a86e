package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestColours: on a screen important text is coloured and stays in its column; in a file nothing is coloured.
func TestColours(t *testing.T) {
	t.Parallel()
	made := func() *table {
		tb := &table{}
		tb.row("DEPENDENCY", "OK", "REASON")
		tb.row("kafka", "NO", "refused")
		tb.row("redis", "yes", "-")
		return tb
	}
	var plain, coloured bytes.Buffer
	for _, p := range []*printer{newPrinter(&plain), {Writer: bufio.NewWriter(&coloured), columns: 80, colour: true}} {
		made().write(p)
		check.OK(t, p.Flush())
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Errorf("colours in a file: %q", plain.String())
	}
	if !strings.Contains(coloured.String(), red+"NO"+normal) || strings.Contains(coloured.String(), red+"yes") {
		t.Errorf("not coloured: %q", coloured.String())
	}
	if got := strings.NewReplacer(bold, "", red, "", normal, "").Replace(coloured.String()); got != plain.String() {
		t.Errorf("another text:\n%s\n%s", got, plain.String())
	}
}

// TestNoColour holds no-color.org.
func TestNoColour(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if !colourful() {
		t.Error("no colours on a terminal")
	}
	t.Setenv("NO_COLOR", "1")
	if colourful() {
		t.Error("colours although NO_COLOR is set")
	}
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "dumb")
	if colourful() {
		t.Error("colours on a dumb terminal")
	}
}
