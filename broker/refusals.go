package broker

import (
	"cmp"
	"errors"
	"fmt"

	"cellgate/auth"
	"cellgate/broker/frame"
)

// why names what the gateway refuses, and why it ends a connection; 0 is neither.
type why uint8

const (
	_ why = iota

	// Answered with CONNACK.
	whyVersion
	whyNoClientID
	whyAuthMethod
	whyToken
	whyUserName
	whyClientID
	whyWill
	whyWillLevels
	whyConnectSize
	whyConnect
	whyStopping
	whyTakeover
	whySession
	whyFull
	whySessions
	whyNotAdmitted
	whyConnackUseAnother
	whyConnackMoved
	whyDiskFull

	// Answered with PUBACK, PUBREC or PUBCOMP.
	whyTopic
	whyNewToken
	whyTopicLevels
	whyRetained
	whyPacketID

	// Answered with SUBACK.
	whyFilter
	whyWithheld
	whyFilterLevels
	whySubscriptions

	// Sent with DISCONNECT.
	whyNotAuthorized
	whyTokenEnded
	whyTokenRefused
	whyTokenSubject
	whyRevoked
	whyKeyRetired
	whyTakenOver
	whyShutdown
	whyUseAnother
	whyServerMoved
	whyKeepalive
	whyOperator
	whyReceiveMaximum
	whyPacketSize
	whyAliases
	whyJournal
	whyCommands
	whyUndecided
	whyPanic
	whyAnswerSize
	whyMalformed
	whyProtocol
	whyTopicName
	whyFilterName
	whyAlias

	lastWhy
)

// refusal is the answer to what the gateway does not accept.
type refusal struct {
	packet byte   // type that carries the answer; PUBACK includes PUBREC and PUBCOMP
	reason byte   // MQTT 5 code; frame converts it for 3.1.1
	label  string // of connects_total, rejected_total or disconnects_total
	// text is the reason string: what is refused, and what to do. It may name one limit.
	text      string
	limit     func(*Limits) int
	serverRef string
}

// audited returns the reason in the audit log for a client whose names do not fit its token.
func (r *refusal) audited() string {
	if r.label == "user_name" {
		return "user-name"
	}
	return "client-id"
}

// refusals is the only place that maps what is refused to a reason code and a reason string.
type refusals [lastWhy]refusal

func newRefusals() *refusals {
	t := &refusals{}
	for packet, list := range map[byte]map[why]refusal{
		frame.TypeConnack: connectRefusals(), frame.TypePuback: publishRefusals(), frame.TypeSuback: subscribeRefusals(),
		frame.TypeDisconnect: disconnectRefusals(),
	} {
		for w, r := range list {
			r.packet = packet
			t[w] = r
		}
	}
	return t
}

const useAnotherText = "the client must use another gateway: connect to the server reference, or without one to the same address"

func connectRefusals() map[why]refusal {
	return map[why]refusal{
		whyVersion:           {reason: frame.ReasonUnsupportedVersion, label: "version", text: "not a protocol version of this gateway: use MQTT 3.1.1 or 5"},
		whyNoClientID:        {reason: frame.ReasonClientIDInvalid, label: "client_id", text: "no client identifier: send one, a vehicle its VIN"},
		whyAuthMethod:        {reason: frame.ReasonBadAuthMethod, label: "auth_method", text: "authentication method not known: use " + authMethod + ", or send the token as the password"},
		whyToken:             {reason: frame.ReasonBadCredentials, text: "token refused: "},
		whyUserName:          {reason: frame.ReasonBadCredentials, label: "user_name", text: "the user name is not the VIN that the token is for: send that VIN, or no user name"},
		whyClientID:          {reason: frame.ReasonNotAuthorized, label: "not_authorized", text: "the client identifier is not the token's: a vehicle sends its VIN, a service its name or name/…"},
		whyWill:              {reason: frame.ReasonNotAuthorized, label: "will_not_permitted", text: "the will's topic is not permitted: a vehicle's is below v1/{vin}/up/ of its own VIN"},
		whyWillLevels:        {reason: frame.ReasonTopicInvalid, label: "topic_levels", text: "the will's topic has more than %d levels: use fewer", limit: topicLevels},
		whyConnectSize:       {reason: frame.ReasonPacketTooLarge, label: "too_large", text: "the CONNECT is larger than %d bytes: send a shorter will, token or user properties", limit: connectSize},
		whyConnect:           {reason: frame.ReasonMalformed, label: "violation", text: "the CONNECT is not what MQTT allows"},
		whyStopping:          {reason: frame.ReasonServerUnavailable, label: "stopping", text: "the gateway is stopping: connect again"},
		whyTakeover:          {reason: frame.ReasonServerBusy, label: "takeover_timeout", text: "the older connection has not ended yet: connect again later"},
		whySession:           {reason: frame.ReasonServerUnavailable, label: "session", text: "the session cannot be opened now: connect again later"},
		whyFull:              {reason: frame.ReasonQuotaExceeded, label: "full", text: "the gateway has reached its number of connections: connect again later"},
		whySessions:          {reason: frame.ReasonQuotaExceeded, label: "subject_sessions", text: "the token's subject has reached its number of sessions: end others, or use their client identifiers"},
		whyNotAdmitted:       {reason: frame.ReasonServerUnavailable, label: "not_admitted", text: "the gateway accepts no connections now: connect again later"},
		whyConnackUseAnother: {reason: frame.ReasonUseAnotherServer, label: "not_admitted", text: useAnotherText},
		whyConnackMoved:      {reason: frame.ReasonServerMoved, label: "not_admitted", text: useAnotherText},
		whyDiskFull:          {reason: frame.ReasonQuotaExceeded, label: "not_admitted", text: "the gateway's disk is nearly full: connect again later"},
	}
}

