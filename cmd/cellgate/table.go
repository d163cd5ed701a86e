package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table prints aligned columns.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, r := range t.rows {
		if _, err := fmt.Fprintln(tw, strings.TrimRight(strings.Join(r, "\t"), "\t ")); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	if err := tw.Flush(); err != nil {
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
