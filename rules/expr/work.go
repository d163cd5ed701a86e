package expr

import (
	"fmt"

	"github.com/expr-lang/expr/ast"
)

// maxWork bounds what one rule's expressions may take for one message, and what one message that is made may take: in bytes that
// functions go through, each counted once a call. A byte that is held against a pattern counts workOfStep for each step of the
// pattern, and an element of a list workOfElement: that is what they take beside a function's byte. All of it is about half a second.
const (
	maxWork       = maxMatching * workOfStep
	workOfStep    = 16
	workOfElement = 32
)

// work is what may still be done.
type work int

// workName is the work's name in the environment of every expression that needs it. No source can have it.
const workName = "$work"

var errWork = fmt.Errorf("%w: all expressions of the rule together take too long for this message: take fewer patterns and functions, of shorter texts", ErrEvaluation)

// BeginRule turns to a rule for the record at hand: what other rules have done does not count for it.
func (sc *Scope) BeginRule() { sc.Given, sc.left = nil, maxWork }

// BeginMessage turns to a message that is made of the record at hand. It depends on nothing but the record and the decision, so each
// of several elements has a part of its own.
func (sc *Scope) BeginMessage(given []Given, ofItem bool) {
	sc.Given, sc.left = given, maxWork
	if ofItem {
		sc.left /= MaxItems
	}
}

// spend takes work; false when there is no more.
func (w *work) spend(n int) bool {
	*w -= work(n)
	return *w >= 0
}

// sizeOf is what going through a value takes.
func sizeOf(v any) int {
	switch v := v.(type) {
	case string:
		return len(v)
	case []any:
		return workOfElement * len(v)
	case map[string]any:
		return workOfElement * len(v)
	}
	return 0
}

// calls counts what may go through a text or a list in an expression.
func calls(root ast.Node) int {
	n := 0
	ast.Walk(&root, callCounter{&n})
	return n
}

type callCounter struct{ n *int }

func (c callCounter) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.CallNode, *ast.BuiltinNode, *ast.SliceNode:
		*c.n++
	case *ast.BinaryNode:
		if n.Operator == "contains" || n.Operator == "+" {
			*c.n++
		}
	}
}
