// Package expr compiles and evaluates the expressions of rules, and the templates and transforms made of them. It is
// the only package that uses the expression library: bounds, nil-safety and messages for analysts are handled here.
//
// Names are the names that a file's expressions may use. A Scope has the current record.
package expr
