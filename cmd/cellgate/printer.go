package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// printer prints the text of a command.
type printer struct {
	*bufio.Writer
	columns int // of the screen; 0 for a file or a pipe
	colour  bool
	err     error // of decode
}

// newPrinter returns a printer with the width of w's terminal: COLUMNS, else what the terminal reports.
func newPrinter(w io.Writer) *printer {
	if p, ok := w.(*printer); ok {
		return p
	}
	p := &printer{Writer: bufio.NewWriter(w)}
	f, ok := w.(*os.File)
	if !ok || !isTerminal(w) {
		return p
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		p.columns, p.colour = n, colourful()
	} else if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil { //nolint:gosec // a descriptor
		p.columns, p.colour = int(size.Col), colourful()
	}
	return p
}

func (p *printer) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p, format, args...) // Flush returns its error
}

// decode decodes an answer of the API and reports whether it could.
func (p *printer) decode(answer []byte, v any) bool {
	if err := json.Unmarshal(answer, v); err != nil {
		p.err = fmt.Errorf("answer: %w", err)
	}
	return p.err == nil
}

// headline prints parts in a line, or in as many as the screen needs.
func (p *printer) headline(parts ...string) {
	p.say("%s\n\n", strings.Join(wrap(strings.Join(parts, "  "), p.columns), "\n"))
}

// sections prints tables, with an empty line between them.
func (p *printer) sections(tables ...*table) {
	first := true
	for _, t := range tables {
		if len(t.rows) == 0 {
			continue
		}
		if !first {
			p.say("\n")
		}
		first = false
		t.write(p)
	}
}

// Colours (ECMA-48, 8.3.117).
const (
	bold   = "\x1b[1m"
	red    = "\x1b[1;31m"
	normal = "\x1b[0m"
)

// alarming returns the first words of cells that need attention.
func alarming() []string {
	return []string{"NO", "ERROR:", "FULL:", "CORRUPT:", "GONE ", "STANDS ", "FAIL"}
}

// list prints a page of a list, and how to get the next one.
func (p *printer) list(t *table, next string) {
	t.write(p)
	switch {
	case len(t.rows) == 0:
		p.say("none\n")
	case next != "":
		p.say("more with --cursor %s\n", next)
	}
}

// paint colours headings, and cells that need attention, on a screen that shows colours. The words alone say the same.
func (p *printer) paint(cell string, heading bool) string {
	if !p.colour || cell == "" {
		return cell
	}
	for _, word := range alarming() {
		if cell == word || (len(word) > 2 && strings.HasPrefix(cell, word)) {
			return red + cell + normal
		}
	}
	if heading {
		return bold + cell + normal
	}
	return cell
}

// colourful reports whether colours may be written to a terminal (no-color.org).
func colourful() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }
