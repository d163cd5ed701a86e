//go:build race

package model

// spared is by how many steps the quick searches are shorter: the race detector makes them slow, and they have no goroutines.
const spared = 3
