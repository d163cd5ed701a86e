package op

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cellgate/test/check"
)

// described returns the sorted names of the descriptors of a type in the package's files.
func described(t *testing.T, kind, field string) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	check.OK(t, err)
	var names []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		check.OK(t, err)
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

// text returns the value of a string literal or the name of a constant.
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
}

// TestDescriptorsAreComplete checks that only fields marked as optional are left out: there are no defaults.
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
	for kind := range RedisKinds {
		if kind > 0 && (redisOperations[kind].key == "" || redisOperations[kind].does == "") {
			t.Errorf("Redis operation %d is not described", kind)
		}
	}
}

// operatorRows writes the reference's table rows from the descriptors.
func operatorRows(b *strings.Builder) {
	for _, o := range Operators() {
		row(b, o.Example, o.Does, prefixed("operator.", o.Gives))
	}
}

func redisRows(b *strings.Builder) {
	for _, o := range redisOperations[1:] {
		row(b, o.key+": "+o.written, prefixed("", o.options), o.does)
	}
}

// row writes a table row whose first cell is code.
func row(b *strings.Builder, code string, cells ...string) {
	fmt.Fprintf(b, "| `%s` |", code)
	for _, c := range cells {
		b.WriteString(strings.TrimSuffix(" "+c, " ") + " |")
	}
	b.WriteByte('\n')
}

// prefixed returns names as code, each with a prefix.
func prefixed(prefix string, names []string) string {
	var code []string
	for _, name := range names {
		code = append(code, "`"+prefix+name+"`")
	}
	return strings.Join(code, ", ")
}

// TestReadmeSaysTheSame compares the reference for analysts with the descriptors. With -update it rewrites the
// generated parts.
func TestReadmeSaysTheSame(t *testing.T) { //nolint:paralleltest // another test writes the same file
	const file = "../README.md"
	was := check.Read(t, file)
	readme := string(was)
	for head, write := range map[string]func(*strings.Builder){
		"| operator | lets pass | gives |\n|---|---|---|\n":       operatorRows,
		"| operation of `redis` | with | does |\n|---|---|---|\n": redisRows,
	} {
		before, rest, ok := strings.Cut(readme, head)
		_, behind, end := strings.Cut(rest, "\n\n")
		if !ok || !end {
			t.Fatalf("README.md has no %q", head)
		}
		var b strings.Builder
		write(&b)
		readme = before + head + b.String() + "\n" + behind
	}
	check.Golden(t, file, readme)
}
