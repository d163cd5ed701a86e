// Package doc reads the YAML files that analysts write. It is strict: every key is known, the parts of YAML that hide what a
// file says are refused, and every finding has its place, in the words of README.md's table of codes.
package doc
