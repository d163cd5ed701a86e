package expr

import (
	"fmt"
	"maps"
	"slices"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/shared/spelling"
	"cellgate/rules/doc"
)

// Calls are the functions for a file's zones and tables, by names that include a digest of their contents: operators'
// memory and diffs depend on the names.
type Calls map[string]boundFunction

type boundFunction struct {
	inside     func(lat, lon any) bool
	lookup     func(key any) any
	signatures []any // pointers to functions, for type checking
	place      *Place
	table      *Table
	cells      column // column of table
	id         string // identifies table and column
}

// tableColumn turns models[vin].tank into a call; false if the node is not of that form.
func (r *resolver) tableColumn(node *ast.Node, n *ast.MemberNode) bool {
	row, ok := n.Node.(*ast.MemberNode)
	if !ok {
		return false
	}
	id, ok := row.Node.(*ast.IdentifierNode)
	if !ok || r.locals[id.Value] || r.names.Tables[id.Value] == nil {
		return false
	}
	t := r.names.Tables[id.Value]
	r.withdraw(id)
	r.names.use(id.Value)
	name, ok := n.Property.(*ast.StringNode)
	if !ok {
		r.fail(n.Property, doc.CodeBadTable, "for example "+id.Value+"[vin].tank", "the column of a table must be written out")
		return true
	}
	c, ok := t.columns[name.Value]
	if !ok && t.columns != nil {
		suggestion := "the first line of the file names the columns"
		names := make([]string, 0, len(t.columns))
		for name := range t.columns {
			names = append(names, name)
		}
		slices.Sort(names)
		if near := spelling.Nearest(name.Value, names); near != "" {
			suggestion = fmt.Sprintf("did you mean %s[…].%s?", id.Value, near)
		}
		r.fail(n.Property, doc.CodeBadTable, suggestion, "the table %q has no column %q", id.Value, name.Value)
		return true
	}
	call := fmt.Sprintf("%s[].%s %x", id.Value, name.Value, t.digest)
	r.names.Calls[call] = boundFunction{lookup: t.lookup(c), table: t, cells: c, id: call, signatures: c.signatures()}
	r.replace(node, &ast.CallNode{Callee: at(n, &ast.IdentifierNode{Value: call}), Arguments: []ast.Node{row.Property}})
	return true
}

func (c column) signatures() []any {
	switch c.kind {
	case AnyField: // of a table that is not usable
		return []any{new(func(any) any)}
	case NumberField:
		return []any{new(func(any) float64)}
	case IntegerField:
		return []any{new(func(any) int)}
	case BoolField:
		return []any{new(func(any) bool)}
	}
	return []any{new(func(any) string)}
}

// inside turns inside(lat, lon, harbour) into a call bound to the zone.
func (r *resolver) inside(n *ast.CallNode) {
	if len(n.Arguments) != 3 {
		r.fail(n, doc.CodeExprType, "for example inside(payload.lat, payload.lon, harbour)", "inside takes a latitude, a longitude and a zone")
		return
	}
	id, ok := n.Arguments[2].(*ast.IdentifierNode)
	if !ok || r.names.Places[id.Value] == nil {
		if ok {
			r.withdraw(id)
		}
		names := make([]string, 0, len(r.names.Places))
		for name := range r.names.Places {
			names = append(names, name)
		}
		slices.Sort(names)
		suggestion := "write zones: {harbour: {lat: 31.2, lon: 121.4, radius: 500}} at the top of the file"
		if ok && len(names) > 0 {
			suggestion = doc.DidYouMean(id.Value, names)
		}
		r.fail(n.Arguments[2], doc.CodeUnknownName, suggestion, "inside needs the name of a zone")
		return
	}
	p := r.names.Places[id.Value]
	r.withdraw(id)
	r.names.use(id.Value)
	call := fmt.Sprintf("inside %s %x", id.Value, p.digest)
	r.names.Calls[call] = boundFunction{inside: p.contains, place: p, signatures: []any{
		new(func(float64, float64) bool), new(func(int, int) bool), new(func(int, float64) bool), new(func(float64, int) bool),
	}}
	n.Callee, n.Arguments = at(n.Callee, &ast.IdentifierNode{Value: call}), n.Arguments[:2]
}

// withdraw removes the findings about a name that were reported before its context was known.
func (r *resolver) withdraw(id *ast.IdentifierNode) {
	r.problems = slices.DeleteFunc(r.problems, func(p problem) bool { return p.from == id.Location().From })
}

// Place returns the top-level zone of a name. It reports an unknown name and returns nil.
func (n *Names) Place(d *doc.Document, name *doc.Scalar) *Place {
	p := n.Places[name.Value]
	if p == nil {
		suggestion := "write zones: {" + name.Value + ": …} at the top of the file"
		if near := spelling.Nearest(name.Value, slices.Collect(maps.Keys(n.Places))); near != "" {
			suggestion = fmt.Sprintf("did you mean %s?", near)
		}
		d.Fail(name.Line, name.Col, doc.CodeUnknownName, suggestion, "there is no zone %q at the top of the file", name.Value)
		return nil
	}
	n.Used[name.Value] = true
	return p
}
