package model

// Rules are the rules of broker/cell. Each is needed: a test removes one and finds what breaks.
type Rules struct {
	// WaitBeforeAnswer and WaitBeforeWire: a change is reported, or sent, only after the replicas have it. WaitForAll:
	// after every replica that may be promoted has it.
	WaitBeforeAnswer, WaitBeforeWire, WaitForAll bool
	// SameServerAfterWait: the server still has the history that it had when the script ran. A server that was demoted
	// and promoted counts bytes of another one, so its WAIT confirms what is lost. A flush in between does not matter.
	SameServerAfterWait bool
	// ReadsWrite: scripts that change nothing write too, so that WAIT covers what they read.
	ReadsWrite bool
	// Store: a confirmed change is on the gateway's disk before it is reported or sent.
	Store bool
	// Closed: commands are decided only at a server that is open. AcceptOpen: they are accepted only there, too.
	Closed, AcceptOpen bool
	// ReservedHere: a command is accepted only at the server that has reserved its id. What the replicas confirm of the one then
	// covers the other.
	ReservedHere bool
	// Offers: members offer what they remember. AllOffer: a server opens when all have offered. OffersLanded: at that
	// server. MergeLater: merging keeps the later state.
	Offers, AllOffer, OffersLanded, MergeLater bool
	// OfferAnswers: a member also offers the answers that are not on its disk yet. DropAnswers: an answer to a request from before
	// the offer is dropped, because the offer does not have it.
	OfferAnswers, DropAnswers bool
	// OfferEnds: an end by cancellation or expiry that no member says to be published is due again.
	OfferEnds bool
	// Doubt: if a member's memory is lost, a command not known to be sent may have been. FreshWaits: a member without
	// memory does not open an empty Redis.
	Doubt, FreshWaits bool
	// YoungerConnection: the claim of an older connection is refused. Clock: an epoch is at least a time. Beginning:
	// that in which the connection began, not that of the claim, so that an older connection that claims again is not ahead of
	// records of a younger one that waits for its claim. Reclaim: a gateway that does not find its claim claims again. ConfirmEpoch:
	// nothing is reported with an unconfirmed epoch. EpochKnown: a claim that is repeated gets a new epoch if its gateway knows a
	// later one than Redis.
	YoungerConnection, Clock, Beginning, Reclaim, ConfirmEpoch, EpochKnown bool
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
		WaitBeforeAnswer: true, WaitBeforeWire: true, WaitForAll: true, SameServerAfterWait: true, ReadsWrite: true, Store: true,
		Closed: true, AcceptOpen: true, ReservedHere: true, Offers: true, AllOffer: true, OffersLanded: true, MergeLater: true, Doubt: true,
		OfferAnswers: true, DropAnswers: true, OfferEnds: true,
		FreshWaits: true, Clock: true, Beginning: true, Salt: true, YoungerConnection: true, ConfirmEpoch: true, EpochKnown: true, Reclaim: true, OwnerSends: true, CancelUnsent: true,
		ExpiredNotSent: true, ExpiredNotAccepted: true,
	}
}

// Case bounds the histories of a search.
type Case struct {
	Gateways, Commands, Servers int
	// Connects, and how often a server is promoted, Redis loses its data (flushed, or restored from a backup), a
	// gateway is killed, and a gateway loses its disk. Forgets: how often an operator forgets a stopped gateway.
	Connects, Promotions, Losses, Kills, Disks, Forgets int
	// Expiry: commands may expire. Late: requests may arrive after their caller has stopped waiting.
	Expiry, Late bool
	// Looks: states are read. Contents: an id may be used for two different commands.
	Looks, Contents bool
	// SameID: the two commands are of two vehicles and have one id, which has to be reserved first.
	SameID bool
	// Beside: offers and joins do not wait for a request under way, and its answer is on the disk only in a later step.
	Beside bool
	// Removal: commands are removed after keep_for.
	Removal bool
	// Notices: the previous owner may be notified of a claim, at any time or never.
	Notices bool
	// InDoubt: the history starts with a command that a gateway without memory may have sent.
	InDoubt bool
	// Depth is the longest history in steps, 0 for all. States ends the search as too large.
	Depth, States int
}
