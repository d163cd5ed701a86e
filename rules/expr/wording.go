package expr

import (
	"fmt"
	"regexp"
	"strings"
)

// wordings are messages of the library that name its own things, and what they come to.
var wordings = []struct {
	message    *regexp.Regexp
	text       func(m []string) string
	suggestion string
}{
	{
		regexp.MustCompile(`^cannot use (.+) as argument \(type (.+)\) to call (\S+)`),
		func(m []string) string {
			return fmt.Sprintf("%s takes %s here, this is %s", strings.TrimPrefix(m[3], methodPrefix), typeWord(m[2]), typeWord(m[1]))
		},
		"check the field's type in schema.fields",
	},
	{
		regexp.MustCompile(`^invalid operation: (\S+) \(mismatched type (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("%s does not work on %s", m[1], typeWord(m[2])) }, "",
	},
	{
		regexp.MustCompile(`^invalid argument for (\S+) \(type (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("%s does not work on %s", m[1], typeWord(m[2])) }, "",
	},
	{
		regexp.MustCompile(`^cannot use (.+) to get an element from (.+)$`),
		func(m []string) string {
			return fmt.Sprintf("%s has no element that %s finds", typeWord(m[2]), typeWord(m[1]))
		}, "",
	},
	{
		regexp.MustCompile(`^array elements can only be selected using an integer \(got (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("a list has no element that %s finds", typeWord(m[1])) }, "elements are counted from 0: payload.cells[0]",
	},
	{
		regexp.MustCompile(`^type (.+) has no (field|method) (\S+)$`),
		func(m []string) string { return fmt.Sprintf("%s has no %s %s", typeWord(m[1]), m[2], m[3]) }, "",
	},
	{
		regexp.MustCompile(`^type string\[`),
		func([]string) string { return "a text has no elements" }, "x[0:1] is its first character, byte(x, 0) its first byte",
	},
	{
		regexp.MustCompile(`^type (.+)\[.+\] is undefined$`),
		func(m []string) string { return typeWord(m[1]) + " has no elements" }, "",
	},
	{
		regexp.MustCompile(`^type (.+) does not support indexing$`),
		func(m []string) string { return typeWord(m[1]) + " has no elements" }, "",
	},
	{
		regexp.MustCompile(`^cannot get (?:first|last) element from (.+)$`),
		func(m []string) string { return typeWord(m[1]) + " has no elements" }, "",
	},
	{
		regexp.MustCompile(`^cannot slice (.+)$`),
		func(m []string) string { return typeWord(m[1]) + " has no parts [a:b]" }, "",
	},
	{
		regexp.MustCompile(`^non-integer slice index (.+)$`),
		func(m []string) string { return fmt.Sprintf("[a:b] takes whole numbers, this is %s", typeWord(m[1])) }, "",
	},
	{
		regexp.MustCompile(`^non-bool expression \(type (.+)\) used as condition$`),
		func(m []string) string {
			return fmt.Sprintf("what stands in front of ? must be true or false, this is %s", typeWord(m[1]))
		}, "",
	},
	{
		regexp.MustCompile(`^error parsing regexp: (.+)$`),
		func(m []string) string { return "the pattern cannot be read: " + m[1] }, `[, ( and * have a meaning in a pattern; to look for the sign itself write \\[`,
	},
	{
		regexp.MustCompile(`^invalid number of arguments \(expected (\d+), got (\d+)\)$`),
		func(m []string) string { return fmt.Sprintf("this function takes %s values, here are %s", m[1], m[2]) }, "",
	},
	{
		regexp.MustCompile(`^(too many|not enough) arguments to call (\S+)$`),
		func(m []string) string {
			return fmt.Sprintf("%s values for %s", m[1], strings.TrimPrefix(m[2], methodPrefix))
		}, "",
	},
}

var mismatch = regexp.MustCompile(`^invalid operation: (\S+) \(mismatched types (.+) and (.+)\)$`)

// plainWords turns expr's messages about types and syntax into ones without Go's type names.
func plainWords(message, src string) (text, suggestion string) {
	for i := range wordings {
		if m := wordings[i].message.FindStringSubmatch(strings.TrimSpace(message)); m != nil {
			return wordings[i].text(m), wordings[i].suggestion
		}
	}
	if m := mismatch.FindStringSubmatch(message); m != nil {
		if typeWord(m[2]) == typeWord(m[3]) && m[2] == "unknown" {
			return m[1] + " does not work with nil", "ask whether a field is there with payload.soc != nil"
		}
		text = fmt.Sprintf("%s does not work between %s and %s", m[1], typeWord(m[2]), typeWord(m[3]))
		if m[2] == "string" || m[3] == "string" {
			suggestion = "a text stands between quotes, a number does not; check the field's type in schema.fields"
		}
		return text, suggestion
	}
	if message == "unexpected token EOF" {
		if strings.Count(src, "(") > strings.Count(src, ")") {
			suggestion = "a ( is not closed; inside {…} and […] a comma ends the expression, unless that stands between single quotes"
		} else if strings.HasSuffix(strings.TrimSpace(src), "%") {
			suggestion = "leave the % away: it is the rest of a division here"
		}
		return "the expression ends too soon", suggestion
	}
	if strings.HasPrefix(message, "unrecognized character") && strings.ContainsAny(message, "“”„‟«»‘’‚") {
		return "a quote of a text editor", `write plain quotes: "D"`
	}
	m := unexpected.FindStringSubmatch(message)
	switch {
	case strings.Contains(src, "${"):
		return "${ has no meaning in an expression", "write the name alone: vin instead of ${vin}"
	case m == nil:
		return message, ""
	}
	return fmt.Sprintf("%q is not expected here", m[1]), meantOperator(m[1], src)
}

// meantOperator suggests what to write for a sign or a word that is one in another language.
func meantOperator(token, src string) string {
	switch strings.ToLower(token) {
	case "=":
		switch {
		case strings.Contains(src, "=<"):
			return `"less or equal" is written <=`
		case strings.Contains(src, "=>"):
			return `"greater or equal" is written >=`
		}
		return `"is equal" is written ==`
	case ">":
		if strings.Contains(src, "<>") {
			return `"is not equal" is written !=`
		}
	case "and", "or", "not":
		if token != strings.ToLower(token) {
			return "and, or, not are written in small letters"
		}
		return "a condition is missing in front of it"
	case "between":
		return "write x >= 5 and x <= 15"
	case "then":
		return "write condition ? a : b"
	case ")":
		return "there is a ) without a ("
	case "<", "<=", ">=":
		return "what is compared is missing in front of it"
	case "%", "km", "kmh", "c", "v", "kw", "s", "ms", "min":
		return "a number has no unit"
	case "und", "oder", "nicht":
		return "write and, or, not"
	case "is":
		return "a field that is missing: == nil; one that is there: != nil"
	case "like":
		return `write startsWith, endsWith or contains, or matches "pattern"`
	}
	if strings.HasPrefix(token, ".") && strings.Trim(token, ".0123456789") == "" {
		return "a number has one point at most; digits may be grouped as 100_000"
	}
	return ""
}

var unexpected = regexp.MustCompile(`^unexpected token \w+\("(.*)"\)$`)

// openQuote finds the character that begins a text without an end.
func openQuote(src string) (index int, ok bool) {
	quote, escaped, i := rune(0), false, 0
	for _, r := range src {
		switch {
		case escaped:
			escaped = false
		case quote == 0 && (r == '"' || r == '\'' || r == '`'):
			quote, index = r, i
		case r == quote:
			quote = 0
		case quote != 0 && quote != '`' && r == '\\':
			escaped = true
		}
		i++
	}
	return index, quote != 0
}

// decimalComma reports whether the character at index is a comma between two digits.
func decimalComma(src string, index int) bool {
	runes := []rune(src)
	digit := func(i int) bool { return i >= 0 && i < len(runes) && runes[i] >= '0' && runes[i] <= '9' }
	return index < len(runes) && index >= 0 && runes[index] == ',' && digit(index-1) && digit(index+1)
}

// typeWord names a Go type for people.
func typeWord(t string) string {
	words := map[string]string{
		"string": "a text", "float64": "a number", "int": "a whole number", "bool": "true or false",
		"time.Time": "a time", "time.Duration": "a duration", "unknown": "anything", "nil": "nothing (nil)",
		"[]interface {}": "a list", "map[string]interface {}": "an object", "*expr.List": "a list",
		"map[string]struct {}": "a list",
	}
	if w, ok := words[t]; ok {
		return w
	}
	return t
}
