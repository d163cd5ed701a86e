package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// table prints aligned columns.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// write pads each column to its widest cell, two spaces apart. Lines do not end in spaces.
func (t *table) write(w io.Writer) error {
	var widths []int
	for _, r := range t.rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if t.tooWide(widths, columnsOf(w)) {
		return t.fold(w)
	}
	if width := columnsOf(w) - 2; len(widths) == 2 && width > 2*widths[0] {
		return t.wrapped(width-widths[0]).lines(w, widths)
	}
	return t.lines(w, widths)
}

// lines prints a line for each row, its columns padded to widths.
func (t *table) lines(w io.Writer, widths []int) error {
	var b strings.Builder
	for n, r := range t.rows {
		line := ""
		for i, cell := range r {
			gap := ""
			if i < len(r)-1 {
				gap = strings.Repeat(" ", widths[i]+2-utf8.RuneCountInString(cell))
			}
			line += paint(w, cell, n == 0 && len(r) > 2) + gap
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

// wrapped breaks the values of a table of names and values at spaces, so that they fit into width. What has no space stays
// whole: it may be for copying.
func (t *table) wrapped(width int) *table {
	out := &table{}
	for _, r := range t.rows {
		if len(r) < 2 {
			out.row(r...)
			continue
		}
		name := r[0]
		for _, line := range wrap(r[1], width) {
			out.row(name, line)
			name = ""
		}
	}
	return out
}

// wrap breaks a text at spaces into lines of width, or not at all if width is 0 or less.
func wrap(text string, width int) (lines []string) {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	words := strings.TrimLeft(text, " ")
	line, begun := text[:len(text)-len(words)], false
	for word := range strings.SplitSeq(words, " ") {
		switch {
		case !begun || line == "":
			line, begun = line+word, true
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, strings.TrimRight(line, " "))
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// headline returns parts in a line, or in as many as the screen that w writes to needs.
func headline(w io.Writer, parts ...string) string {
	return strings.Join(wrap(strings.Join(parts, "  "), columnsOf(w)), "\n")
}

// tooWide reports whether a table with headings does not fit on a screen of columns; with 0 columns everything fits.
// Tables of names and values have no headings and are wrapped.
func (t *table) tooWide(widths []int, columns int) bool {
	sum := -2 // no gap follows the last column
	for _, n := range widths {
		sum += n + 2
	}
	return columns > 0 && sum > columns && len(widths) > 2 && len(t.rows) > 1
}

// fold prints each row as lines of heading and value below the row's first cell.
func (t *table) fold(w io.Writer) error {
	heads := t.rows[0]
	for i, r := range t.rows[1:] {
		if i > 0 {
			if err := newline(w); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%s %s\n", heads[0], r[0]); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		row := table{}
		for j, cell := range r[1:] {
			row.row("  "+heads[j+1], cell)
		}
		if err := row.pairs(w); err != nil {
			return err
		}
	}
	return nil
}

// screen is a writer to a terminal with a known width.
type screen struct {
	io.Writer
	columns int
	colour  bool
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

// paint colours headings, and cells that need attention, on a screen that shows colours. The words alone say the same.
func paint(w io.Writer, cell string, heading bool) string {
	s, ok := w.(*screen)
	if !ok || !s.colour || cell == "" {
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

// columnsOf returns the width of the screen that w writes to, 0 for a file or a pipe.
func columnsOf(w io.Writer) int {
	if s, ok := w.(*screen); ok {
		return s.columns
	}
	return 0
}

func coloursOf(w io.Writer) bool {
	s, ok := w.(*screen)
	return ok && s.colour
}

// onScreen returns w with the width of its terminal: COLUMNS, else what the terminal reports.
func onScreen(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok || !isTerminal(w) {
		return w
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return &screen{w, n, colourful()}
	}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil { //nolint:gosec // a descriptor
		return &screen{w, int(size.Col), colourful()}
	}
	return w
}

// pairs prints names and values, leaving out those without a value.
func (t *table) pairs(w io.Writer) error {
	kept := t.rows[:0]
	for _, r := range t.rows {
		if len(r) > 1 && r[1] != "" {
			kept = append(kept, r)
		}
	}
	t.rows = kept
	return t.write(w)
}

func newline(w io.Writer) error {
	_, err := io.WriteString(w, "\n")
	return err
}
