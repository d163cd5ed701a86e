package test

import (
	"go/ast"
	"go/types"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestConfiguration looks for keys and options without an effect.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	s := loadSource(t)
	for _, name := range s.unreadKeys() {
		if name != "configs.HTTP.AllowInsecure" { // decides what configs accepts
			t.Errorf("nothing outside configs reads the key of %s: delete it, and add it to what configs calls removed", name)
		}
	}
	for _, name := range s.unsetOptions() {
		t.Errorf("no production code sets %s: delete it, or make it a constant", name)
	}
}

// TestConfigurationFindings shows that TestConfiguration can fail.
func TestConfigurationFindings(t *testing.T) {
	t.Parallel()
	s := &source{}
	s.add(t, module+"configs", map[string]any{"c.go": "package configs\n" +
		"type Rules struct { Path string `yaml:\"path\"`; Workers int `yaml:\"workers\"` }\n" +
		"func Default() Rules { return Rules{Path: \"x\", Workers: 1} }\n" +
		"func check(r Rules) bool { return r.Workers > 0 }"})
	s.add(t, module+"rules", map[string]any{"r.go": "package rules\n" +
		"type Options struct { Path string; Quick bool }\n" +
		"func New(o Options) bool { return o.Quick }"})
	s.add(t, module+"app", map[string]any{"a.go": "package app\n" +
		"import (\"cellgate/configs\"; \"cellgate/rules\")\n" +
		"func open() bool { return rules.New(rules.Options{Path: configs.Default().Path}) }"})
	if got := s.unreadKeys(); !slices.Equal(got, []string{"configs.Rules.Workers"}) {
		t.Errorf("of a key that is only set and checked: %v", got)
	}
	if got := s.unsetOptions(); !slices.Equal(got, []string{"rules.Options.Quick"}) {
		t.Errorf("of an option that nobody sets: %v", got)
	}
}

// unreadKeys are the fields with a key that no package but configs uses.
func (s *source) unreadKeys() (names []string) {
	used := map[types.Object]bool{}
	for _, c := range s.packages {
		for _, o := range c.info.Uses {
			used[o] = used[o] || c.path != module+"configs"
		}
	}
	s.fields(func(in string, f *types.Var, tag reflect.StructTag) {
		if strings.HasPrefix(in, "configs.") && tag.Get("yaml") != "" && !used[f] {
			names = append(names, in+"."+f.Name())
		}
	})
	return names
}

// unsetOptions are the fields of what constructors are given that no production code gives a value.
func (s *source) unsetOptions() (names []string) {
	set := map[types.Object]bool{}
	for _, c := range s.packages {
		if strings.HasSuffix(c.path, "test") || strings.HasPrefix(c.path, module+"test/") {
			continue
		}
		for _, f := range c.files {
			ast.Inspect(f, func(n ast.Node) bool {
				c.sets(n, set)
				return true
			})
		}
	}
	s.fields(func(in string, f *types.Var, _ reflect.StructTag) {
		options := slices.ContainsFunc([]string{"Options", "Limits", "Bounds", "Config", "Binding"},
			func(end string) bool { return strings.HasSuffix(in, end) })
		if options && !strings.HasPrefix(in, "configs") && !strings.HasPrefix(in, "test") && !set[f] {
			names = append(names, in+"."+f.Name())
		}
	})
	return names
}

// sets notes the fields that a node gives a value: a composite literal, an assignment, or somebody who is handed the
// address.
func (c *code) sets(n ast.Node, set map[types.Object]bool) {
	field := func(e ast.Expr) {
		if s, ok := e.(*ast.SelectorExpr); ok {
			set[c.info.Uses[s.Sel]] = true
		}
	}
	switch n := n.(type) {
	case *ast.CompositeLit:
		of, ok := c.info.TypeOf(n).Underlying().(*types.Struct)
		for i, e := range n.Elts {
			if kv, keyed := e.(*ast.KeyValueExpr); keyed && ok {
				set[c.info.Uses[kv.Key.(*ast.Ident)]] = true
			} else if ok {
				set[of.Field(i)] = true
			}
		}
	case *ast.AssignStmt:
		for _, e := range n.Lhs {
			field(e)
		}
	case *ast.UnaryExpr:
		field(n.X)
	}
}
