package configs

import (
	"fmt"
	"reflect"
	"sort"
)

// Change is one key whose value differs between two configurations.
type Change struct {
	Path string
	// Restart means that the new value takes effect only after a restart.
	Restart bool
}

// Diff returns the differences between the running configuration and a new one, in the order of the keys. Keys in both
// are compared value by value. A section or list that is added, removed or changes its length is one change.
func Diff(running, next *Config) []Change {
	var changes []Change
	diff(reflect.ValueOf(running).Elem(), reflect.ValueOf(next).Elem(), "", false, &changes)
	return changes
}

func diff(a, b reflect.Value, path string, reload bool, out *[]Change) {
	changed := func() { *out = append(*out, Change{Path: path, Restart: !reload}) }
	switch a.Kind() {
	case reflect.Pointer:
		switch {
		case a.IsNil() && b.IsNil():
		case a.IsNil() || b.IsNil():
			changed() // needs a restart unless everything around it can be reloaded
		default:
			diff(a.Elem(), b.Elem(), path, reload, out)
		}
	case reflect.Struct:
		for _, f := range fieldsOf(a.Type()) {
			x, y := a.Field(f.index), b.Field(f.index)
			if f.tag.Get("single") == "yes" && x.Len() == 1 && y.Len() == 1 {
				x, y = x.Index(0), y.Index(0)
			}
			diff(x, y, join(path, f.name), reload || f.tag.Get("reload") == "yes", out)
		}
	case reflect.Slice:
		if a.Len() != b.Len() {
			changed()
			return
		}
		for i := range a.Len() {
			diff(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", path, i), reload, out)
		}
	case reflect.Map:
		diffMaps(a, b, path, reload, out)
	default:
		if !a.Equal(b) {
			changed()
		}
	}
}

func diffMaps(a, b reflect.Value, path string, reload bool, out *[]Change) {
	keys := map[string]bool{}
	for _, m := range []reflect.Value{a, b} {
		for _, k := range m.MapKeys() {
			keys[k.String()] = true
		}
	}
	sorted := make([]string, 0, len(keys))
	for k := range keys {
		sorted = append(sorted, k)
	}
	sort.Strings(sorted)
	for _, k := range sorted {
		x, y := a.MapIndex(reflect.ValueOf(k)), b.MapIndex(reflect.ValueOf(k))
		if !x.IsValid() || !y.IsValid() {
			*out = append(*out, Change{Path: join(path, k), Restart: !reload})
			continue
		}
		diff(x, y, join(path, k), reload, out)
	}
}
