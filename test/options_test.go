package test

import (
	"go/types"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestConfiguration looks for keys without an effect.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	s := loadSource(t)
	for _, name := range s.unreadKeys() {
		if name != "configs.HTTP.AllowInsecure" { // decides what configs accepts
			t.Errorf("nothing outside configs reads the key of %s: delete it, and add it to what configs calls removed", name)
		}
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
	s.add(t, module+"app", map[string]any{"a.go": "package app\n" +
		"import \"cellgate/configs\"\nfunc path() string { return configs.Default().Path }"})
	if got := s.unreadKeys(); !slices.Equal(got, []string{"configs.Rules.Workers"}) {
		t.Errorf("of a key that is only set and checked: %v", got)
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
