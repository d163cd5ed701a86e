package configs

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"cellgate/broker/shared/message/duration"
)

// Duration is a time.Duration written like 90s, 1h30m or 7d. A day is 24 hours.
type Duration time.Duration

// Std returns the duration as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns the duration without zero parts: 1h, not 1h0m0s.
func (d Duration) String() string { return duration.Text(time.Duration(d)) }

func (d *Duration) setText(text string) error {
	v, err := duration.Parse(text)
	if err != nil {
		return errDuration
	}
	*d = Duration(v)
	return nil
}

var errDuration = errors.New("is not a duration")

func (*Duration) hint() string { return "write a number with its unit, such as 500ms, 30s, 5m or 12h" }

// Bytes is a size in bytes, written like 512B, 64KiB, 20GiB or as a bare number.
type Bytes int64

type byteUnit struct {
	name string
	size int64
}

// byteUnits returns the units from largest to smallest, so that String finds the shortest exact form. Decimal units are
// only parsed.
func byteUnits() []byteUnit {
	return []byteUnit{
		{"TiB", 1 << 40},
		{"GiB", 1 << 30},
		{"MiB", 1 << 20},
		{"KiB", 1 << 10},
		{"TB", 1e12},
		{"GB", 1e9},
		{"MB", 1e6},
		{"kB", 1e3},
		{"KB", 1e3},
		{"B", 1},
	}
}

// String returns the size in the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range byteUnits() {
		if strings.HasSuffix(u.name, "iB") && b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

var errBytes = errors.New("is not a size")

func (b *Bytes) setText(text string) error {
	number, size := text, int64(1)
	for _, u := range byteUnits() {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			number, size = strings.TrimSpace(n), u.size
			break
		}
	}
	if whole, err := strconv.ParseUint(number, 10, 63); err == nil {
		if whole > uint64(math.MaxInt64/size) {
			return errBytes
		}
		*b = Bytes(int64(whole) * size)
		return nil
	}
	if strings.Trim(number, "0123456789.") != "" {
		return errBytes
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || f*float64(size) > 1<<62 {
		return errBytes
	}
	*b = Bytes(f * float64(size))
	return nil
}

func (*Bytes) hint() string { return "write a number with its unit, such as 256KiB, 64MiB or 20GiB" }

// ByteRate is a rate in bytes per second, written like 20MiB/s.
type ByteRate int64

// String returns the rate like 20MiB/s.
func (r ByteRate) String() string { return Bytes(r).String() + "/s" }

var errByteRate = errors.New("is not a rate")

func (r *ByteRate) setText(text string) error {
	size, ok := strings.CutSuffix(text, "/s")
	var b Bytes
	if !ok || b.setText(strings.TrimSpace(size)) != nil {
		return errByteRate
	}
	*r = ByteRate(b)
	return nil
}

func (*ByteRate) hint() string { return "write a size per second, such as 20MiB/s" }

// TimeOfDay is a time of day in minutes from midnight.
type TimeOfDay int

// String returns the time like 22:00.
func (t TimeOfDay) String() string { return fmt.Sprintf("%02d:%02d", int(t)/60, int(t)%60) }

var errTimeOfDay = errors.New("is not a time of the day")

func (t *TimeOfDay) setText(text string) error {
	at, err := time.Parse("15:04", text)
	if err != nil {
		return errTimeOfDay
	}
	*t = TimeOfDay(at.Hour()*60 + at.Minute())
	return nil
}

func (*TimeOfDay) hint() string { return "write it like \"22:00\", in quotes" }

// Path is a file or folder. It is empty if not set, and absolute in a loaded configuration unless the configuration was
// parsed without a file.
type Path string

// Secret is a value that is never shown: printing, logging and marshalling give a mask.
type Secret string

const mask = "********"

// Reveal returns the value, for authentication only.
func (s Secret) Reveal() string { return string(s) }

// String returns the mask, or "" if the secret is empty.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString masks the value for %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format masks the value for all other verbs.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText masks the value for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue masks the value for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
