// Package configs holds the gateway's configuration: its types, its defaults, the strict reader of the
// YAML, and the sample files that the binary carries.
//
// A file is read whole or not at all. Every problem found in it is reported at once, each as
//
//	file:line:col: key.path: why; what to do
//
// Unknown keys are errors. ${NAME} in a value expands to the environment variable NAME, a missing one is
// an error, and $${ means a literal ${. Relative paths resolve from the folder of the file. Every
// key but cell.id has a default; cell.yaml in this folder lists them all.
//
// The struct tags are part of the declaration: yaml gives the key, oneof the permitted words, range the
// bounds of a number, size or duration (both ends belong to it, an empty end is open), and reload:"yes"
// marks what a running gateway takes over on SIGHUP. All else needs a restart, as Diff tells.
package configs
