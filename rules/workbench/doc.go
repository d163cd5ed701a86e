// Package workbench has the tools for authors of rules: Check, Test, Explain, Diff, Format, JSONSchema, Backtest. They
// use the same language and engine as the gateway. The gateway uses this package only to refuse rules whose tests fail.
package workbench
