package fleet

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"cellgate/broker/shared/complete"
)

// Options describe a fleet. Start from Normal and change what differs.
type Options struct {
	// Broker is host:port of the gateway's MQTT listener.
	Broker string
	// Others are the listeners of the cell's other gateways. A vehicle connects to the next one each time, and moves by
	// itself after about Roam.
	Others []string
	Roam   time.Duration `zero:"when it loses its connection"`
	// TLS is the client's configuration; nil connects in the clear. ServerName is taken from Broker
	// when empty.
	TLS *tls.Config `zero:"in the clear"`
	// Resume lets each vehicle resume its TLS session when it reconnects.
	Resume bool
	// Version is MQTT5 or MQTT311.
	Version byte
	// Clean asks for a new session with each connection. By default sessions are kept for an hour.
	Clean bool

	// VINs are the vehicles; if empty, Vehicles VINs from VIN(First).
	VINs     []string
	Vehicles int `zero:"all of VINs"`
	First    int `zero:"from the first on"`
	// Token returns a valid token for a vehicle. If it is nil or returns "", the vehicle connects without user name and
	// password. It is called for each connection attempt, from many goroutines.
	Token func(vin string) (string, error) `zero:"no credentials"`

	// Rate is telemetry messages per second and vehicle; with 0 the vehicles stay idle. With Saturate they publish as
	// fast as the window admits.
	Rate     float64 `zero:"idle"`
	Saturate bool
	// QoS is 0 or 1.
	QoS byte `zero:"0"`
	// PayloadBytes pads telemetry to this size; below the natural size (about 300 bytes) it has no effect.
	PayloadBytes int `zero:"as it is"`
	// Window is how many unacknowledged messages a vehicle may have; the gateway's Receive Maximum
	// lowers it. At most 4,096.
	Window int
	// AlarmEvery is the mean time between a vehicle's alarms; 0 sends none.
	AlarmEvery time.Duration `zero:"none"`

	// Duration ends the run; 0 runs until the context ends.
	Duration time.Duration `zero:"until the context ends"`
	// WaitConnected delays publishing and the start of Duration until every vehicle is connected.
	WaitConnected bool
	// Drain is how long the end waits for open acknowledgements.
	Drain time.Duration
	// ConnectRate bounds new connections per second.
	ConnectRate float64
	// Keepalive is announced in CONNECT.
	Keepalive time.Duration
	// ReconnectMax bounds the back-off, which starts at 250 ms, doubles, and is fully jittered.
	ReconnectMax time.Duration

	// Ledger gets every acknowledged telemetry and alarm message; nil keeps none. The caller closes it.
	Ledger *Ledger `zero:"none"`
	// Progress receives a summary line each second, rewritten in place if Rewrite is set. nil shows none.
	Progress io.Writer `zero:"none"`
	Rewrite  bool
	// Every is the time between summary lines.
	Every time.Duration
	Log   *slog.Logger
	// Seed makes the vehicles' places, charge and alarms repeatable.
	Seed uint64 `zero:"the first"`
}

const maxWindow = 4096

// Normal returns the default options. The caller sets the broker and the vehicles.
func Normal() Options {
	return Options{
		Version: MQTT5, Window: 16, Drain: 5 * time.Second, ConnectRate: 500, Keepalive: time.Minute, ReconnectMax: 10 * time.Second,
		Every: time.Second, Log: slog.New(slog.DiscardHandler),
	}
}

// check returns an error for invalid options, and fills in the VINs.
func (o *Options) check() error {
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
	if o.Window > maxWindow || o.Window < 1 {
		return fmt.Errorf("window %d: want 1 to %d", o.Window, maxWindow)
	}
	if o.TLS != nil && o.TLS.ServerName == "" {
		o.TLS = o.TLS.Clone()
		o.TLS.ServerName, _, _ = net.SplitHostPort(o.Broker)
	}
	if o.Token == nil {
		o.Token = func(string) (string, error) { return "", nil }
	}
	return complete.Check(*o)
}
