// Package sinktest runs sinks as the gateway does, for tests: with a real journal, rule set and dispatcher, which can
// be stopped, killed and reopened; and has a sink in memory to compare with.
package sinktest
