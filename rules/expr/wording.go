package expr

import (
	"fmt"
	"regexp"
	"strings"
)

// wordings are messages of the library that use its own terms, with replacements.
var wordings = []struct {
	message    *regexp.Regexp
	text       func(m []string) string
	suggestion func(m []string) string // nil: none
}{
	{
		regexp.MustCompile(`^cannot use (.+) as argument \(type (.+)\) to call (\S+)`),
		func(m []string) string {
			return fmt.Sprintf("%s takes %s here, this is %s", strings.TrimPrefix(m[3], methodPrefix), typeWord(m[2]), typeWord(m[1]))
		},
		func(m []string) string {
			if name := strings.TrimPrefix(m[3], methodPrefix); examples[name] != "" {
				return exampleOf(name)
			}
			return "check the field's type in schema.fields"
		},
	},
	{
		regexp.MustCompile(`^invalid operation: (\S+) \(mismatched type (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("%s does not work on %s", m[1], typeWord(m[2])) },
		func(m []string) string {
			if m[1] == "not" || m[1] == "!" {
				return "not is written before a condition: not (payload.soc > 0)"
			}
			return ""
		},
	},
	{
		regexp.MustCompile(`^invalid argument for (\S+) \(type (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("%s does not work on %s", m[1], typeWord(m[2])) }, nil,
	},
	{
		regexp.MustCompile(`^cannot use (.+) to get an element from (.+)$`),
		func(m []string) string {
			return fmt.Sprintf("%s has no element that %s finds", typeWord(m[2]), typeWord(m[1]))
		}, nil,
	},
	{
		regexp.MustCompile(`^array elements can only be selected using an integer \(got (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("a list has no element that %s finds", typeWord(m[1])) }, says("elements are counted from 0: payload.cells[0]"),
	},
	{
		regexp.MustCompile(`^type (.+) has no (field|method) (\S+)$`),
		func(m []string) string { return fmt.Sprintf("%s has no %s %s", typeWord(m[1]), m[2], m[3]) },
		func(m []string) string { return meantFunction(m[3]) },
	},
	{
		regexp.MustCompile(`^type string\[`),
		func([]string) string { return "a text has no elements" }, says("x[0:1] is its first character, byte(x, 0) its first byte"),
	},
	{
		regexp.MustCompile(`^type (.+)\[.+\] is undefined$`),
		func(m []string) string { return typeWord(m[1]) + " has no elements" }, nil,
	},
	{
		regexp.MustCompile(`^type (.+) does not support indexing$`),
		func(m []string) string { return typeWord(m[1]) + " has no elements" }, nil,
	},
	{
		regexp.MustCompile(`^cannot get (?:first|last) element from (.+)$`),
		func(m []string) string { return typeWord(m[1]) + " has no elements" }, nil,
	},
	{
		regexp.MustCompile(`^cannot slice (.+)$`),
		func(m []string) string { return typeWord(m[1]) + " has no parts [a:b]" }, nil,
	},
	{
		regexp.MustCompile(`^non-integer slice index (.+)$`),
		func(m []string) string { return fmt.Sprintf("[a:b] takes whole numbers, this is %s", typeWord(m[1])) }, nil,
	},
	{
		regexp.MustCompile(`^non-bool expression \(type (.+)\) used as condition$`),
		func(m []string) string {
			return fmt.Sprintf("the condition before ? must be true or false, this is %s", typeWord(m[1]))
		}, nil,
	},
	{
		regexp.MustCompile(`^error parsing regexp: (.+)$`),
		func(m []string) string { return "the pattern cannot be read: " + m[1] }, says(`[, ( and * have a meaning in a pattern; to look for the character itself write \\[`),
	},
	{
		regexp.MustCompile(`^invalid number of arguments \(expected (\d+), got (\d+)\)$`),
		func(m []string) string { return fmt.Sprintf("this function takes %s, here are %s", values(m[1]), m[2]) }, nil,
	},
	{
		regexp.MustCompile(`^(too many|not enough) arguments to call (\S+)$`),
		func(m []string) string {
			return fmt.Sprintf("%s values for %s", m[1], strings.TrimPrefix(m[2], methodPrefix))
		},
		func(m []string) string { return exampleOf(strings.TrimPrefix(m[2], methodPrefix)) },
	},
	{
		regexp.MustCompile(`^builtin (\S+) takes only array \(got (.+)\)$`),
		func(m []string) string { return fmt.Sprintf("%s takes a list here, this is %s", m[1], typeWord(m[2])) },
		func(m []string) string { return exampleOf(m[1]) },
	},
	{
		regexp.MustCompile(`^invalid (?:integer|float|hex|binary|octal) literal: .* parsing "(.*)": value out of range$`),
		func(m []string) string { return m[1] + " is larger than a number can be" }, says("whole numbers have 19 digits at most, decimals are below 1e308"),
	},
	{
		regexp.MustCompile(`^(?:bad number syntax|invalid (?:integer|float|hex|binary|octal) literal): .*?"(.*?)"`),
		func(m []string) string { return m[1] + " is not a number" }, says("a number has no unit: late_ms counts milliseconds, operator.elapsed seconds"),
	},
	{
		regexp.MustCompile(`^(invalid char escape|unable to unescape)`),
		func([]string) string { return `a \ in a text is followed by a character that it cannot escape` }, says(`a backslash itself is written \\`),
	},
	{
		regexp.MustCompile(`^unrecognized character: U\+\w+ '([^“”„‟«»‘’‚]+)'`),
		func(m []string) string { return m[1] + " has no meaning in an expression" },
		func(m []string) string { return meantOperator(m[1], "") },
	},
	{
		regexp.MustCompile(`^expected name$`),
		func([]string) string { return "a name is missing after the dot" }, says("for example payload.soc"),
	},
	{
		regexp.MustCompile(`^unclosed comment$`),
		func([]string) string { return "an expression has no comments" }, says("put it on a line of its own that begins with #"),
	},
}

// says returns the same suggestion for all matches.
func says(text string) func([]string) string { return func([]string) string { return text } }

// values formats a count of values.
func values(n string) string {
	if n == "1" {
		return "1 value"
	}
	return n + " values"
}

var mismatch = regexp.MustCompile(`^invalid operation: (\S+) \(mismatched types (.+) and (.+)\)$`)

// plainWords rewords expr's messages about types and syntax without Go's type names.
func plainWords(message, src string) (text, suggestion string) {
	for i := range wordings {
		if m := wordings[i].message.FindStringSubmatch(strings.TrimSpace(message)); m != nil {
			if suggest := wordings[i].suggestion; suggest != nil {
				suggestion = suggest(m)
			}
			return wordings[i].text(m), suggestion
		}
	}
	if m := mismatch.FindStringSubmatch(message); m != nil {
		if typeWord(m[2]) == typeWord(m[3]) && m[2] == "unknown" {
			return m[1] + " does not work with nil", "test for a field with payload.soc != nil"
		}
		text = fmt.Sprintf("%s does not work between %s and %s", m[1], typeWord(m[2]), typeWord(m[3]))
		return text, meantTypes(m[1], typeWord(m[2]), typeWord(m[3]), src)
	}
	if message == "unexpected token EOF" {
		if strings.Count(src, "(") > strings.Count(src, ")") {
			suggestion = "a ( is not closed; inside {…} and […] a comma ends the expression, unless it is in single quotes"
		} else if strings.HasSuffix(strings.TrimSpace(src), "%") {
			suggestion = "remove the %: it is the remainder of a division here"
		} else if strings.Contains(strings.ReplaceAll(src, "??", ""), "?") || strings.HasPrefix(strings.TrimSpace(src), "if ") {
			suggestion = "write condition ? a : b"
		} else if strings.HasPrefix(strings.TrimSpace(src), "let ") {
			suggestion = "the expression that uses it follows: let x = payload.soc; x > 5"
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

// meantOperator suggests a replacement for a sign or word of another language.
func meantOperator(token, src string) string {
	if listInParentheses.MatchString(src) && (token == "," || token == ")") {
		return `a list is written between [ and ]: payload.gear in ["D", "R"]`
	}
	if singlePipe.MatchString(src) && token == "." {
		return meantOperator("|", src)
	}
	if token == "," && strings.HasPrefix(strings.TrimSpace(src), "if") {
		return meantFunction("if")
	}
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
			return "and, or, not are written in lower case"
		}
		return "a condition is missing before it"
	case "between":
		return "write x >= 5 and x <= 15"
	case "then":
		return "write condition ? a : b"
	case ")":
		return "there is a ) without a ("
	case "<", "<=", ">=":
		return "the value to compare is missing before it"
	case "%", "km", "kmh", "c", "v", "kw", "s", "ms", "min":
		return "a number has no unit"
	case "&", "|":
		return "write and, or; of the bits of two numbers bitand(a, b), bitor(a, b)"
	case "~":
		return `write matches "pattern"`
	case "exists":
		return "write payload.soc != nil"
	case "und", "oder", "nicht":
		return "write and, or, not"
	case "is":
		return "a field that is missing: == nil; one that exists: != nil"
	case "like":
		return `write startsWith, endsWith or contains, or matches "pattern"`
	}
	if len(token) > 1 && token[0] == '.' && strings.Trim(token, ".0123456789") == "" {
		return "a number has one point at most; digits may be grouped as 100_000"
	}
	return ""
}

var (
	listInParentheses = regexp.MustCompile(`\bin\s*[({]`)
	singlePipe        = regexp.MustCompile(`[^|]\|[^|>]`)
)

var unexpected = regexp.MustCompile(`^unexpected token \w+\("(.*)"\)$`)

// openQuote returns the index of the character that starts an unterminated text.
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

// typeWord returns a Go type in an analyst's words.
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
	if strings.HasPrefix(t, "func(") {
		return "a function"
	}
	return t
}
