package frame

// ConnectVersion reads the protocol name and level at the front of a CONNECT's body. ok is false when the body is not a
// CONNECT of any MQTT version: such a client gets no answer (MQTT 5, 3.1.2.1). The level may be one that the gateway
// does not support.
func ConnectVersion(body []byte) (version byte, ok bool) {
	c := cursor{b: body}
	name := c.data()
	version = c.byte()
	switch {
	case c.short:
		return 0, false
	case string(name) == "MQTT":
		return version, true
	case string(name) == "MQIsdp" && version == 3:
		return version, true
	}
	return 0, false
}

// ConnectFront reads the front of a CONNECT's body, of which bytes may be missing: the version, which it does not return,
// and the properties of MQTT 5. known is false while they are not there as a whole. Of a malformed body the properties
// are empty.
func ConnectFront(body []byte) (p Properties, known bool) {
	c := cursor{b: body}
	_ = c.data()
	version := c.byte()
	if c.take(3); c.short { // flags, keep alive
		return p, false
	}
	if version != Version5 {
		return p, true
	}
	at := c.off
	length, err := c.varint()
	switch {
	case err != nil:
		return p, true
	case c.short || c.left() < int(length):
		return p, false
	}
	if c.off = at; p.scan(&c, TypeConnect) != nil {
		p = Properties{}
	}
	return p, true
}

// Connect flags (MQTT 5, 3.1.2.3).
const (
	connectReserved = 0x01
	connectClean    = 0x02
	connectWill     = 0x04
	connectWillQoS  = 0x18
	connectRetain   = 0x20
	connectPassword = 0x40
	connectUsername = 0x80
)

// CheckConnect checks a whole CONNECT frame (MQTT 5 and 3.1.1, 3.1). Its ConnectVersion must be a supported one. An
// accepted frame is safe to pass to a decoder that trusts its input.
func CheckConnect(f []byte, h Header) error {
	c := cursor{b: f[h.Head:h.Size]}
	_ = c.data()
	version, flags := c.byte(), c.byte()
	_ = c.uint16() // keep alive
	switch {
	case c.short:
		return malformed("CONNECT ends within its header")
	case version == Version5 && h.Head != 1+varintSize(h.Size-h.Head): // the fixed header was scanned before the version was known
		return malformed("variable byte integer not in its shortest form")
	}
	if err := checkConnectFlags(flags, version); err != nil {
		return err
	}
	if version == Version5 {
		var p Properties
		if err := p.scan(&c, TypeConnect); err != nil {
			return err
		}
	}
	return checkConnectPayload(&c, flags, version)
}

func checkConnectFlags(flags, version byte) error {
	switch {
	case flags&connectReserved != 0:
		return malformed("reserved connect flag is set")
	case flags&connectWillQoS == connectWillQoS:
		return malformed("will with QoS 3")
	case flags&connectWill == 0 && flags&(connectWillQoS|connectRetain) != 0:
		return malformed("will QoS or will retain without a will")
	case version != Version5 && flags&connectUsername == 0 && flags&connectPassword != 0:
		return malformed("password without user name")
	}
	return nil
}

func checkConnectPayload(c *cursor, flags, version byte) error {
	clientID := c.data()
	if c.short {
		return malformed("CONNECT without a client identifier")
	}
	if !validText(clientID) {
		return malformed("client identifier is not valid UTF-8")
	}
	if version != Version5 && len(clientID) == 0 && flags&connectClean == 0 {
		return &Violation{Reason: ReasonClientIDInvalid, Why: "empty client identifier without clean session"}
	}
	if flags&connectWill != 0 {
		if err := checkWill(c, version); err != nil {
			return err
		}
	}
	if flags&connectUsername != 0 && !validText(c.data()) {
		return malformed("user name is not valid UTF-8")
	}
	if flags&connectPassword != 0 {
		_ = c.data()
	}
	switch {
	case c.short:
		return malformed("CONNECT ends within its payload")
	case c.left() > 0:
		return malformed("bytes after the CONNECT payload")
	}
	return nil
}

func checkWill(c *cursor, version byte) error {
	if version == Version5 {
		var p Properties
		if err := p.scan(c, typeWill); err != nil {
			return err
		}
	}
	topic := c.data()
	_ = c.data() // payload
	switch {
	case c.short:
		return malformed("CONNECT ends within its will")
	case len(topic) == 0:
		return malformed("will topic is empty")
	}
	return checkTopic(topic)
}

// WillProperties returns the will properties of an MQTT 5 CONNECT that CheckConnect has accepted, empty without a will.
func WillProperties(f []byte, h Header) Properties {
	c := cursor{b: f[h.Head:h.Size]}
	_ = c.data()
	version, flags := c.byte(), c.byte()
	_ = c.uint16()
	var p Properties
	if version != Version5 || flags&connectWill == 0 || p.scan(&c, TypeConnect) != nil {
		return Properties{}
	}
	_ = c.data() // client identifier
	if p.scan(&c, typeWill) != nil {
		return Properties{}
	}
	return p
}
