// Package redis is the sink for the cell's Redis: hashes that never go back in time, strings, streams, sets, positions,
// publications, expiry.
//
// Delivered means that Redis has replied. Order is kept per VIN. Redis may be a single server, a sentinel group or a
// cluster.
package redis
