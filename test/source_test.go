package test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cellgate/test/check"
)

// source is the module's production code with its types: what tests about the code itself look at.
type source struct {
	fset     token.FileSet
	packages []*code // a package after those that it imports
	external types.Importer
}

// code is one package.
type code struct {
	path  string
	files []*ast.File
	types *types.Package
	info  types.Info
}

// loadSource reads every package of the module. Libraries come from what the compiler has exported of them.
func loadSource(t *testing.T) *source {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-export", "-json=ImportPath,Dir,GoFiles,Export,Standard", "./...")
	list.Dir, list.Stderr = "..", os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	s := &source{}
	s.external = importer.ForCompiler(&s.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Dir, Export string
			GoFiles                 []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return s
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if strings.HasPrefix(p.ImportPath, module) {
			files := make(map[string]any, len(p.GoFiles))
			for _, f := range p.GoFiles {
				files[filepath.Join(p.Dir, f)] = nil
			}
			s.add(t, p.ImportPath, files)
		}
	}
}

// add reads a package: files with their text, nil for what the disk has.
func (s *source) add(t *testing.T, path string, files map[string]any) {
	t.Helper()
	c := &code{path: path, info: types.Info{
		Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Types: map[ast.Expr]types.TypeAndValue{},
	}}
	for name, text := range files {
		f, err := parser.ParseFile(&s.fset, name, text, parser.SkipObjectResolution)
		check.OK(t, err)
		c.files = append(c.files, f)
	}
	var err error
	if c.types, err = (&types.Config{Importer: s}).Check(path, &s.fset, c.files, &c.info); err != nil {
		t.Fatal(err)
	}
	s.packages = append(s.packages, c)
}

// Import implements types.Importer.
func (s *source) Import(path string) (*types.Package, error) {
	for _, c := range s.packages {
		if c.path == path {
			return c.types, nil
		}
	}
	return s.external.Import(path)
}

// fields calls fn for every field of every struct type with a name; in is the type's, with its package's folder.
func (s *source) fields(fn func(in string, f *types.Var, tag reflect.StructTag)) {
	for _, c := range s.packages {
		for _, name := range c.types.Scope().Names() {
			t, ok := c.types.Scope().Lookup(name).Type().Underlying().(*types.Struct)
			for i := 0; ok && i < t.NumFields(); i++ {
				fn(strings.TrimPrefix(c.path, module)+"."+name, t.Field(i), reflect.StructTag(t.Tag(i)))
			}
		}
	}
}
