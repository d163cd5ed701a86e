//go:build race

package model

// spared is the number of steps by which the quick searches are shorter: the race detector is slow, and they have no
// goroutines.
const spared = 3
