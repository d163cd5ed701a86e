package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cellgate/test/check"
)

// The import table of ARCHITECTURE.md. A key is a folder and all below it unless a longer key says
// otherwise; its value lists the folders of this module that it may import, itself always included.
var mayImport = map[string][]string{
	"cmd/cellgate":        {"cmd/cellgate", "broker", "rules", "auth", "sync", "configs"},
	"cmd/cellgate/fleet":  {"broker/frame", "broker/shared", "auth"},
	"broker":              {"broker", "auth"},
	"broker/shared":       {},
	"broker/clock":        {},
	"broker/wal":          {},
	"broker/journal":      {"broker/wal", "broker/clock", "broker/shared"},
	"broker/frame":        {"broker/shared"},
	"broker/session":      {"broker/frame", "broker/shared"},
	"broker/command":      {"broker/clock", "broker/cell", "broker/shared"},
	"broker/cell":         {"broker/shared"},
	"broker/presence":     {"broker/shared"},
	"rules/doc":           {"broker/shared"},
	"rules/state":         {"broker/shared"},
	"rules/expr":          {"rules/doc", "broker/shared"},
	"rules/op":            {"rules/doc", "rules/expr", "rules/state", "broker/shared"},
	"rules/index":         {"rules/expr"},
	"rules/lang":          {"rules/doc", "rules/expr", "rules/op", "rules/index", "broker/shared"},
	"rules/engine":        {"rules/expr", "rules/index", "rules/op", "rules/lang", "rules/state", "broker/shared"},
	"rules/workbench":     {"rules/doc", "rules/expr", "rules/op", "rules/lang", "rules/engine", "rules/state", "broker/shared"},
	"rules/rulestest":     {"rules/lang", "rules/op", "broker/shared"},
	"rules/sink":          {"rules/doc", "rules/expr", "rules/op", "rules/lang", "rules/engine", "rules/state", "broker/journal", "broker/wal", "broker/shared"},
	"rules/sink/sinktest": {"rules", "broker", "configs", "test"},
	"auth":                {"broker/shared"},
	"sync":                {"broker/shared"},
	"configs":             {"broker/shared", "auth"},
	"test/mqtt":           {},
	"test/fakekafka":      {"test/check"},
	"test/check":          {},
	"test":                {"test", "cmd/cellgate", "broker", "rules", "auth", "sync", "configs"},
}

// ofSeveral lists what more than one house imports and does not lie in broker/shared: a house's own outside, and the
// logs, which broker writes and rules/sink builds upon.
var ofSeveral = []string{"auth", "broker/journal", "broker/wal"}

// ofTests are folders whose packages only tests import.
var ofTests = []string{"test", "rules/rulestest", "rules/sink/sinktest"}

// Who may import the libraries that are held by one package. A folder here does not cover those
// below it.
var libraryOwners = map[string]string{
	"github.com/mochi-mqtt/server/v2": "broker",
	"github.com/expr-lang/expr":       "rules/expr",
	"github.com/golang-jwt/jwt/v5":    "auth",
	"go.etcd.io/bbolt":                "broker/shared/statefile",
	"go.opentelemetry.io/otel":        "cmd/cellgate/spans",
}

// What must never be linked into the gateway's packages but the dev command: the embedded stand-ins.
var embedded = []string{"github.com/twmb/franz-go/pkg/kfake", "github.com/alicebob/miniredis"}

const module = "cellgate/"

// TestImports holds the import table: it fails on any import between the module's folders that the table
// does not list.
func TestImports(t *testing.T) {
	t.Parallel()
	seen := 0
	for file, imports := range goFiles(t) {
		folder := filepath.ToSlash(filepath.Dir(file))
		rule := ruleFor(folder)
		if rule == "" {
			t.Errorf("%s: folder %s is not in the import table", file, folder)
			continue
		}
		for _, path := range imports {
			inner, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			seen++
			if !allowed(rule, inner) && !strings.HasSuffix(file, "_test.go") {
				t.Errorf("%s imports %s: %s may import only %v", file, path, rule, mayImport[rule])
			}
		}
	}
	if seen == 0 {
		t.Fatal("no import between the module's folders was seen: the test reads the wrong folder")
	}
}

