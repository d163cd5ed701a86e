package frame

// The checks of the rare packets. An accepted frame is safe to pass to a decoder that trusts its input.

// CheckSubscribe checks a whole SUBSCRIBE frame (MQTT 5, 3.8).
func CheckSubscribe(f []byte, h Header, version byte) error {
	c := cursor{b: f[h.Head:h.Size]}
	if err := subscriptionHead(&c, TypeSubscribe, version); err != nil {
		return err
	}
	if c.left() == 0 {
		return protocolError("SUBSCRIBE without a topic filter")
	}
	for c.left() > 0 {
		filter, options := c.data(), c.byte()
		if c.short {
			return malformed("SUBSCRIBE ends within a topic filter")
		}
		if err := checkFilter(filter); err != nil {
			return err
		}
		if err := checkOptions(filter, options, version); err != nil {
			return err
		}
	}
	return nil
}

func subscriptionHead(c *cursor, typ, version byte) error {
	id := c.uint16()
	switch {
	case c.short:
		return malformed("packet identifier is missing")
	case id == 0:
		return protocolError("packet identifier 0")
	case version != Version5:
		return nil
	}
	var p Properties
	return p.scan(c, typ)
}

// checkOptions checks the subscription options (MQTT 5, 3.8.3.1; MQTT 3.1.1, 3.8.3).
func checkOptions(filter []byte, options, version byte) error {
	reserved := byte(0xC0)
	if version != Version5 {
		reserved = 0xFC
	}
	const noLocal, shared = 0x04, "$share/"
	switch {
	case options&reserved != 0:
		return malformed("reserved bits of the subscription options are set")
	case options&0x03 == 3:
		return malformed("subscription with QoS 3")
	case options&0x30 == 0x30:
		return protocolError("retain handling of 3")
	case options&noLocal != 0 && len(filter) >= len(shared) && Text(filter[:len(shared)]) == shared:
		return protocolError("no local on a shared subscription")
	}
	return nil
}

// CheckUnsubscribe checks a whole UNSUBSCRIBE frame (MQTT 5, 3.10).
func CheckUnsubscribe(f []byte, h Header, version byte) error {
	c := cursor{b: f[h.Head:h.Size]}
	if err := subscriptionHead(&c, TypeUnsubscribe, version); err != nil {
		return err
	}
	if c.left() == 0 {
		return protocolError("UNSUBSCRIBE without a topic filter")
	}
	for c.left() > 0 {
		filter := c.data()
		if c.short {
			return malformed("UNSUBSCRIBE ends within a topic filter")
		}
		if err := checkFilter(filter); err != nil {
			return err
		}
	}
	return nil
}

// CheckPingreq checks a whole PINGREQ frame (MQTT 5, 3.12).
func CheckPingreq(h Header) error {
	if h.Size != h.Head {
		return malformed("PINGREQ with a body")
	}
	return nil
}

// Disconnect is a DISCONNECT from a client.
type Disconnect struct {
	Reason byte
	// Expiry is the session expiry interval in seconds, valid with HasExpiry.
	Expiry    uint32
	HasExpiry bool
}

// ScanDisconnect checks a whole DISCONNECT frame (MQTT 5 and 3.1.1, 3.14).
func ScanDisconnect(f []byte, h Header, version byte) (Disconnect, error) {
	c := cursor{b: f[h.Head:h.Size]}
	if c.left() == 0 {
		return Disconnect{}, nil
	}
	if version != Version5 {
		return Disconnect{}, malformed("DISCONNECT with a body")
	}
	d := Disconnect{Reason: c.byte()}
	switch d.Reason {
	case ReasonSuccess, 0x04, ReasonUnspecified, ReasonMalformed, ReasonProtocolError, ReasonImplementation,
		ReasonTopicInvalid, ReasonReceiveMaximum, ReasonTopicAliasInvalid, ReasonPacketTooLarge,
		ReasonMessageRate, ReasonQuotaExceeded, ReasonAdministrative, ReasonPayloadFormat:
	default:
		return d, protocolError("reason code not allowed in this packet")
	}
	if c.left() == 0 {
		return d, nil
	}
	var p Properties
	if err := p.scan(&c, TypeDisconnect); err != nil {
		return d, err
	}
	if c.left() > 0 {
		return d, malformed("bytes after the properties")
	}
	d.Expiry, d.HasExpiry = p.SessionExpiry, p.has(propSessionExpiry)
	return d, nil
}

// Auth is an AUTH packet from a client. Method and Data alias the frame.
type Auth struct {
	Reason byte
	Method []byte
	Data   []byte
}

// ScanAuth checks a whole AUTH frame (MQTT 5, 3.15).
func ScanAuth(f []byte, h Header) (Auth, error) {
	c := cursor{b: f[h.Head:h.Size]}
	var a Auth
	var p Properties
	if c.left() > 0 {
		a.Reason = c.byte()
		if err := p.scan(&c, TypeAuth); err != nil {
			return a, err
		}
	}
	switch {
	case c.left() > 0:
		return a, malformed("bytes after the properties")
	case a.Reason != ReasonContinueAuth && a.Reason != ReasonReauthenticate:
		return a, protocolError("reason code not allowed in this packet")
	case !p.has(propAuthMethod):
		return a, protocolError("AUTH without an authentication method")
	}
	a.Method, a.Data = p.AuthMethod, p.AuthData
	return a, nil
}
