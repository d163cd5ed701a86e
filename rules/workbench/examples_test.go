package workbench

import (
	"bytes"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestExamples checks that the shipped rules and examples compile without a warning, and that their tests pass and
// cover all of them.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"../../configs/examples", "../../configs/rules"} {
		var out bytes.Buffer
		ok, err := Check(&out, []string{path}, ToolOptions{Options: options("").Options, Strict: true})
		check.OK(t, err)
		if !ok {
			t.Errorf("check --strict %s:\n%s", path, out.String())
		}
		out.Reset()
		ok, err = Test(&out, []string{path}, options(""))
		check.OK(t, err)
		if !ok || strings.Contains(out.String(), "not covered") {
			t.Errorf("test %s:\n%s", path, out.String())
		}
	}
	files, err := Files([]string{"../../configs/examples"})
	check.OK(t, err)
	if len(files) < 24 {
		t.Errorf("%d files of examples", len(files))
	}
	for name, text := range files {
		if strings.HasSuffix(name, ".rules.yaml") && !strings.HasPrefix(text, "# yaml-language-server: $schema=../rules/"+schemaFile+"\n") {
			t.Errorf("%s does not name its schema", name)
		}
	}
}
