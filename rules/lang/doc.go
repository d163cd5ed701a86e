// Package lang implements the rule language: it reads the files of a folder, checks them and compiles them into a Set,
// whole or not at all.
//
//	folder, err := lang.ReadFolder(ctx, "configs/rules")  // once the files are stable; Source.Hash() identifies the rules
//	set, err := folder.Compile(lang.Options{Cell: "cell-sh-01"})
//
// Package op describes operators and targets. Package engine evaluates a set. The reference for analysts is
// rules/README.md.
package lang
