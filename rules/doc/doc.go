// Package doc reads the YAML files that analysts write. It is strict: unknown keys are errors, YAML features that hide
// what a file says are refused, and every finding has its position and a code from the table in README.md.
package doc