func publishRefusals() map[why]refusal {
	return map[why]refusal{
		whyTopic:       {reason: frame.ReasonNotAuthorized, label: "publish_not_authorized", text: "the token does not permit publishing on this topic: do not send it again"},
		whyNewToken:    {reason: frame.ReasonNotAuthorized, label: "publish_not_authorized", text: "the new token is not accepted, the old one still counts: get another one"},
		whyTopicLevels: {reason: frame.ReasonTopicInvalid, label: "topic_levels", text: "the topic has more than %d levels: use fewer", limit: topicLevels},
		whyRetained:    {reason: frame.ReasonQuotaExceeded, text: "no room for another retained message: remove some, each with an empty one"},
		whyPacketID:    {reason: frame.ReasonPacketIDNotFound, text: "no exchange with this packet identifier: treat it as ended"},
	}
}

func subscribeRefusals() map[why]refusal {
	return map[why]refusal{
		whyFilter:        {reason: frame.ReasonNotAuthorized, text: "the token does not permit this filter: a vehicle subscribes below v1/{vin}/cmd/ and v1/{vin}/sys/"},
		whyWithheld:      {reason: frame.ReasonUnspecified, text: "the subscription is not made: connect again and subscribe"},
		whyFilterLevels:  {reason: frame.ReasonFilterInvalid, text: "the filter has more than %d levels: use fewer", limit: topicLevels},
		whySubscriptions: {reason: frame.ReasonQuotaExceeded, text: "too many subscriptions of the session or of the token's subject: unsubscribe from others"},
	}
}

