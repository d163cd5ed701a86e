// Package remote has what clients of a sink's store share: the health of the store, the pause between tries, and the
// end of the client's goroutines. kafkaclient and the Redis sink use it. It imports nothing of this module.
package remote
