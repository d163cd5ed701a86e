package expr

import (
	"fmt"

	"github.com/expr-lang/expr/ast"
)

// maxWork bounds the work of one rule's expressions for one message, and of rendering one message. The unit is a byte
// that a function processes, counted once per call. A byte matched against a pattern counts workOfStep for each step of
// the pattern, an element of a list workOfElement, which matches their relative cost. The total is about half a second.
const (
	maxWork       = maxMatching * workOfStep
	workOfStep    = 16
	workOfElement = 32
)

type work int

// workName is the name of the remaining work in the environment of expressions. No source can use it.
const workName = "$work"

var errWork = fmt.Errorf("%w: all expressions of the rule together take too long for this message: use fewer patterns and functions, on shorter texts", ErrEvaluation)

// BeginRule starts a rule for the current record. Work of other rules does not count.
func (sc *Scope) BeginRule() { sc.Given, sc.left = nil, maxWork }

// BeginMessage starts rendering a message from the current record. The result depends only on the record and the
// decision, so each element of a list has its own share of the work.
func (sc *Scope) BeginMessage(given []Given, ofItem bool) {
	sc.Given, sc.left = given, maxWork
	if ofItem {
		sc.left /= MaxItems
	}
}

// spend subtracts work; false if none is left.
func (w *work) spend(n int) bool {
	*w -= work(n)
	return *w >= 0
}

// sizeOf returns the work of processing a value.
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

// calls counts the calls in an expression that may process a whole text or list.
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