func disconnectRefusals() map[why]refusal {
	return map[why]refusal{
		whyTokenEnded:     {reason: frame.ReasonNotAuthorized, label: "token_expired", text: "the token has expired: connect with a new one"},
		whyTokenRefused:   {reason: frame.ReasonNotAuthorized, label: "token_refused", text: "the new token is not accepted: connect with another one"},
		whyTokenSubject:   {reason: frame.ReasonNotAuthorized, label: "token_subject", text: "the new token is for another subject: connect with your own"},
		whyRevoked:        {reason: frame.ReasonNotAuthorized, label: "revoked", text: "the token has been revoked: connect with a new one"},
		whyKeyRetired:     {reason: frame.ReasonNotAuthorized, label: "key-retired", text: "the key that signed the token has been retired: connect with a new token"},
		whyNotAuthorized:  {reason: frame.ReasonNotAuthorized, label: "not_authorized", text: "the token is no longer accepted: connect with a new one"},
		whyTakenOver:      {reason: frame.ReasonTakenOver, label: "taken_over", text: "another connection uses this client identifier: if it is not yours, others know the token"},
		whyShutdown:       {reason: frame.ReasonShuttingDown, label: "shutdown", text: "the gateway is stopping: connect again"},
		whyUseAnother:     {reason: frame.ReasonUseAnotherServer, label: "shutdown", text: useAnotherText},
		whyServerMoved:    {reason: frame.ReasonServerMoved, label: "shutdown", text: useAnotherText},
		whyKeepalive:      {reason: frame.ReasonKeepaliveTimeout, label: "keepalive", text: "nothing received within 1.5 times the keep alive: ping in time"},
		whyOperator:       {reason: frame.ReasonAdministrative, label: "admin", text: "an operator has ended the connection: connect again"},
		whyReceiveMaximum: {reason: frame.ReasonReceiveMaximum, label: "receive_maximum", text: "more unacknowledged messages than the Receive Maximum of CONNACK: wait for acknowledgements"},
		whyPacketSize:     {reason: frame.ReasonPacketTooLarge, label: "packet_too_large", text: "a packet larger than the Maximum Packet Size of CONNACK: split it"},
		whyAliases:        {reason: frame.ReasonQuotaExceeded, label: "quota", text: "the topics of the topic aliases take too many bytes: use fewer aliases"},
		whyJournal:        {reason: frame.ReasonServerUnavailable, label: "journal_failed", text: "the gateway cannot write: connect again, resend what is not acknowledged"},
		whyCommands:       {reason: frame.ReasonServerUnavailable, label: "commands_unavailable", text: "the gateway accepts no commands now: connect again, resend what is not acknowledged"},
		whyUndecided:      {reason: frame.ReasonUnspecified, label: "other", text: "whether it was accepted is unknown: connect again and send it again"},
		whyPanic:          {reason: frame.ReasonUnspecified, label: "panic", text: "internal error: connect again, resend what is not acknowledged"},
		whyAnswerSize:     {reason: frame.ReasonPacketTooLarge, label: "answer_too_large", text: "the answer is larger than your Maximum Packet Size: ask for less at once, or raise it"},
		// Violations of the protocol; frame.Violation says which.
		whyMalformed:  {reason: frame.ReasonMalformed, label: "protocol"},
		whyProtocol:   {reason: frame.ReasonProtocolError, label: "protocol"},
		whyTopicName:  {reason: frame.ReasonTopicInvalid, label: "protocol"},
		whyFilterName: {reason: frame.ReasonFilterInvalid, label: "protocol"},
		whyAlias:      {reason: frame.ReasonTopicAliasInvalid, label: "protocol"},
	}
}

func topicLevels(l *Limits) int { return l.MaxTopicLevels }
func connectSize(l *Limits) int { return l.MaxConnectPacket }

// explain returns the answer to what w names, with the limit in its text.
func (b *Broker) explain(w why) refusal {
	r := b.refusals[w]
	if r.limit != nil {
		r.text = fmt.Sprintf(r.text, r.limit(b.limits.Load()))
	}
	return r
}

// suback returns the reason string of a SUBACK, about the first filter that is refused; empty if none is.
func (b *Broker) suback(codes []byte) string {
	for i, code := range codes {
		for w := range b.refusals {
			r := b.explain(why(w))
			switch {
			case r.packet != frame.TypeSuback || r.reason != code:
			case len(codes) == 1:
				return r.text
			default:
				return fmt.Sprintf("filter %d: %s", i+1, r.text)
			}
		}
	}
	return ""
}

// farewell returns what a DISCONNECT with the reason code says: the first entry of the table with it.
func (b *Broker) farewell(reason byte) refusal {
	for _, r := range b.refusals {
		if r.packet == frame.TypeDisconnect && r.reason == reason {
			return r
		}
	}
	return refusal{reason: reason, label: "other"}
}

// notAdmitted returns the refusal of a CONNECT that Options.Admit does not admit.
func (b *Broker) notAdmitted(reason byte, serverRef string) *refusal {
	found := b.refusals[whyNotAdmitted]
	for _, r := range b.refusals {
		if r.label == found.label && r.reason == reason {
			found = r
		}
	}
	found.reason, found.serverRef = reason, serverRef
	return &found
}

// ended returns the farewell for a token that is no longer accepted.
func (b *Broker) ended(err error) refusal {
	label := auth.Reason(err)
	for _, r := range b.refusals {
		if r.packet == frame.TypeDisconnect && r.label == label {
			return r
		}
	}
	r := b.refusals[whyNotAuthorized]
	r.label = label
	return r
}

// violated returns the farewell after a violation of the protocol.
func (b *Broker) violated(err error) refusal {
	var v *frame.Violation
	if !errors.As(err, &v) {
		return b.refusals[whyMalformed]
	}
	r := b.farewell(v.Reason)
	r.text = cmp.Or(r.text, v.Why)
	return r
}
