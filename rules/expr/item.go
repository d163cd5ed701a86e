package expr

import (
	"fmt"

	"github.com/valyala/fastjson"

	"cellgate/rules/doc"
)

// ItemName is the name of the current element of a rule's list.
const ItemName = "item"

// MaxItems bounds the list of a rule with each.
const MaxItems = 100

// TheItem returns the default transform of a rule with each: the element.
func TheItem() *Tree { return &Tree{Expr: &doc.Scalar{Value: ItemName, Lines: []string{ItemName}}} }

// Items returns the number of elements of a payload field; 0 if it is missing. A value that is not a list or has more
// than MaxItems elements is an error.
func (sc *Scope) Items(list *Expression) (int, error) {
	items, err := sc.items(list)
	return len(items), err
}

func (sc *Scope) items(list *Expression) ([]*fastjson.Value, error) {
	v, err := sc.field(uint16(list.Field)) //nolint:gosec // a symbol
	if err != nil || v == nil || v.Type() == fastjson.TypeNull {
		return nil, err
	}
	if v.Type() != fastjson.TypeArray {
		return nil, fmt.Errorf("%w: each: %s is not a list", ErrEvaluation, list.Text)
	}
	items, err := v.Array()
	if err == nil && len(items) > MaxItems {
		return nil, fmt.Errorf("%w: each: %s has %d elements, at most %d are messages of their own", ErrEvaluation, list.Text, len(items), MaxItems)
	}
	return items, err
}

// Item selects an element of a payload field.
func (sc *Scope) Item(list *Expression, i int) error {
	items, err := sc.items(list)
	if err == nil && i >= len(items) {
		err = fmt.Errorf("%w: %s has no element %d", ErrRender, list.Text, i)
	}
	if err != nil {
		return err
	}
	sc.item = items[i]
	return nil
}
