package configs

import (
	"os"
	"path/filepath"
	"time"
)

// Sizes for the defaults.
const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// Default returns the configuration of an empty file. It is valid except for cell.id, which has no default. Values that
// derive from other keys (see Config.derive) are empty.
func Default() *Config {
	c := &Config{DataDir: "/var/lib/cellgate"}
	c.Cell.Node, _ = os.Hostname()
	c.Cell.Gateways = "single"
	c.Listeners = defaultListeners()
	c.HTTP = HTTP{
		Address: "127.0.0.1:8080", MaxBody: mib,
		ReadTimeout: Duration(15 * time.Second), MaxWait: Duration(time.Minute), Console: true,
	}
	c.Auth.setDefaults()
	c.Uplink = Uplink{Ack: "journal", Window: 64, Journal: Journal{
		SegmentBytes: 64 * mib, MaxBytes: 20 * gib, CommitInterval: Duration(4 * time.Millisecond),
		BufferBytes: 32 * mib, AlarmPercent: 70, DropPercent: 80, RefusePercent: 85, HoldPercent: 95, ReserveBytes: 64 * mib,
	}}
	c.Sessions = Sessions{
		MaxExpiry: Duration(7 * 24 * time.Hour), MaxQueuedMessages: 1000, MaxQueuedBytes: mib,
		MaxSubscriptions: 100, MaxInflight: 64, WhenFull: "drop_new",
		MaxRetainedMessages: 100_000, MaxRetainedBytes: 64 * mib,
		MaxPerSubject: 100, MaxSubscriptionsPerSubject: 1000, MaxQueuedBytesPerSubject: 32 * mib, MaxRetainedPerSubject: 100,
	}
	c.Commands = Commands{
		DefaultTTL: Duration(time.Minute), MaxTTL: Duration(7 * 24 * time.Hour), MaxQueued: 100, Inflight: 16,
		MaxPayload: 128 * kib, KeepFor: Duration(7 * 24 * time.Hour), KeepMax: 1_000_000,
		MaxEvents: 1_000_000, WhenEventsFull: "refuse", FromKafka: true, FromKafkaGroup: "cellgate-commands",
	}
	c.Presence = Presence{Grace: Duration(2 * time.Minute), Redis: true}
	c.Limits = Limits{
		MaxConnections: 100_000, ConnectRate: 2000, MaxPacket: 256 * kib, MaxConnectPacket: 16 * kib,
		MessagesPerSecond: 200, BytesPerSecond: 4 * mib, MaxKeepalive: Duration(20 * time.Minute), MaxTopicLevels: 32,
		HandshakeTimeout: Duration(10 * time.Second), ConnectTimeout: Duration(10 * time.Second),
		WriteTimeout: Duration(10 * time.Second), Handshakes: 8192, OutboundBytes: 512 * kib,
	}
	c.Kafka.setDefaults()
	c.Kafka.Brokers = []string{"127.0.0.1:9092"}
	c.Redis = Redis{Addresses: []string{"127.0.0.1:6379"}, PoolSize: 8, Timeout: Duration(5 * time.Second), ConfirmTimeout: Duration(500 * time.Millisecond)}
	c.Rules = Rules{
		Path: "rules", Watch: true, RunTests: true, ErrorTopic: "vehicle.rule-errors", QueueMessages: 4096, MaxVINs: 200_000,
		QueueBytes: 32 * mib, WhenFull: WhenFull{Kafka: "hold", Redis: "age_out", Central: "hold", Webhook: "age_out"},
	}
	c.Metrics.Classes = []string{"telemetry", "alarm", "event", "backfill", "gbt32960"}
	c.Tracing.OneIn = 1000
	c.Log = Log{Level: "info", Format: "json"}
	return c
}

func defaultListeners() []Listener {
	vehicles := Listener{Name: "vehicles", Address: ":8883", TLS: &ServerTLS{}}
	local := Listener{Name: "local", Address: "127.0.0.1:1883"}
	vehicles.setDefaults()
	vehicles.TLS.setDefaults()
	local.setDefaults()
	return []Listener{vehicles, local}
}

// The setDefaults methods set the defaults of elements of lists and maps, and of values behind pointers, before they are
// decoded. Default cannot reach these.

