package frame

// The control packet types (MQTT 5, 2.1.2).
const (
	TypeConnect     byte = 1
	TypeConnack     byte = 2
	TypePublish     byte = 3
	TypePuback      byte = 4
	TypePubrec      byte = 5
	TypePubrel      byte = 6
	TypePubcomp     byte = 7
	TypeSubscribe   byte = 8
	TypeSuback      byte = 9
	TypeUnsubscribe byte = 10
	TypeUnsuback    byte = 11
	TypePingreq     byte = 12
	TypePingresp    byte = 13
	TypeDisconnect  byte = 14
	TypeAuth        byte = 15
)

// The protocol levels that the gateway supports.
const (
	Version311 byte = 4
	Version5   byte = 5
)

// Reason codes of MQTT 5 (2.4). MQTT 3.1.1 has codes of its own: see returnCode and AppendSuback.
const (
	ReasonSuccess            byte = 0x00
	ReasonNoSubscribers      byte = 0x10
	ReasonNoSubscription     byte = 0x11
	ReasonContinueAuth       byte = 0x18
	ReasonReauthenticate     byte = 0x19
	ReasonUnspecified        byte = 0x80
	ReasonMalformed          byte = 0x81
	ReasonProtocolError      byte = 0x82
	ReasonImplementation     byte = 0x83
	ReasonUnsupportedVersion byte = 0x84
	ReasonClientIDInvalid    byte = 0x85
	ReasonBadCredentials     byte = 0x86
	ReasonNotAuthorized      byte = 0x87
	ReasonServerUnavailable  byte = 0x88
	ReasonServerBusy         byte = 0x89
	ReasonBanned             byte = 0x8A
	ReasonShuttingDown       byte = 0x8B
	ReasonBadAuthMethod      byte = 0x8C
	ReasonKeepaliveTimeout   byte = 0x8D
	ReasonTakenOver          byte = 0x8E
	ReasonFilterInvalid      byte = 0x8F
	ReasonTopicInvalid       byte = 0x90
	ReasonPacketIDInUse      byte = 0x91
	ReasonPacketIDNotFound   byte = 0x92
	ReasonReceiveMaximum     byte = 0x93
	ReasonTopicAliasInvalid  byte = 0x94
	ReasonPacketTooLarge     byte = 0x95
	ReasonMessageRate        byte = 0x96
	ReasonQuotaExceeded      byte = 0x97
	ReasonAdministrative     byte = 0x98
	ReasonPayloadFormat      byte = 0x99
	ReasonUseAnotherServer   byte = 0x9C
	ReasonServerMoved        byte = 0x9D
)

// returnCode returns the CONNACK return code of MQTT 3.1.1 (3.2.2.3) for an MQTT 5 reason code.
func returnCode(reason byte) byte {
	switch reason {
	case ReasonSuccess:
		return 0x00
	case ReasonUnsupportedVersion:
		return 0x01
	case ReasonClientIDInvalid:
		return 0x02
	case ReasonBadCredentials, ReasonBadAuthMethod:
		return 0x04
	case ReasonNotAuthorized, ReasonBanned, ReasonTopicInvalid:
		return 0x05
	default:
		return 0x03
	}
}

// Violation is the error for a frame that the specification does not allow.
type Violation struct {
	// Reason is the MQTT 5 reason code to answer with.
	Reason byte
	// Why is for logs and for the reason string: a constant, never data from the client.
	Why string
}

// Error implements error.
func (v *Violation) Error() string { return v.Why }

func malformed(why string) error     { return &Violation{Reason: ReasonMalformed, Why: why} }
func protocolError(why string) error { return &Violation{Reason: ReasonProtocolError, Why: why} }
