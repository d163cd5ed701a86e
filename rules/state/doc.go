// Package state keeps the operators' memory of each VIN within bounds. It does not know rules: a memory belongs to a
// key, and its operator interprets it.
package state