func (l *Listener) setDefaults()  { l.Protocol, l.Path = "mqtt", "/mqtt" }
func (t *ServerTLS) setDefaults() { t.ClientAuth, t.MinVersion = "none", "1.2" }
func (r *Role) setDefaults()      { r.AssignedClientID = true }
func (t *TokenAPI) setDefaults()  { t.Address = ":8443" }

func (w *Webhook) setDefaults() { w.Timeout, w.Requests = Duration(10*time.Second), 8 }

func (i *Issuer) setDefaults() {
	i.Refresh, i.Algorithms = Duration(10*time.Minute), []string{"ES256", "EdDSA"}
}

func (a *Auth) setDefaults() {
	*a = Auth{
		Alg: "ES256", TokenTTL: Duration(time.Hour), MaxTokenTTL: Duration(30 * 24 * time.Hour),
		Leeway: Duration(time.Minute), CacheEntries: 100_000, ExpiringNotice: Duration(5 * time.Minute),
		ExpiryJitter:      Duration(10 * time.Second),
		ClientCertificate: ClientCertificate{VINFrom: "san", IssueRate: 200, IssueBurst: 1000},
		Revocation:        Revocation{Poll: Duration(500 * time.Millisecond), RedisKey: "cellgate:revocations"},
		Audit:             Audit{MaxBytes: 100 * mib, Keep: 10},
	}
}

func (k *Kafka) setDefaults() {
	*k = Kafka{
		ClientID: "cellgate", Compression: "zstd", Linger: Duration(3 * time.Millisecond), BatchBytes: 900 * kib,
		Partitions: -1, Replication: -1, MissingTopicGrace: Duration(5 * time.Minute), Timeout: Duration(10 * time.Second),
	}
}

func (c *Central) setDefaults() {
	c.Kafka.setDefaults()
	c.Name, c.Bandwidth, c.P2Percent, c.Memory, c.Mode = "central", 20*mib, 10, 32*mib, "at_least_once"
}

// Default folders in data_dir.
const (
	JournalFolder = "journal"
	KeysFolder    = "auth"
)

// derive fills in values that derive from other keys and makes paths absolute from base ("" leaves them).
func (c *Config) derive(base string) {
	resolvePaths(c, base)
	under := func(p *Path, elem ...string) {
		if *p == "" {
			*p = Path(filepath.Join(append([]string{string(c.DataDir)}, elem...)...))
		}
	}
	under(&c.Auth.KeysDir, KeysFolder)
	under(&c.Auth.Audit.File, "audit.log")
	under(&c.Uplink.Journal.Dir, JournalFolder)
	for _, t := range c.serverTLS() {
		if t.Cert == "" && t.Key == "" {
			under(&t.Cert, "tls", "server.crt")
			under(&t.Key, "tls", "server.key")
		}
	}
	for i := range c.Central {
		if centre := &c.Central[i]; centre.Group == "" {
			if centre.Group = "cellgate-sync"; i > 0 {
				centre.Group += "-" + centre.Name
			}
		}
	}
	if c.Auth.Issuer == "" {
		c.Auth.Issuer = "cellgate/" + c.Cell.ID
	}
	for i := range c.Auth.Issuers {
		if c.Auth.Issuers[i].Audience == "" {
			c.Auth.Issuers[i].Audience = c.Cell.ID
		}
	}
}

// Files returns the paths of the files that a reload reads, except the configuration and the rules.
func (c *Config) Files() []string {
	var all []string
	for _, t := range c.serverTLS() {
		all = append(all, string(t.Cert), string(t.Key))
		if t.ClientCA != "" {
			all = append(all, string(t.ClientCA))
		}
	}
	for i := range c.Auth.Issuers {
		if file := c.Auth.Issuers[i].JWKSFile; file != "" {
			all = append(all, string(file))
		}
	}
	return all
}

// serverTLS returns the TLS sections of all listeners.
func (c *Config) serverTLS() []*ServerTLS {
	var all []*ServerTLS
	for i := range c.Listeners {
		all = append(all, c.Listeners[i].TLS)
	}
	all = append(all, c.HTTP.TLS)
	if c.TokenAPI != nil {
		all = append(all, c.TokenAPI.TLS)
	}
	kept := all[:0]
	for _, t := range all {
		if t != nil {
			kept = append(kept, t)
		}
	}
	return kept
}
