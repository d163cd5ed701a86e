package configs

import (
	"net"
	"slices"
)

// warnings reports valid settings with a drawback: secrets in clear text, or a weaker guarantee.
func (k *checker) warnings() {
	c := k.cfg
	if h, _, _ := net.SplitHostPort(c.HTTP.Address); c.HTTP.AllowInsecure && c.HTTP.TLS == nil && !isLoopback(h) {
		k.warn("http.allow_insecure", "tokens cross the network unencrypted", "make sure that a proxy in front terminates TLS")
	}
	if t := c.TokenAPI; t != nil && (t.TLS == nil || t.TLS.ClientAuth == "none") {
		k.warn("token_api", "vehicles cannot prove themselves: no client certificate is asked for", "add tls: {client_ca: …, client_auth: required}")
	}
	k.kafkaWarnings("kafka", &c.Kafka)
	for i := range c.Central {
		k.kafkaWarnings(k.centralPath(i)+".kafka", &c.Central[i].Kafka)
	}
	if c.Redis.TLS == nil && c.Redis.Password != "" && !local(c.Redis.Addresses) {
		k.warn("redis.password", "crosses the network unencrypted", "add redis.tls")
	}
	if c.Uplink.Ack == "memory" {
		k.warn("uplink.ack", "acknowledged messages are lost by a crash", "use journal, and memory by class only")
	}
	for _, l := range c.Listeners {
		if l.AnonymousRole != "" {
			k.warn("listeners", l.Name+" admits clients without a token", "use it on test benches only")
		}
	}
}

func (k *checker) kafkaWarnings(path string, c *Kafka) {
	if c.SASL != nil && c.SASL.Mechanism == "plain" && c.TLS == nil && !local(c.Brokers) {
		k.warn(path+".sasl.mechanism", "plain sends the password unencrypted without TLS", "add "+path+".tls, or use scram-sha-512")
	}
}

func (k *checker) warn(path, why, fix string) {
	k.cfg.Warnings = append(k.cfg.Warnings, k.at(path, why, fix))
}

// local reports whether all host:port addresses are on loopback.
func local(addresses []string) bool {
	return !slices.ContainsFunc(addresses, func(a string) bool {
		host, _, err := net.SplitHostPort(a)
		return err != nil || !isLoopback(host)
	})
}
