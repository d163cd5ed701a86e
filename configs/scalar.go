package configs

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"cellgate/broker/shared/stable"
)

// scalar decodes one value: it expands the environment, parses the type, then checks the tag's bounds.
func (d *decoder) scalar(n ast.Node, v reflect.Value, path string, tag reflect.StructTag) {
	text, ok := scalarText(n)
	if !ok {
		d.add(n, path, "is "+describe(n)+", but a single value is expected", "write `key: value`")
		return
	}
	expanded, err := expand(text, d.env, filepath.Dir(d.file))
	if err != nil {
		d.add(n, path, err.Error(), envFix(err))
		return
	}
	if err := setScalar(v, expanded); err != nil {
		d.add(n, path, fmt.Sprintf("%q %v", text, err), scalarHint(v))
		return
	}
	if why, fix := checkTag(v, tag, text); why != "" {
		d.add(n, path, why, fix)
	}
}

var (
	errNumber = errors.New("is not a whole number")
	errBool   = errors.New("is neither true nor false")
)

func setScalar(v reflect.Value, text string) error {
	if s, ok := v.Addr().Interface().(textSetter); ok {
		return s.setText(text)
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errBool
		}
		v.SetBool(text == "true")
	case reflect.Int:
		i, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
		if err != nil {
			return errNumber
		}
		v.SetInt(i)
	default:
		return fmt.Errorf("cannot be read into %s", v.Type())
	}
	return nil
}

func scalarHint(v reflect.Value) string {
	if s, ok := v.Addr().Interface().(textSetter); ok {
		return s.hint()
	}
	if v.Kind() == reflect.Bool {
		return "write true or false"
	}
	return "write digits only, such as 1000"
}

// checkTag checks a value against its oneof and range tags. text is the value as written in the file, so that messages
// do not repeat what came from the environment.
func checkTag(v reflect.Value, tag reflect.StructTag, text string) (why, fix string) {
	if words := tag.Get("oneof"); words != "" {
		allowed := strings.Split(words, "|")
		for _, w := range allowed {
			if v.String() == w {
				return "", ""
			}
		}
		return fmt.Sprintf("%q is not a permitted value", text), suggestOne(v.String(), allowed)
	}
	bounds := tag.Get("range")
	if bounds == "" {
		return "", ""
	}
	low, high, _ := strings.Cut(bounds, "..")
	if (low != "" && v.Int() < parseBound(v.Type(), low)) || (high != "" && v.Int() > parseBound(v.Type(), high)) {
		return fmt.Sprintf("%v is out of range", v.Interface()), fmt.Sprintf("use %s to %s", low, high)
	}
	return "", ""
}

// parseBound parses one end of a range tag in the unit of the field. A test parses all tags.
func parseBound(t reflect.Type, text string) int64 {
	v := reflect.New(t).Elem()
	if err := setScalar(v, text); err != nil {
		panic(fmt.Sprintf("configs: range tag %q of a %s: %v", text, t, err))
	}
	return v.Int()
}

// missingEnvError names an environment variable that is not set.
type missingEnvError struct{ name string }

func (e *missingEnvError) Error() string {
	return fmt.Sprintf("environment variable %s is not set", e.name)
}

var errEnvSyntax = errors.New("${ without a variable's name and }")

func envFix(err error) string {
	var missing *missingEnvError
	if errors.As(err, &missing) {
		return "export " + missing.name + " before starting, or write the value here"
	}
	var file *fileError
	if errors.As(err, &file) {
		return "name a file that the gateway's user may read, with nothing but the value in it"
	}
	return "write ${NAME} or ${file:PATH}, or $${ for a literal ${"
}

// expand replaces ${NAME} with the environment's value, ${file:PATH} with the contents of a file (relative paths
// resolve from dir), and $${ with ${.
func expand(text string, env func(string) (string, bool), dir string) (string, error) {
	if !strings.Contains(text, "${") {
		return text, nil
	}
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), nil
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		b.WriteString(text[:i])
		name, rest, ok := strings.Cut(text[i+2:], "}")
		if !ok {
			return "", errEnvSyntax
		}
		value, err := lookUp(name, env, dir)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		text = rest
	}
}

// maxValueFile bounds a file that contains a value.
const maxValueFile = 64 << 10

// fileError says why a file with a value cannot be used, without the value.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }

// lookUp returns the value of the name between ${ and }.
func lookUp(name string, env func(string) (string, bool), dir string) (string, error) {
	path, isFile := strings.CutPrefix(name, "file:")
	switch {
	case isFile && path != "":
		return readValue(path, dir)
	case isFile || !validEnvName(name):
		return "", errEnvSyntax
	}
	value, ok := env(name)
	if !ok {
		return "", &missingEnvError{name: name}
	}
	return value, nil
}

// readValue returns a file's contents without the final line end.
func readValue(path, dir string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	body, err := stable.ReadFile(path)
	switch {
	case err != nil:
		return "", &fileError{err}
	case len(body) > maxValueFile:
		return "", &fileError{fmt.Errorf("%s: longer than 64 KiB", path)}
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(body), "\n"), "\r"), nil
}

func validEnvName(name string) bool {
	for i, r := range name {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}
