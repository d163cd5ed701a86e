package expr

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"

	"cellgate/broker/shared/spelling"
	"cellgate/rules/doc"
)

func (r *resolver) suggest(name string) string {
	if r.names.Schema.Fields != nil {
		if _, ok := r.names.Schema.Fields[name]; ok {
			return fmt.Sprintf("did you mean payload.%s?", name)
		}
	}
	if meant := meantConstant(name); meant != "" {
		return meant
	}
	if name == ItemName {
		return "an element of a list is item in a rule with each: payload.alarms"
	}
	known := baseNameList()
	for l := range r.names.Lists {
		known = append(known, l)
	}
	for _, m := range r.names.Macros {
		known = append(known, m.Name.Value)
	}
	slices.Sort(known)
	if n := spelling.Nearest(name, known); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if !doc.ValidName(name) {
		return ""
	}
	return fmt.Sprintf("a field of the message is payload.%s, a text is %s", name, strconv.Quote(name))
}

// meantTable suggests the right form for a table that is called like a function.
func (r *resolver) meantTable(name string) string {
	if _, ok := r.names.Tables[name]; !ok {
		return ""
	}
	return fmt.Sprintf("write %s[vin].column, with the key and the column", name)
}

// fieldCalled reports payload.x.name(): fields have no methods.
func (r *resolver) fieldCalled(n ast.Node, name string) {
	if isMethod(name) {
		r.fail(n, doc.CodeExprType, "name the field in schema.event_at, and write event_at.Hour()", "a field of the message is no time: %s() does not work on it", name)
		return
	}
	r.fail(n, doc.CodeExprType, meantMethod(name), "a field of the message has no %s()", name)
}

// meantConstant suggests a replacement for a constant of another language; "" if the name is not one.
func meantConstant(name string) string {
	switch strings.ToLower(name) {
	case "true", "false":
		return "true and false are written in lower case"
	case "null", "none", "undefined", "missing", "nan":
		return "a field that is missing is nil: payload.soc == nil"
	}
	return ""
}

// meantFunction suggests a replacement for a function or method of another language; "" if the name is not one.
func meantFunction(name string) string {
	switch strings.ToLower(name) {
	case "exists", "has", "isset", "isnull", "isnil", "is_null", "defined":
		return "payload.soc != nil tests whether a field exists, payload.soc == nil whether it is missing"
	case "coalesce", "ifnull", "nvl", "default":
		return "payload.a ?? payload.b is the second when the first is missing"
	case "if", "iif", "case", "when":
		return "write condition ? a : b"
	case "avg", "average":
		return "of a list it is mean(payload.cells), over time the operator average"
	case "length", "size", "strlen", "count":
		return "write len(x); how many messages there were is the operator count"
	case "substring", "substr", "slice", "left", "right", "mid":
		return "x[0:3] is the first three characters of a text"
	case "concat", "concatenate":
		return "texts are joined with +"
	case "startswith", "endswith", "includes":
		return `write x startsWith "L", x endsWith "L" or x contains "L"`
	case "regex", "regexp", "match", "matches", "rlike":
		return `write x matches "^L"`
	case "tolower", "lowercase", "lcase":
		return "write lower(x)"
	case "toupper", "uppercase", "ucase":
		return "write upper(x)"
	case "tostring", "str", "text":
		return "write string(x)"
	case "tonumber", "number", "double", "parsefloat", "parseint":
		return "write float(x) or int(x)"
	case "pow", "power":
		return "write x ** y"
	case "sqrt":
		return "write x ** 0.5"
	case "mod":
		return "write x % y"
	case "datediff", "date_diff", "timediff", "age":
		return "late_ms is how many milliseconds after its event_at a message came; a.Unix() - b.Unix() are seconds"
	case "today", "timestamp", "current_timestamp", "time", "date":
		return "received_at is when the message came"
	case "distance", "geodistance", "haversine":
		return "inside(payload.lat, payload.lon, place) with zones: {place: {lat: 31.2, lon: 121.4, radius: 500}} at the top of the file"
	case "lag", "previous", "prev":
		return "write on_change: payload.soc, and then operator.previous"
	}
	return ""
}

// quotedName matches a field in quotes.
var quotedName = regexp.MustCompile(`["'](payload|operator|properties)\.[A-Za-z_]`)

// meantTypes suggests what to do if an operator does not accept two kinds of values, given as words of typeWord.
func meantTypes(operator, left, right, src string) string {
	is := func(kind string) bool { return left == kind || right == kind }
	switch {
	case quotedName.MatchString(src):
		return "a field's name has no quotes"
	case operator == "and" || operator == "or" || operator == "&&" || operator == "||":
		return "both sides are conditions: compare a field with something, as in payload.soc > 0"
	case operator == "in":
		return `in needs a list: payload.gear in ["D", "R"]; to search in a text use contains`
	case is("a number") && (operator == "contains" || operator == "startsWith" || operator == "endsWith" || operator == "matches"):
		return "it works on texts: string(x) makes one of a number"
	case operator == "%":
		return "% takes whole numbers: declare the field as integer in schema.fields, or write int(x) % 2"
	case is("a duration"):
		return `a duration is written duration("5m")`
	case is("a time") && (operator == "+" || operator == "-"):
		return `add a duration to a time: received_at + duration("5m")`
	case is("a time"):
		return "received_at.Unix() are the seconds since 1970; late_ms is how late a message came, .Hour() an hour of the day"
	case is("a function"):
		return "a function has parentheses: received_at.Hour()"
	case is("a list"):
		return "name one of its numbers: max(x), min(x), mean(x), len(x), or x[0]"
	case is("an object"):
		return "name a field of it: payload.position.lat"
	case is("true or false"):
		return "write payload.on == true, or payload.on alone when the schema says boolean"
	case operator == "-" && left == right:
		return "only numbers are subtracted; texts are joined with +"
	case is("a text"):
		return "a text has quotes, a number does not; check the field's type in schema.fields"
	}
	return ""
}

// examples are example calls of functions with more than one argument.
var examples = map[string]string{
	"round": "round(payload.soc, 1)", "byte": "byte(raw, 0)", "bits": "bits(payload.status, 4, 2)", "split": `split(payload.text, ",")`,
	"indexOf": `indexOf(payload.text, "a")`, "lastIndexOf": `lastIndexOf(payload.text, "a")`, "hasPrefix": `hasPrefix(vin, "L")`,
	"hasSuffix": `hasSuffix(vin, "1")`, "trimPrefix": `trimPrefix(payload.text, "a")`, "trimSuffix": `trimSuffix(payload.text, "a")`,
	"get": "get(payload.cells, 0)", "mean": listExample("mean"), "median": listExample("median"), "sum": listExample("sum"), "min": listExample("min"),
	"max": listExample("max"), "len": listExample("len"), "first": listExample("first"), "last": listExample("last"),
}

func listExample(function string) string { return function + "(payload.cells)" }

// exampleOf returns an example call of a function.
func exampleOf(function string) string {
	if e := examples[function]; e != "" {
		return "for example " + e
	}
	return fmt.Sprintf("for example %s(payload.soc)", function)
}

// meantMethod suggests a replacement for x.name().
func meantMethod(name string) string {
	switch meant := meantFunction(name); {
	case isFunction(name):
		return fmt.Sprintf("write %s(x), not x.%s()", name, name)
	case name == "contains":
		return `write x contains "a"`
	case meant != "":
		return meant
	}
	return "times have: at_zone, " + strings.Join(methodNames(), ", ")
}
