package main

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// table prints aligned columns.
type table struct {
	rows  [][]string
	heads []string // the row before the first one
}

// headed returns a table with headings. Without a row it prints nothing.
func headed(cells ...string) *table { return &table{heads: cells} }

func (t *table) row(cells ...string) {
	if len(t.rows) == 0 && t.heads != nil {
		t.rows = append(t.rows, t.heads)
	}
	t.rows = append(t.rows, cells)
}

// write pads each column to its widest cell, two spaces apart. Lines do not end in spaces.
func (t *table) write(p *printer) {
	var widths []int
	for _, r := range t.rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	switch width := p.columns - 2; {
	case t.tooWide(widths, p.columns):
		t.fold(p)
	case len(widths) == 2 && width > 2*widths[0]:
		t.wrapped(width-widths[0]).lines(p, widths)
	default:
		t.lines(p, widths)
	}
}

// lines prints a line for each row, its columns padded to widths.
func (t *table) lines(p *printer, widths []int) {
	for n, r := range t.rows {
		line := ""
		for i, cell := range r {
			gap := ""
			if i < len(r)-1 {
				gap = strings.Repeat(" ", widths[i]+2-utf8.RuneCountInString(cell))
			}
			line += p.paint(cell, n == 0 && len(r) > 2) + gap
		}
		p.say("%s\n", strings.TrimRight(line, " "))
	}
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
func (t *table) fold(p *printer) {
	heads := t.rows[0]
	for i, r := range t.rows[1:] {
		if i > 0 {
			p.say("\n")
		}
		p.say("%s %s\n", heads[0], r[0])
		row := table{}
		for j, cell := range r[1:] {
			row.row("  "+heads[j+1], cell)
		}
		row.pairs(p)
	}
}

// pairs prints names and values, leaving out those without a value.
func (t *table) pairs(p *printer) {
	t.rows = slices.DeleteFunc(t.rows, func(r []string) bool { return len(r) < 2 || r[1] == "" })
	t.write(p)
}
