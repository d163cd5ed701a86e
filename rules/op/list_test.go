package op

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// described returns the names of the descriptors of a type that the package's files hold, sorted.
func described(t *testing.T, kind, field string) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if id, is := literal(lit, ok); !is || id != kind {
				return true
			}
			for _, e := range lit.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok && fmt.Sprint(kv.Key) == field {
					names = append(names, text(kv.Value))
				}
			}
			return true
		})
	}
	slices.Sort(names)
	return names
}

func literal(lit *ast.CompositeLit, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	id, ok := lit.Type.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}

// text is a text or the name of a constant.
func text(n ast.Expr) string {
	if lit, ok := n.(*ast.BasicLit); ok {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return strings.ToLower(strings.TrimPrefix(fmt.Sprint(n), "Sink"))
}

// TestEveryDescriptorIsListed fails for a file with a descriptor that is not in list.go.
func TestEveryDescriptorIsListed(t *testing.T) {
	t.Parallel()
	var operators []string
	for _, o := range Operators() {
		operators = append(operators, o.Name)
	}
	slices.Sort(operators)
	if want := described(t, "Operator", "Name"); !slices.Equal(operators, want) {
		t.Errorf("list.go has the operators %v, the files have %v", operators, want)
	}
	targets := TargetNames()
	slices.Sort(targets)
	if want := described(t, "Target", "Kind"); !slices.Equal(targets, want) {
		t.Errorf("list.go has the targets %v, the files have %v", targets, want)
	}
}

// TestDescriptorsAreComplete: nothing has a default, so nothing but what says so may be left out.
func TestDescriptorsAreComplete(t *testing.T) {
	t.Parallel()
	complete := func(name string, descriptor any, optional ...string) {
		v := reflect.ValueOf(descriptor).Elem()
		for i := range v.NumField() {
			if f := v.Type().Field(i).Name; v.Field(i).IsZero() && !slices.Contains(optional, f) {
				t.Errorf("%s has no %s", name, f)
			}
		}
	}
	places := map[int]string{}
	for _, o := range Operators() {
		complete(o.Name, o, "Gives", "GivesOf", "Keyed", "Ends")
		if other := places[o.Place]; other != "" {
			t.Errorf("%s and %s have one place", o.Name, other)
		}
		places[o.Place] = o.Name
	}
	for _, target := range Targets() {
		complete(string(target.Kind), target, "Check", "Schema")
	}
	for kind := range RedisKinds {
		if kind > 0 && redisOperations[kind].key == "" {
			t.Errorf("Redis operation %d is not described", kind)
		}
	}
}

// update has the reference for analysts written anew.
var update = flag.Bool("update", false, "write the table of operators in rules/README.md")

// operatorTable is what the descriptors say about operators.
func operatorTable() string {
	var rows strings.Builder
	for _, o := range Operators() {
		var gives []string
		for _, g := range o.Gives {
			gives = append(gives, "`operator."+g+"`")
		}
		fmt.Fprintf(&rows, "| `%s` | %s |%s |\n", o.Example, o.Does, strings.TrimSuffix(" "+strings.Join(gives, ", "), " "))
	}
	return rows.String()
}

// TestReadmeSaysTheSame holds the reference for analysts to the descriptors. With -update it writes the table of operators, which is
// theirs.
func TestReadmeSaysTheSame(t *testing.T) {
	t.Parallel()
	const file, head = "../README.md", "| operator | lets pass | gives |\n|---|---|---|\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), head)
	table, behind, end := strings.Cut(rest, "\n\n")
	if !ok || !end {
		t.Fatal("README.md has no table of operators")
	}
	readme := before + head + operatorTable() + "\n" + behind
	if *update {
		if err := os.WriteFile(file, []byte(readme), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if table+"\n" != operatorTable() {
		t.Error("the table of operators in README.md is not that of the descriptors; write it with go test ./rules/op -run Readme -update")
	}
	words := strings.Join(strings.Fields(readme), " ")
	for _, target := range Targets() {
		if !strings.Contains(words, "- "+target.Reference) {
			t.Errorf("README.md does not say %s", target.Reference)
		}
	}
	for _, key := range KeyNames(redisOperationKeys()) {
		if !strings.Contains(readme, "`"+key+": ") {
			t.Errorf("README.md has no Redis operation %s", key)
		}
	}
}
