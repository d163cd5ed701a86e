package expr

import (
	"time"
	_ "time/tzdata" // for machines without a time zone database

	"github.com/expr-lang/expr/ast"

	"cellgate/rules/doc"
)

// zoneOf returns the time zone that a call of at_zone names, nil if it is not a constant zone.
func zoneOf(args []ast.Node) *time.Location {
	if len(args) == 0 {
		return nil
	}
	name, ok := args[len(args)-1].(*ast.StringNode)
	if !ok || name.Value == "" || name.Value == "Local" {
		return nil
	}
	zone, err := time.LoadLocation(name.Value)
	if err != nil {
		return nil
	}
	return zone
}

// atZone checks a call of at_zone. Without a time it uses that of the message.
func (r *resolver) atZone(n *ast.CallNode) {
	if len(n.Arguments) == 1 {
		n.Arguments = []ast.Node{at(n, &ast.IdentifierNode{Value: "received_at"}), n.Arguments[0]}
	}
	if len(n.Arguments) != 2 || zoneOf(n.Arguments) == nil {
		r.fail(n, doc.CodeExprType, `write the name of a time zone as a text: received_at.at_zone("Asia/Shanghai")`, "at_zone needs the name of a time zone")
	}
}

// inZone returns a function that converts times to a zone.
func inZone(zone *time.Location) func(any) any {
	return func(v any) any {
		if v == nil {
			return nil
		}
		t, ok := v.(time.Time)
		if !ok {
			fail("at_zone works on a time, this is %s", typeOf(v))
		}
		return t.In(zone)
	}
}