// TestSharedPackages holds that the folder list tells what serves several houses: it lies in broker/shared, and what lies
// there does.
func TestSharedPackages(t *testing.T) {
	t.Parallel()
	houses := map[string]map[string]bool{} // by package: who imports it
	for file, imports := range goFiles(t) {
		folder := filepath.ToSlash(filepath.Dir(file))
		house, _, _ := strings.Cut(folder, "/")
		if house == "cmd" || strings.HasSuffix(file, "_test.go") || slices.ContainsFunc(ofTests, func(f string) bool { return within(folder, f) }) {
			continue
		}
		for _, path := range imports {
			if inner, ours := strings.CutPrefix(path, module); ours {
				if houses[inner] == nil {
					houses[inner] = map[string]bool{}
				}
				houses[inner][house] = true
			}
		}
	}
	for path, of := range houses {
		if len(of) > 1 && !within(path, "broker/shared") && !slices.Contains(ofSeveral, path) {
			t.Errorf("%s serves %v: it belongs in broker/shared", path, slices.Sorted(maps.Keys(of)))
		}
	}
	for _, path := range ofSeveral {
		if len(houses[path]) < 2 {
			t.Errorf("%s serves one house: take it off the list", path)
		}
	}
}

// TestLibraryOwners keeps mochi, expr, jwt and bbolt each in the one package that knows their pitfalls, and
// the embedded Kafka and Redis out of everything but `cellgate dev`.
func TestLibraryOwners(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for file, imports := range goFiles(t) {
		folder := filepath.ToSlash(filepath.Dir(file))
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(folder, "test") {
			continue
		}
		for _, path := range imports {
			for library, owner := range libraryOwners {
				if within(path, library) && folder != owner {
					t.Errorf("%s imports %s: only %s may", file, path, owner)
				} else if within(path, library) {
					found[library] = true
				}
			}
			if slices.ContainsFunc(embedded, func(e string) bool { return within(path, e) }) &&
				!strings.HasPrefix(folder, "cmd/cellgate") {
				t.Errorf("%s imports %s: only the dev command may", file, path)
			}
		}
	}
	if len(found) != len(libraryOwners) {
		t.Errorf("libraries seen at their owners: %v, want all of %v", found, libraryOwners)
	}
}

// TestTopLevelFolders holds the fixed layout: code, and deploy and docs, which hold none.
func TestTopLevelFolders(t *testing.T) {
	t.Parallel()
	want := []string{"auth", "broker", "cmd", "configs", "deploy", "docs", "rules", "sync", "test"}
	entries, err := os.ReadDir("..")
	check.OK(t, err)
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() && !strings.HasPrefix(name, ".") && name != "bin" && name != "data" && !slices.Contains(want, name) {
			t.Errorf("top-level folder %s is not part of the layout %v", name, want)
		}
	}
}

// goFiles returns the imports of every Go file of the module, by path from the root.
func goFiles(t *testing.T) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := fs.WalkDir(os.DirFS(".."), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "data"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", path), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		imports := []string{}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, name)
		}
		files[path] = imports
		return nil
	})
	check.OK(t, err)
	return files
}

// ruleFor returns the longest key of the import table that holds the folder.
func ruleFor(folder string) string {
	best := ""
	for key := range mayImport {
		if within(folder, key) && len(key) > len(best) {
			best = key
		}
	}
	return best
}

// allowed reports whether the folder that rule speaks for may import the folder inner.
func allowed(rule, inner string) bool {
	if inner == "broker/shared/complete" || ruleFor(inner) == rule { // every part checks its options with complete
		return true
	}
	return slices.ContainsFunc(mayImport[rule], func(folder string) bool { return within(inner, folder) })
}

// within reports whether path is folder or lies below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}
