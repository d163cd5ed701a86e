// Package op describes operators and targets, each in a file of its own: its keys in YAML, what is checked about them, how it
// is compiled, what it does with a message, its JSON Schema and its text in rules/README.md. Operators and Targets list them;
// nothing else in the module does. To add one is a file here and a line in list.go.
package op
