// Package options completes the options of a part for a test, which states what it is about.
package options

import "reflect"

// Fill gives every field of *o that is zero the value of the field of that name in the first of the structs of from that
// has one: of a section of the configuration, or of options that a package's tests have in common.
func Fill(o any, from ...any) {
	to := reflect.ValueOf(o).Elem()
	for i := range to.NumField() {
		f, field := to.Type().Field(i), to.Field(i)
		for _, s := range from {
			v := reflect.ValueOf(s).FieldByName(f.Name)
			switch {
			case !v.IsValid() || !f.IsExported() || !v.CanConvert(field.Type()):
			case field.IsZero():
				field.Set(v.Convert(field.Type()))
			case field.Kind() == reflect.Struct:
				Fill(field.Addr().Interface(), v.Interface())
			}
		}
	}
}
