package message

import "time"

// AppendTime appends a time, in ms since the Unix epoch, as RFC 3339 in UTC with milliseconds, which sorts like the
// times. It is faster than time.Time.AppendFormat: every message for Kafka, and for a hash with newer_than, has one.
func AppendTime(dst []byte, ms int64) []byte {
	t := time.UnixMilli(ms).UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, TimeLayout)
	}
	hour, minute, second := t.Clock()
	text := [len("2006-01-02T15:04:05.000Z")]byte{
		4: '-', 7: '-', 10: 'T', 13: ':', 16: ':', 19: '.', 23: 'Z',
	}
	two := func(at, n int) { text[at], text[at+1] = byte('0'+n/10), byte('0'+n%10) } //nolint:gosec // two digits
	two(0, year/100)
	two(2, year%100)
	two(5, int(month))
	two(8, day)
	two(11, hour)
	two(14, minute)
	two(17, second)
	milli := t.Nanosecond() / 1e6
	text[20] = byte('0' + milli/100) //nolint:gosec // one digit
	two(21, milli%100)
	return append(dst, text[:]...)
}

// TimeLayout is the layout of all times in the gateway's output.
const TimeLayout = "2006-01-02T15:04:05.000Z07:00"
