// Package op describes operators and targets, each in a file of its own: its YAML keys and their checks, compilation,
// evaluation, JSON Schema and the text in rules/README.md. Operators and Targets list them; the rest of the module has
// no such list. To add one, add a file here and a line in list.go.
package op
