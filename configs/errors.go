package configs

import (
	"fmt"
	"slices"
	"strings"

	"cellgate/broker/shared/spelling"
)

// maxProblems bounds how many problems one error shows.
const maxProblems = 50

// Problem is one mistake in a configuration file.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // from 1; 0 if unknown
	Col  int    `json:"col,omitempty"`  // from 1
	// Path is the key, such as listeners[0].tls.cert; empty for the file as a whole.
	Path string `json:"key,omitempty"`
	Why  string `json:"why"`
	Fix  string `json:"fix,omitempty"`
}

// Error formats the problem as file:line:col: path: why; fix.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Why)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Problems are all mistakes in one file, in the order of the file. Load and Parse return them as their error.
type Problems []Problem

// Error returns one problem per line.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i == maxProblems {
			fmt.Fprintf(&b, "\nand %d more", len(ps)-maxProblems)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
	}
	return b.String()
}

// sorted returns the problems in the order of the file, or nil if there are none.
func (ps Problems) sorted() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return ps
}

// suggest proposes one of candidates instead of word.
func suggest(word string, candidates []string) string {
	if near := spelling.Nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(candidates) == 0 {
		return "remove it"
	}
	return "write one of " + strings.Join(candidates, ", ")
}

// suggestOne is like suggest, but always lists all candidates.
func suggestOne(word string, candidates []string) string {
	all := "write one of " + strings.Join(candidates, ", ")
	if near := spelling.Nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q? If not, %s", near, all)
	}
	return all
}
