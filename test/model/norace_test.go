//go:build !race

package model

const spared = 0
