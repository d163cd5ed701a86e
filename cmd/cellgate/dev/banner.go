package dev

import (
	"fmt"
	"io"
	"net"
	"strings"

	"cellgate/cmd/cellgate/fleet"
	"cellgate/configs"
)

// BannerOptions are what the banner needs in addition to the running parts.
type BannerOptions struct {
	Program  string // how the user called the program
	Vehicles int    // of the simulated fleet
	Demo     string // VIN of the vehicle that the commands act for
}

// Command is one command of the banner. It works as printed.
type Command struct {
	Does, Line string
}

// Banner writes what runs where, and commands to copy.
func Banner(w io.Writer, d *Dev, o BannerOptions) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\ncellgate dev: cell %s is serving. Everything is in %s; Ctrl-C stops.\n\n", d.Config.Cell.ID, d.Data)
	for _, l := range d.Config.Listeners {
		how := "MQTT, plain"
		if l.TLS != nil {
			how = "MQTT over TLS"
		}
		fmt.Fprintf(&b, "  %-16s %s\n", how, address(d, &l))
	}
	fmt.Fprintf(&b, "  %-16s %s\n", "HTTP API", d.App.HTTPURL())
	if url := d.App.TokenURL(); url != "" {
		fmt.Fprintf(&b, "  %-16s %s\n", "token_api", url)
	}
	for i, a := range d.Others {
		fmt.Fprintf(&b, "  %-16s MQTT over TLS %s, HTTP API %s\n", fmt.Sprintf("gateway gw-%d", i+2), a.Addrs()["vehicles"], a.HTTPURL())
	}
	if d.Config.HTTP.Console {
		fmt.Fprintf(&b, "  %-16s %s/\n  %-16s log in with the token of: %s token issue --data %s --operator me\n", "console", d.App.HTTPURL(), "",
			quote(o.Program), quote(d.Data))
	}
	fmt.Fprintf(&b, "  %-16s %s\n", "cell Kafka", d.Cell.Addr())
	if d.Central != nil {
		fmt.Fprintf(&b, "  %-16s %s\n", "central Kafka", d.Central.Addr())
	}
	fmt.Fprintf(&b, "  %-16s %s\n", "Redis", d.Redis.Addr())
	fmt.Fprintf(&b, "  %-16s %s, edit and save: they are in force within 2 s\n", "rules", d.Config.Rules.Path)
	fmt.Fprintf(&b, "  %-16s %d simulated vehicles\n", "fleet", o.Vehicles)
	for _, c := range Commands(d, o) {
		fmt.Fprintf(&b, "\n# %s\n%s\n", c.Does, c.Line)
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// address returns the address at which this machine reaches a listener.
func address(d *Dev, l *configs.Listener) string {
	addr := d.App.Addrs()[l.Name]
	if addr == nil {
		return l.Address
	}
	host, port, err := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); err != nil || (ip != nil && ip.IsUnspecified()) {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// Commands returns the banner's commands.
func Commands(d *Dev, o BannerOptions) []Command {
	cli := quote(o.Program)
	data := " --data " + quote(d.Data)
	vin := o.Demo
	kcat := func(broker, topic string) string {
		return fmt.Sprintf(`kcat -b %s -C -t %s -o -500 -e -q -f '%%k  %%s\n  %%h\n' | grep -A1 ^%s`, broker, topic, vin)
	}
	redisHost, redisPort, _ := net.SplitHostPort(d.Redis.Addr()) //nolint:errcheck // the address of a listener
	commands := []Command{
		{"a vehicle publishes over TLS with a token of the cell", publish(d, cli+" token issue"+data+" --vin "+vin, vin)},
		{"its record in the cell's Kafka: key, value, headers", kcat(d.Cell.Addr(), "vehicle.telemetry")},
		{"its last known state in Redis", fmt.Sprintf("redis-cli -h %s -p %s HGETALL veh:%s", redisHost, redisPort, vin)},
		{"the low-battery alert in the cell's Kafka", kcat(d.Cell.Addr(), "vehicle.alerts")},
	}
	if d.Central != nil {
		commands = append(commands, Command{"and in the central unit's Kafka", kcat(d.Central.Addr(), "fleet.alerts")})
	}
	return append(commands,
		Command{"the loss ledger, with an operator's token", fmt.Sprintf(`curl -s -H "Authorization: Bearer $(%s token issue%s --operator me)" %s/v1/ledger`, cli, data, d.App.HTTPURL())},
		Command{"a command to a vehicle of the fleet", fmt.Sprintf(`%s command send%s --vin %s --name unlock --payload '{"doors":"all"}' --wait`, cli, data, fleet.VIN(0))},
		Command{"the gateway's state", cli + " status" + data},
	)
}

// publish returns a mosquitto_pub command over the first TLS listener.
func publish(d *Dev, token, vin string) string {
	for _, l := range d.Config.Listeners {
		if l.TLS == nil || l.Protocol == "ws" {
			continue
		}
		_, port, _ := net.SplitHostPort(address(d, &l)) //nolint:errcheck // the address of a listener
		return fmt.Sprintf(`mosquitto_pub -h localhost -p %s --cafile %s -V 5 -q 1 -i %s -u %s -P "$(%s)" -t v1/%s/up/telemetry -m '{"soc": 9, "speed": 42.5}'`,
			port, quote(d.Data+"/tls/ca.crt"), vin, vin, token, vin)
	}
	return "# no TLS listener in the configuration"
}

// quote quotes a word for the shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
