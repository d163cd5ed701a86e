// Package expr compiles and evaluates the expressions of rules, and the templates and transforms that are made of them. It is
// the only package that knows its library: what is bounded, nil-safe and worded for analysts here needs no
// other care above.
//
// Names are what the expressions of a file may refer to; a Scope holds the record at hand.
package expr
