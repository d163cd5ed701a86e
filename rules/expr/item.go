package expr

import (
	"fmt"

	"github.com/valyala/fastjson"

	"cellgate/rules/doc"
)

// ItemName is the element at hand of a rule's list.
const ItemName = "item"

// MaxItems is how many elements a list may have of which each is a message.
const MaxItems = 100

// TheItem is the transform of a rule that has none and looks at the elements of a list.
func TheItem() *Tree { return &Tree{Expr: &doc.Scalar{Value: ItemName, Lines: []string{ItemName}}} }

// Items is the number of elements of a payload field: 0 when it is missing. A list with more than MaxItems is an error, and so is
// anything that is not a list.
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

// Item turns to an element of a payload field.
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
