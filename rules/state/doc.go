// Package state keeps what operators remember of each VIN, within bounds. It knows nothing of rules: a memory belongs to a
// key, and what it means is the business of the operator that has it.
package state
