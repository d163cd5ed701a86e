// Package workbench has the tools of those who write rules: Check, Test, Explain, Diff, Format, JSONSchema, Backtest. They
// use the language and the engine as the gateway does, and nothing of the gateway uses them but to refuse rules whose
// tests fail.
package workbench
