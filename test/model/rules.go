package model

// Rules are what broker/cell holds to. Each is needed: a test takes one out and finds what breaks.
type Rules struct {
	// WaitBeforeTelling and WaitBeforeWire: nothing is told, or put on the wire, before the replicas have it. WaitForAll:
	// before every replica that may be promoted has it.
	WaitBeforeTelling, WaitBeforeWire, WaitForAll bool
	// SameServerBehindWait: the server is still called what it was called when the script ran. A server that was demoted and
	// promoted counts bytes of another history, and its WAIT says yes to what is gone.
	SameServerBehindWait bool
	// ReadsWrite: scripts that change nothing write too, so that WAIT covers what they have read.
	ReadsWrite bool
	// Store: what was confirmed is on the gateway's disk before it is told or on the wire.
	Store bool
	// Closed: commands are decided at a server only when it is open; AcceptOpen: they are accepted only there too.
	Closed, AcceptOpen bool
	// Offers: members offer what they remember. AllOffer: a server opens when all have. OffersLanded: at that server.
	// MergeLater: merging keeps the later state.
	Offers, AllOffer, OffersLanded, MergeLater bool
	// Doubt: when a member's memory is gone, what is not known to be sent may have been. FreshWaits: who remembers nothing
	// does not open a Redis that is empty.
	Doubt, FreshWaits bool
	// YoungerConnection: the claim of an older connection is refused. Clock: an epoch is at least the time. Reclaim: whoever
	// does not find its claim claims again. ConfirmEpoch: nothing is told in an epoch that is not confirmed.
	YoungerConnection, Clock, Reclaim, ConfirmEpoch bool
	// NoticeYounger: a notice ends a connection only for one that is not older.
	NoticeYounger bool
	// Salt: a Redis that was flushed is another server.
	Salt bool
	// OwnerSends: only the owner sends, in its epoch. CancelUnsent: only what was never sent is cancelled.
	OwnerSends, CancelUnsent bool
	// ExpiredNotSent and ExpiredNotAccepted: what has expired is neither sent nor accepted.
	ExpiredNotSent, ExpiredNotAccepted bool
}

// All is every rule.
func All() Rules {
	return Rules{
		WaitBeforeTelling: true, WaitBeforeWire: true, WaitForAll: true, SameServerBehindWait: true, ReadsWrite: true, Store: true,
		Closed: true, AcceptOpen: true, Offers: true, AllOffer: true, OffersLanded: true, MergeLater: true, Doubt: true,
		FreshWaits: true, Clock: true, NoticeYounger: true, Salt: true, YoungerConnection: true, ConfirmEpoch: true, Reclaim: true, OwnerSends: true, CancelUnsent: true,
		ExpiredNotSent: true, ExpiredNotAccepted: true,
	}
}

// Case is what a search may use up: it bounds the histories.
type Case struct {
	Gateways, Commands, Servers int
	// Connects, and how often a server is promoted, Redis loses its data (flushed, or restored from a backup), a gateway
	// is killed, and loses its disk. Forgets: how often an operator forgets a gateway that is down.
	Connects, Promotions, Losses, Kills, Disks, Forgets int
	// Expiry: time may run out for commands. Late: requests may land after their caller has given up.
	Expiry, Late bool
	// Looks: states are read. Contents: an id may be used for two different commands.
	Looks, Contents bool
	// Removal: commands are removed when keep_for is over.
	Removal bool
	// Notices: who had the vehicle is told of a claim, or not, and hears it at any time.
	Notices bool
	// InDoubt: it begins with a command that somebody whose memory is gone may have sent.
	InDoubt bool
	// Depth is the longest history in steps, 0 for all. States ends the search as too large.
	Depth, States int
}
