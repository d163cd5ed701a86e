// Package complete checks that options are complete: parts have no defaults of their own.
package complete

import (
	"fmt"
	"reflect"
)

// Check returns an error that names the first field of a struct that is zero, among its numbers, texts, functions,
// interfaces and pointers, or a negative number. A field whose zero value has a meaning declares it in its tag; so does
// one that may be negative:
//
//	ConnectRate int           `zero:"no limit"`
//	Jump        time.Duration `zero:"it has not moved" negative:"it went back"`
func Check(options any) error {
	v := reflect.ValueOf(options)
	return check(v, v.Type().String())
}

func check(v reflect.Value, path string) error {
	for i := range v.NumField() {
		f, value := v.Type().Field(i), v.Field(i)
		at := path + "." + f.Name
		switch kind := value.Kind(); {
		case !f.IsExported(), kind == reflect.Bool, kind == reflect.Slice, kind == reflect.Map:
		case negative(value) && f.Tag.Get("negative") == "":
			return fmt.Errorf("%s is negative", at)
		case f.Tag.Get("zero") != "":
		case kind == reflect.Struct:
			if err := check(value, at); err != nil {
				return err
			}
		case value.IsZero():
			return fmt.Errorf("%s is not set", at)
		}
	}
	return nil
}

func negative(v reflect.Value) bool {
	return v.CanInt() && v.Int() < 0 || v.CanFloat() && v.Float() < 0
}
