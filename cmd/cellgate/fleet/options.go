package fleet

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// Options describe a fleet. Zero values take the defaults named with each field.
type Options struct {
	// Broker is host:port of the gateway's MQTT listener. Required.
	Broker string
	// TLS is the client's configuration; nil connects in the clear. ServerName is taken from Broker
	// when empty.
	TLS *tls.Config
	// Resume lets each vehicle resume its TLS session when it reconnects.
	Resume bool
	// Version is MQTT5 (default) or MQTT311.
	Version byte
	// Clean asks for a new session with each connection. By default sessions are kept for an hour.
	Clean bool

	// VINs are the vehicles; none means Vehicles VINs from VIN(First).
	VINs     []string
	Vehicles int
	First    int
	// Token returns a valid token for a vehicle; "" connects without user name and password, and so does nil. It is called
	// for each connection attempt, from many goroutines.
	Token func(vin string) (string, error)

	// Rate is telemetry messages per second and vehicle; 0 connects and stays idle. Saturate publishes
	// as fast as the window admits instead.
	Rate     float64
	Saturate bool
	// QoS is 0 or 1.
	QoS byte
	// PayloadBytes pads telemetry to this size; below the natural size (about 300 bytes) it has no effect.
	PayloadBytes int
	// Window is how many unacknowledged messages a vehicle may have; the gateway's Receive Maximum
	// lowers it. Default 16, at most 4,096.
	Window int
	// AlarmEvery is the mean time between a vehicle's alarms; 0 sends none.
	AlarmEvery time.Duration

	// Duration ends the run; 0 runs until the context ends.
	Duration time.Duration
	// WaitConnected publishes nothing, and does not start the clock, before every vehicle is connected.
	WaitConnected bool
	// Drain is how long the end waits for open acknowledgements. Default 5 s.
	Drain time.Duration
	// ConnectRate bounds new connections per second. Default 500.
	ConnectRate float64
	// Keepalive is announced in CONNECT. Default 60 s.
	Keepalive time.Duration
	// ReconnectMax bounds the back-off, which starts at 250 ms, doubles, and is fully jittered.
	// Default 10 s.
	ReconnectMax time.Duration

	// Ledger gets every acknowledged telemetry and alarm message; nil keeps none. The caller closes it.
	Ledger *Ledger
	// Progress gets a summary line each second, rewritten in place when Rewrite is set. nil shows none.
	Progress io.Writer
	Rewrite  bool
	// Every is the time between summary lines. Default 1 s.
	Every time.Duration
	Log   *slog.Logger
	// Seed makes the vehicles' places, charge and alarms repeatable.
	Seed uint64
}

const maxWindow = 4096

func (o *Options) defaults() error {
	if o.Broker == "" {
		return errors.New("no broker address")
	}
	if len(o.VINs) == 0 {
		if o.Vehicles < 1 || o.First < 0 || o.First+o.Vehicles > MaxVehicles {
			return fmt.Errorf("%d vehicles: want 1 to %d", o.Vehicles, MaxVehicles-o.First)
		}
		o.VINs = VINs(o.First, o.Vehicles)
	}
	if o.Vehicles > 0 && o.Vehicles < len(o.VINs) {
		o.VINs = o.VINs[:o.Vehicles]
	}
	if o.QoS > 1 {
		return fmt.Errorf("qos %d: vehicles of the simulator publish at 0 or 1", o.QoS)
	}
	if o.Rate < 0 {
		return fmt.Errorf("rate %g: want 0 or more messages per second and vehicle", o.Rate)
	}
	if o.Window > maxWindow || o.Window < 0 {
		return fmt.Errorf("window %d: want 1 to %d", o.Window, maxWindow)
	}
	o.Window = orDefault(o.Window, 16)
	o.Version = orDefault(o.Version, MQTT5)
	o.Drain = orDefault(o.Drain, 5*time.Second)
	o.ConnectRate = orDefault(o.ConnectRate, 500)
	o.Keepalive = orDefault(o.Keepalive, time.Minute)
	o.ReconnectMax = orDefault(o.ReconnectMax, 10*time.Second)
	o.Every = orDefault(o.Every, time.Second)
	if o.TLS != nil && o.TLS.ServerName == "" {
		o.TLS = o.TLS.Clone()
		o.TLS.ServerName, _, _ = net.SplitHostPort(o.Broker)
	}
	if o.Token == nil {
		o.Token = func(string) (string, error) { return "", nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
