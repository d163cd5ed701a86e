package frame

import "encoding/binary"

// cursor reads the body of a frame from the front. The first read past the end sets short; every later read then
// returns zero.
type cursor struct {
	b     []byte
	off   int
	short bool
}

func (c *cursor) left() int { return len(c.b) - c.off }

func (c *cursor) take(n int) []byte {
	if c.short || n > c.left() {
		c.short = true
		return nil
	}
	v := c.b[c.off : c.off+n : c.off+n]
	c.off += n
	return v
}

func (c *cursor) byte() byte {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if v := c.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if v := c.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// data reads a two-byte length and that many bytes.
func (c *cursor) data() []byte { return c.take(int(c.uint16())) }

// varint reads a variable byte integer of the properties. MQTT 5 alone has properties, so its rules apply.
func (c *cursor) varint() (uint32, error) {
	if c.short {
		return 0, nil
	}
	v, n, err := varint(c.b[c.off:], Version5)
	if n == 0 {
		c.short = true
	}
	c.off += n
	return v, err
}
