// Package sinktest runs sinks the way the gateway does, for tests: a real journal, a real rule set and a
// real dispatcher around them, which can be stopped, killed and opened again; and a sink in memory to
// compare with.
package sinktest
