// Package lang is the language of rules: it reads the files of a folder, checks them and compiles them into a Set, whole or not
// at all.
//
//	folder, err := lang.ReadFolder(ctx, "configs/rules")  // the files, when they rest; Source.Hash() names the rules
//	set, err := folder.Compile(lang.Options{Cell: "cell-sh-01"})
//
// What stands in a rule beside names and conditions, operators and targets, package op describes. Package engine evaluates by
// a set; analysts read rules/README.md.
package lang
