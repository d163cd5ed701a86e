package configs

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func (k *checker) uplink() {
	u := &k.cfg.Uplink
	for class := range u.AckByClass {
		k.class(join("uplink.ack_by_class", class), class)
	}
	j := &u.Journal
	if j.MaxBytes < 2*j.SegmentBytes && k.sound("uplink.journal.max_bytes", "uplink.journal.segment_bytes") {
		k.problem("uplink.journal.max_bytes", fmt.Sprintf("%v is less than two segments of %v", j.MaxBytes, j.SegmentBytes),
			"raise it, or lower segment_bytes")
	}
	if !slices.IsSorted([]int{j.AlarmPercent, j.DropPercent, j.RefusePercent, j.HoldPercent}) && k.sound("uplink.journal") {
		k.problem("uplink.journal", fmt.Sprintf("the watermarks do not rise: %d, %d, %d, %d", j.AlarmPercent, j.DropPercent, j.RefusePercent, j.HoldPercent),
			"keep alarm_percent ≤ drop_percent ≤ refuse_percent ≤ hold_percent")
	}
	l := &k.cfg.Limits
	if l.MaxConnectPacket > l.MaxPacket && k.sound("limits.max_connect_packet", "limits.max_packet") {
		k.problem("limits.max_connect_packet", fmt.Sprintf("%v is more than limits.max_packet (%v)", l.MaxConnectPacket, l.MaxPacket),
			"lower it: a CONNECT is a packet too")
	}
	if l.OutboundBytes < l.MaxPacket && k.sound("limits.outbound_bytes", "limits.max_packet") {
		k.problem("limits.outbound_bytes", fmt.Sprintf("%v cannot hold one packet of limits.max_packet (%v)", l.OutboundBytes, l.MaxPacket),
			"raise it, or lower max_packet")
	}
}

func (k *checker) commands() {
	c := &k.cfg.Commands
	if c.DefaultTTL > c.MaxTTL && k.sound("commands.default_ttl", "commands.max_ttl") {
		k.problem("commands.default_ttl", fmt.Sprintf("%v is longer than commands.max_ttl (%v)", c.DefaultTTL, c.MaxTTL), "lower it, or raise max_ttl")
	}
	if c.MaxPayload > k.cfg.Limits.MaxPacket-1024 && k.sound("commands.max_payload", "limits.max_packet") {
		k.problem("commands.max_payload", fmt.Sprintf("%v does not fit a packet of limits.max_packet (%v)", c.MaxPayload, k.cfg.Limits.MaxPacket),
			"leave 1 KiB for topic and properties: lower it, or raise max_packet")
	}
	if c.FromKafka {
		k.word("commands.from_kafka_group", c.FromKafkaGroup)
	}
}

// class checks a topic class, which is one topic level.
func (k *checker) class(path, class string) {
	if class == "" || strings.ContainsAny(class, "/+#") {
		k.problem(path, fmt.Sprintf("%q is not a topic class", class), "write the level after v1/{vin}/up/, such as telemetry")
	}
}

func (k *checker) word(path, s string) {
	if !nameRE().MatchString(s) {
		k.problem(path, fmt.Sprintf("%q is not a name", s), "use letters, digits, '.', '_' and '-'")
	}
}

// topic checks a Kafka topic name: at most 249 of [a-zA-Z0-9._-], and neither . nor ..
func (k *checker) topic(path, name string) {
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`).MatchString(name) || name == "." || name == ".." {
		k.problem(path, fmt.Sprintf("%q is not a Kafka topic", name), "use letters, digits, '.', '_' and '-', at most 249")
	}
}

func (k *checker) kafka(path string, c *Kafka) {
	k.hosts(path+".brokers", c.Brokers, "kafka-1:9092")
	k.clientTLS(path+".tls", c.TLS)
	k.nonZero(path+".partitions", c.Partitions)
	k.nonZero(path+".replication", c.Replication)
	s := c.SASL
	if s == nil || k.failed(path+".sasl") {
		return
	}
	if s.Mechanism == "" {
		k.problem(path+".sasl.mechanism", "is missing", "write plain, scram-sha-256 or scram-sha-512")
	}
	if s.User == "" || s.Password == "" {
		k.problem(path+".sasl", "user and password are both needed", "write them, the password as ${KAFKA_PASSWORD}")
	}
}

func (k *checker) nonZero(path string, n int) {
	if n == 0 {
		k.problem(path, "is 0", "write a number, or -1 for the brokers' default")
	}
}

// hosts checks a list of host:port.
func (k *checker) hosts(path string, hosts []string, example string) {
	if k.failed(path) {
		return
	}
	if len(hosts) == 0 {
		k.problem(path, "is empty", fmt.Sprintf("write at least one, such as [%q]", example))
	}
	for i, h := range hosts {
		host, port, err := net.SplitHostPort(h)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || host == "" || n == 0 {
			k.problem(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q is not host:port", withoutLogin(h)), fmt.Sprintf("write it like %q", example))
		}
	}
}

// withoutLogin masks the part of a URL before the @, which may contain a password.
func withoutLogin(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		return mask + address[i:]
	}
	return address
}

func (k *checker) clientTLS(path string, t *ClientTLS) {
	if t != nil && (t.Cert == "") != (t.Key == "") {
		k.problem(path, "cert and key go together, one is missing", "write both for a client certificate, or neither")
	}
}

func (k *checker) tracing() {
	t := &k.cfg.Tracing
	k.clientTLS("tracing.tls", t.TLS)
	if u, err := url.Parse(t.Endpoint); t.Endpoint != "" && !k.failed("tracing.endpoint") &&
		(err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil) {
		k.problem("tracing.endpoint", fmt.Sprintf("%q is not the address of a receiver of traces", withoutLogin(t.Endpoint)),
			"write it like https://collector:4318/v1/traces, put credentials into tracing.headers")
	}
	for name := range t.Headers {
		if !regexp.MustCompile(`^[A-Za-z0-9-]+$`).MatchString(name) {
			k.problem("tracing.headers", fmt.Sprintf("%q is not the name of an HTTP header", name), "write it like Authorization")
		}
	}
}

func (k *checker) redis() {
	r := &k.cfg.Redis
	k.hosts("redis.addresses", r.Addresses, "redis-1:6379")
	k.clientTLS("redis.tls", r.TLS)
	switch {
	case r.Cluster && r.Master != "":
		k.problem("redis.cluster", "is true although redis.master is set", "a sentinel's master is no cluster: keep one of the two")
	case r.Cluster && r.DB != 0:
		k.problem("redis.db", "a Redis cluster has database 0 only", "remove it")
	case !r.Cluster && r.Master == "" && len(r.Addresses) > 1:
		k.problem("redis.addresses", "several addresses, but neither cluster nor master is set",
			"set redis.cluster: true, name the sentinels' redis.master, or keep one address")
	}
}
