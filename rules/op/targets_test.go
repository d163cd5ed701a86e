package op_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"cellgate/cmd/cellgate/app"
	"cellgate/test/check"
)

// TestReadmeOfTargets checks that every target descriptor is listed, complete and in the reference for analysts. With
// -update it rewrites the reference.
func TestReadmeOfTargets(t *testing.T) { //nolint:paralleltest // another test writes the same file
	const file, head = "../README.md", "\n## Targets\n\n"
	was := check.Read(t, file)
	before, rest, ok := strings.Cut(string(was), head)
	_, behind, end := strings.Cut(rest, "\n\n")
	if !ok || !end {
		t.Fatal("README.md has no list of targets")
	}
	readme := before + head
	for _, target := range app.Targets() {
		v := reflect.ValueOf(target).Elem()
		for i := range v.NumField() {
			if f := v.Type().Field(i).Name; v.Field(i).IsZero() && f != "Check" && f != "Schema" {
				t.Errorf("target %s has no %s", target.Kind, f)
			}
		}
		readme += wrapped("- "+target.Reference) + "\n"
	}
	check.Golden(t, file, readme+"\n"+behind)
	if described := described(t, ".."); described != len(app.Targets()) {
		t.Errorf("%d targets are described, %d are in the gateway's outletList", described, len(app.Targets()))
	}
}

// wrapped returns a list item wrapped at 120 characters.
func wrapped(item string) string {
	var b strings.Builder
	width := 0
	for _, word := range strings.Fields(item) {
		length := utf8.RuneCountInString(word)
		switch {
		case width == 0:
		case width+1+length > 120:
			b.WriteString("\n  ")
			width = 2
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += length
	}
	return b.String()
}

// described returns the number of targets described below a folder.
func described(t *testing.T, dir string) (n int) {
	t.Helper()
	check.OK(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // the module's own
		n += len(regexp.MustCompile(`(?m)^var \w+ = (op\.)?Target\{`).FindAll(text, -1))
		return err
	}))
	return n
}
