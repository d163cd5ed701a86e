package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
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
	var b strings.Builder
	for _, r := range t.rows {
		line := ""
		for i, cell := range r {
			line += cell + strings.Repeat(" ", widths[i]+2-utf8.RuneCountInString(cell))
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
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
