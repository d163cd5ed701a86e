// Package cells runs broker/cell against real Redis servers: alone, with a replica, in a cluster.
package cells
