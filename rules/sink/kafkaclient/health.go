package kafkaclient

import "cellgate/rules/sink/remote"

// Health is the state of a cluster as its user sees it: it is well when the last ping was answered and no
// partition is failing.
type Health = remote.Health
