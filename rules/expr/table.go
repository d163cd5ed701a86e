package expr

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"cellgate/broker/shared/message"
	"cellgate/rules/doc"
)

// Table is a CSV file with a name at the top of a rule file: models[vin].tank is the value in column tank of the row
// whose key is the VIN.
type Table struct {
	Name    doc.Scalar
	rows    map[string]int
	columns map[string]column
	digest  uint64
}

// column has the values of a column by row; nil for an empty cell.
type column struct {
	values []any
	kind   FieldType // of all values
}

// Bounds of one table.
const (
	maxTableRows    = 100_000
	maxTableColumns = 64
)

// ParseTable reads a CSV file (RFC 4180). The first line names the columns; key is the column that finds rows. line is
// the line of an error.
func ParseTable(name doc.Scalar, key string, data []byte) (t *Table, line int, err error) {
	r := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(data), "\ufeff")))
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		return nil, 1, errors.New("the first line must name the columns, with commas between them")
	}
	head = slices.Clone(head)
	at, err := checkHead(head, key)
	if err != nil {
		return nil, 1, err
	}
	t = &Table{Name: name, rows: map[string]int{}, columns: map[string]column{}, digest: message.Hash(data) ^ message.Hash(key)}
	texts := make([][]string, len(head))
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, csvLine(err), csvError(err, len(head))
		}
		line, _ := r.FieldPos(0)
		if len(t.rows) == maxTableRows {
			return nil, line, fmt.Errorf("more than %d rows", maxTableRows)
		}
		if _, taken := t.rows[row[at]]; taken || row[at] == "" {
			return nil, line, fmt.Errorf("the key %q is empty or occurs twice: every row needs a unique %s", row[at], key)
		}
		t.rows[row[at]] = len(t.rows)
		for i, text := range row {
			texts[i] = append(texts[i], text)
		}
	}
	for i, name := range head {
		t.columns[name] = newColumn(texts[i])
	}
	return t, 0, nil
}

// checkHead returns the index of the key column.
func checkHead(head []string, key string) (int, error) {
	if len(head) > maxTableColumns {
		return 0, fmt.Errorf("more than %d columns", maxTableColumns)
	}
	for i, name := range head {
		if head[i] = strings.TrimSpace(name); head[i] == "" || slices.Contains(head[:i], head[i]) {
			return 0, fmt.Errorf("column %d has no unique name in the first line", i+1)
		}
	}
	at := slices.Index(head, key)
	if at < 0 {
		return 0, fmt.Errorf("there is no column %q; the first line has: %s", key, strings.Join(head, ", "))
	}
	return at, nil
}

func csvLine(err error) int {
	var p *csv.ParseError
	if errors.As(err, &p) {
		return p.Line
	}
	return 1
}

func csvError(err error, columns int) error {
	switch {
	case errors.Is(err, csv.ErrFieldCount):
		return fmt.Errorf("this row does not have %d cells as the first line does", columns)
	case errors.Is(err, csv.ErrQuote), errors.Is(err, csv.ErrBareQuote):
		return errors.New("a quote that is not closed, or is in a cell without quotes")
	}
	return errors.New("this is not valid CSV")
}

// newColumn determines the kind of a column's values.
func newColumn(texts []string) column {
	numbers, bools := true, true
	for _, text := range texts {
		if text == "" {
			continue
		}
		_, _, _, ok := textNumber(text)
		numbers, bools = numbers && ok, bools && (text == "true" || text == "false")
	}
	c := column{values: make([]any, len(texts)), kind: TextField}
	whole := true
	for i, text := range texts {
		switch {
		case text == "":
		case numbers:
			n, f, isWhole, _ := textNumber(text)
			if c.kind, whole = NumberField, whole && isWhole; isWhole {
				c.values[i] = n
			} else {
				c.values[i] = f
			}
		case bools:
			c.kind, c.values[i] = BoolField, text == "true"
		default:
			c.values[i] = text
		}
	}
	if c.kind == NumberField && whole {
		c.kind = IntegerField
	}
	return c
}

// lookup returns a function from keys to values of a column.
func (t *Table) lookup(c column) func(key any) any {
	return func(key any) any {
		if key == nil {
			return nil
		}
		name, ok := key.(string)
		if !ok {
			name = string(AppendText(nil, key))
		}
		if row, ok := t.rows[name]; ok {
			return c.values[row]
		}
		return nil
	}
}

// Digest identifies the contents of the table.
func (t *Table) Digest() uint64 { return t.digest }
