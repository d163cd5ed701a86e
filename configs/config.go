package configs

// Config is the whole configuration of one gateway.
type Config struct {
	Cell      Cell       `yaml:"cell"`
	DataDir   Path       `yaml:"data_dir"`
	Listeners []Listener `yaml:"listeners"`
	HTTP      HTTP       `yaml:"http"`
	TokenAPI  *TokenAPI  `yaml:"token_api"` // nil: no token listener for vehicles
	Auth      Auth       `yaml:"auth"`
	Uplink    Uplink     `yaml:"uplink"`
	Sessions  Sessions   `yaml:"sessions" reload:"yes"`
	Commands  Commands   `yaml:"commands"`
	Presence  Presence   `yaml:"presence"`
	Limits    Limits     `yaml:"limits" reload:"yes"`
	Kafka     Kafka      `yaml:"kafka"`
	Redis     Redis      `yaml:"redis"`
	Rules     Rules      `yaml:"rules"`
	// Webhooks are the endpoints that rules may post to, by name.
	Webhooks map[string]Webhook `yaml:"webhooks"`
	Central  []Central          `yaml:"central" single:"yes"` // empty: the sync worker is off
	Metrics  Metrics            `yaml:"metrics"`
	Tracing  Tracing            `yaml:"tracing"`
	Log      Log                `yaml:"log"`

	// File is the path of the configuration file. Relative paths resolve from its folder.
	File string `yaml:"-"`
	// Hash is the SHA-256 of the file in hex.
	Hash string `yaml:"-"`
	// Warnings are settings that are valid but risky. The gateway logs them at startup.
	Warnings Problems `yaml:"-"`
}

// Cell names the cell and this gateway in it.
type Cell struct {
	ID     string `yaml:"id"` // required: letters, digits, '.', '_', '-', at most 64
	Region string `yaml:"region"`
	// Node is this gateway's name, unique in the cell and part of every msg-id. Default: host name.
	Node string `yaml:"node"`
	// Gateways is single or several. With several, the vehicles' connections, sessions and commands are in Redis and
	// shared by all gateways.
	Gateways string `yaml:"gateways" oneof:"single|several"`
	// JoinKey is the file with the secret that the gateways of the cell share. They authenticate each other's signing
	// keys with it.
	JoinKey Path `yaml:"join_key"`
}

// Several reports whether the cell may have more than one gateway.
func (c *Cell) Several() bool { return c.Gateways == "several" }

// Listener is one MQTT listening address.
type Listener struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"`
	// Protocol is mqtt (plain TCP or TLS) or ws (MQTT over WebSocket; wss when TLS is set).
	Protocol string `yaml:"protocol" oneof:"mqtt|ws"`
	// Path is the HTTP path of a ws listener.
	Path string     `yaml:"path"`
	TLS  *ServerTLS `yaml:"tls" reload:"yes"` // nil: plain, on loopback only
	// AnonymousRole admits clients without a token in this role, with the client id as subject. Loopback only.
	AnonymousRole string `yaml:"anonymous_role"`
	// ProxyFrom lists the networks of load balancers that must send a PROXY protocol v2 header. Empty: no PROXY
	// protocol.
	ProxyFrom []string `yaml:"proxy_from"`
}

// ServerTLS configures TLS of a listener: versions 1.2 and 1.3 only.
type ServerTLS struct {
	Cert       Path   `yaml:"cert"`      // default {data_dir}/tls/server.crt
	Key        Path   `yaml:"key"`       // default {data_dir}/tls/server.key
	ClientCA   Path   `yaml:"client_ca"` // PEM file of the authorities that sign client certificates
	ClientAuth string `yaml:"client_auth" oneof:"none|optional|required"`
	MinVersion string `yaml:"min_version" oneof:"1.2|1.3"`
}

// HTTP is the listener of the API, the metrics and the console.
type HTTP struct {
	Address string     `yaml:"address"`
	TLS     *ServerTLS `yaml:"tls" reload:"yes"`
	// AllowInsecure permits an address off loopback without TLS. Tokens then cross the network in clear text.
	AllowInsecure bool     `yaml:"allow_insecure"`
	MaxBody       Bytes    `yaml:"max_body" range:"1KiB..64MiB"`
	ReadTimeout   Duration `yaml:"read_timeout" range:"1s..10m"`
	Console       bool     `yaml:"console"` // whether the console is served with the API
	// MaxWait is the longest ?wait= of a command.
	MaxWait Duration `yaml:"max_wait" range:"1s..10m"`
}

// TokenAPI is the vehicles' listener. It serves only token issuing and the JWKS. It requires TLS 1.3 whatever
// min_version says: earlier versions send the client certificate in clear text.
type TokenAPI struct {
	Address string     `yaml:"address"`
	TLS     *ServerTLS `yaml:"tls" reload:"yes"`
}

// Auth configures how tokens are issued and verified.
type Auth struct {
	KeysDir     Path     `yaml:"keys_dir"` // default {data_dir}/auth
	Alg         string   `yaml:"alg" oneof:"ES256|EdDSA"`
	Issuer      string   `yaml:"issuer"` // default cellgate/{cell.id}
	TokenTTL    Duration `yaml:"token_ttl" range:"1m..8760h" reload:"yes"`
	MaxTokenTTL Duration `yaml:"max_token_ttl" range:"1m..8760h" reload:"yes"` // longest lifetime that a request may ask for
	Leeway      Duration `yaml:"leeway" range:"0s..10m" reload:"yes"`
	// CacheEntries bounds the cache of verified tokens, which makes reconnects cheap.
	CacheEntries int `yaml:"cache_entries" range:"0..10000000"`
	// ExpiringNotice is how long before its token expires a vehicle is notified; 0s: never.
	ExpiringNotice Duration `yaml:"expiring_notice" range:"0s..24h" reload:"yes"`
	// ExpiryJitter spreads the disconnects of clients whose tokens expire together. A connection never outlives its
	// token.
	ExpiryJitter Duration `yaml:"expiry_jitter" range:"0s..10m" reload:"yes"`

	ClientCertificate ClientCertificate `yaml:"client_certificate" reload:"yes"`
	Issuers           []Issuer          `yaml:"issuers" reload:"yes"`
	Roles             map[string]Role   `yaml:"roles" reload:"yes"`
	// VINLists are named lists of VINs that limits of commands refer to.
	VINLists   map[string][]string `yaml:"vin_lists" reload:"yes"`
	Revocation Revocation          `yaml:"revocation"`
	Audit      Audit               `yaml:"audit"`
}

// ClientCertificate configures the tokens that vehicles get with their client certificates.
type ClientCertificate struct {
	// VINFrom is the certificate field with the VIN: the SAN URI urn:vin:{VIN} or the subject's CN.
	VINFrom string `yaml:"vin_from" oneof:"san|cn"`
	// Bind binds a token to the certificate of the request (cnf.x5t#S256, RFC 8705).
	Bind bool `yaml:"bind"`
	// IssueRate is how many tokens one gateway issues per second, IssueBurst how many at once.
	IssueRate  int `yaml:"issue_rate" range:"1..1000000"`
	IssueBurst int `yaml:"issue_burst" range:"1..1000000"`
}

// Issuer is another authority whose tokens are accepted. Exactly one of the two JWKS sources is set.
type Issuer struct {
	Issuer   string   `yaml:"issuer"`
	Audience string   `yaml:"audience"` // default the cell's id
	JWKSFile Path     `yaml:"jwks_file"`
	JWKSURL  string   `yaml:"jwks_url"`
	Refresh  Duration `yaml:"refresh" range:"10s..168h"`
	// Roles are the roles that this issuer's tokens may have, at least one. A token with another role is refused.
	Roles []string `yaml:"roles"`
	// Scopes are the scopes that this issuer's tokens may grant, none by default. Other scopes of a token are ignored.
	Scopes []string `yaml:"scopes" oneof:"telemetry:read|command:send|command:read|vehicle:admin|rules:admin|token:issue"`
	// Algorithms are the permitted algorithms of its keys.
	Algorithms []string `yaml:"algorithms" oneof:"ES256|EdDSA|RS256|PS256"`
}

// Role grants topics by filters. {vin} and {name} stand for the token's subject. Deny overrides allow.
type Role struct {
	Publish       []string `yaml:"publish"`
	Subscribe     []string `yaml:"subscribe"`
	DenyPublish   []string `yaml:"deny_publish"`
	DenySubscribe []string `yaml:"deny_subscribe"`
	// AssignedClientID permits an empty client id; the gateway then assigns one. Default: true.
	AssignedClientID bool `yaml:"assigned_client_id"`
	// CommandNames and CommandVINs limit the commands that Publish grants, like the claims of a token; empty: all.
	// @name means the VINs of a list in auth.vin_lists.
	CommandNames []string `yaml:"command_names"`
	CommandVINs  []string `yaml:"command_vins"`
}

// Revocation configures how revocations spread between the gateways of a cell.
type Revocation struct {
	Poll Duration `yaml:"poll" range:"100ms..1h"`
	// RedisKey is the hash that the gateways share. Empty: revocations apply to this gateway only.
	RedisKey string `yaml:"redis_key"`
}

// Audit is the audit log: JSON lines, rotated by size.
type Audit struct {
	File     Path  `yaml:"file"` // default {data_dir}/audit.log
	MaxBytes Bytes `yaml:"max_bytes" range:"1MiB..10GiB"`
	Keep     int   `yaml:"keep" range:"1..1000"`
}

// Uplink configures what an acknowledgement guarantees and how many messages may be unacknowledged.
type Uplink struct {
	// Ack is what a message must reach before its PUBACK is sent: journal (fsync), kafka (acks=all), memory (receipt).
	Ack string `yaml:"ack" oneof:"journal|kafka|memory"`
	// AckByClass overrides Ack for a topic class, the first level after v1/{vin}/up/.
	AckByClass map[string]string `yaml:"ack_by_class" oneof:"journal|kafka|memory"`
	// Window is the most unacknowledged QoS 1 and 2 messages of one connection. MQTT 5 clients get it as Receive
	// Maximum.
	Window  int     `yaml:"window" range:"1..65535"`
	Journal Journal `yaml:"journal"`
}

// Journal configures the journal's location and bounds.
type Journal struct {
	Dir            Path     `yaml:"dir"` // default {data_dir}/journal
	SegmentBytes   Bytes    `yaml:"segment_bytes" range:"1MiB..4GiB"`
	MaxBytes       Bytes    `yaml:"max_bytes" range:"4MiB..64TiB" reload:"yes"`
	MaxAge         Duration `yaml:"max_age" range:"0s..87600h" reload:"yes"` // 0s: bounded by bytes only
	CommitInterval Duration `yaml:"commit_interval" range:"0s..1s"`
	BufferBytes    Bytes    `yaml:"buffer_bytes" range:"1MiB..4GiB"`
	// AlarmPercent, DropPercent, RefusePercent and HoldPercent are watermarks: alarm, drop QoS 0, refuse new
	// connections, stop reading. They are percentages of MaxBytes, or of the disk's size minus ReserveBytes if that is
	// less.
	AlarmPercent  int `yaml:"alarm_percent" range:"1..100" reload:"yes"`
	DropPercent   int `yaml:"drop_percent" range:"1..100" reload:"yes"`
	RefusePercent int `yaml:"refuse_percent" range:"1..100" reload:"yes"`
	HoldPercent   int `yaml:"hold_percent" range:"1..100" reload:"yes"`
	// ReserveBytes is the disk space that stays free so that commands and cursors can still be written.
	ReserveBytes Bytes `yaml:"reserve_bytes" range:"0B..64GiB" reload:"yes"`
}

// Sessions bounds the state of each client.
type Sessions struct {
	// MaxExpiry caps the session expiry that a client asks for. MQTT 3.1.1 sessions always get MaxExpiry.
	MaxExpiry         Duration `yaml:"max_expiry" range:"0s..87600h"`
	MaxQueuedMessages int      `yaml:"max_queued_messages" range:"1..1000000"`
	MaxQueuedBytes    Bytes    `yaml:"max_queued_bytes" range:"1KiB..1GiB"`
	MaxSubscriptions  int      `yaml:"max_subscriptions" range:"1..100000"`
	MaxInflight       int      `yaml:"max_inflight" range:"1..65535"` // applies together with the client's Receive Maximum
	// WhenFull selects which message a full queue drops and counts: the new one or the oldest.
	WhenFull            string `yaml:"when_full" oneof:"drop_new|drop_old"`
	MaxRetainedMessages int    `yaml:"max_retained_messages" range:"0..10000000"`
	MaxRetainedBytes    Bytes  `yaml:"max_retained_bytes" range:"0B..64GiB"`
	// MaxPerSubject and the fields after it bound what all clients of one token subject have together: sessions
	// (connected or not), subscriptions, queued bytes, and retained messages that they published.
	MaxPerSubject              int   `yaml:"max_per_subject" range:"1..1000000"`
	MaxSubscriptionsPerSubject int   `yaml:"max_subscriptions_per_subject" range:"1..1000000"`
	MaxQueuedBytesPerSubject   Bytes `yaml:"max_queued_bytes_per_subject" range:"1KiB..192MiB"`
	MaxRetainedPerSubject      int   `yaml:"max_retained_per_subject" range:"1..10000000"`
}

// Commands configures commands to vehicles.
type Commands struct {
	// SubscribeOnConnect subscribes a vehicle to its cmd topics when it connects, without a SUBSCRIBE.
	SubscribeOnConnect bool `yaml:"subscribe_on_connect"`
	// EnvelopeFor311 wraps the payload for MQTT 3.1.1 vehicles as {id, name, issued_at, expires_at, payload}.
	EnvelopeFor311 bool     `yaml:"envelope_for_311"`
	DefaultTTL     Duration `yaml:"default_ttl" range:"1s..8760h"`
	MaxTTL         Duration `yaml:"max_ttl" range:"1s..8760h"`
	MaxQueued      int      `yaml:"max_queued" range:"1..100000"` // open commands per VIN; more are refused with 429
	// Inflight is the most commands that are sent to one vehicle and not acknowledged.
	Inflight   int   `yaml:"inflight" range:"1..65535"`
	MaxPayload Bytes `yaml:"max_payload" range:"1B..16MiB"`
	// KeepFor and KeepMax bound how long and how many finished commands are kept.
	KeepFor Duration `yaml:"keep_for" range:"1m..87600h"`
	KeepMax int      `yaml:"keep_max" range:"1..100000000"`
	// MaxEvents bounds the state changes that wait for Kafka. Above it WhenEventsFull applies: refuse new commands, or
	// drop and count the oldest event.
	MaxEvents      int    `yaml:"max_events" range:"1..100000000"`
	WhenEventsFull string `yaml:"when_events_full" oneof:"refuse|drop_old"`
	// FromKafka enables the command topic vehicle.commands. FromKafkaGroup is the consumer group that shows its
	// progress to tools.
	FromKafka      bool   `yaml:"from_kafka"`
	FromKafkaGroup string `yaml:"from_kafka_group"`
	// FromKafkaNames and FromKafkaVINs limit commands from Kafka, which carry no token; empty: all.
	FromKafkaNames []string `yaml:"from_kafka_names"`
	FromKafkaVINs  []string `yaml:"from_kafka_vins"`
}

// Limits bounds connections and the rates of each connection.
type Limits struct {
	MaxConnections        int   `yaml:"max_connections" range:"1..10000000"`
	ConnectionsPerAddress int   `yaml:"connections_per_address" range:"0..10000000"` // 0: off (carrier NAT)
	ConnectRate           int   `yaml:"connect_rate" range:"0..1000000"`             // per second, before the handshake; 0: off
	MaxPacket             Bytes `yaml:"max_packet" range:"1KiB..256MiB"`
	MaxConnectPacket      Bytes `yaml:"max_connect_packet" range:"512B..1MiB"` // of a client that is not admitted yet
	// MessagesPerSecond and BytesPerSecond throttle one connection by reading more slowly; 0: off.
	MessagesPerSecond int      `yaml:"messages_per_second" range:"0..10000000"`
	BytesPerSecond    Bytes    `yaml:"bytes_per_second" range:"0B..10GiB"`
	MaxKeepalive      Duration `yaml:"max_keepalive" range:"5s..65535s"`
	// MaxTopicLevels is the most levels of a topic or filter.
	MaxTopicLevels   int      `yaml:"max_topic_levels" range:"8..128"`
	HandshakeTimeout Duration `yaml:"handshake_timeout" range:"100ms..5m"`
	ConnectTimeout   Duration `yaml:"connect_timeout" range:"100ms..5m"`
	WriteTimeout     Duration `yaml:"write_timeout" range:"100ms..5m"`
	// Handshakes is the most connections that have not finished TLS and CONNECT. At the bound the oldest is closed, so
	// the bound must exceed the connections that a connect storm opens while one slow client finishes its handshake.
	Handshakes int `yaml:"handshakes" range:"1..100000"`
	// OutboundBytes bounds the outgoing queue of one connection.
	OutboundBytes Bytes `yaml:"outbound_bytes" range:"4KiB..64MiB"`
}

// Kafka is the cell's Kafka.
type Kafka struct {
	Brokers  []string   `yaml:"brokers"`
	ClientID string     `yaml:"client_id"`
	TLS      *ClientTLS `yaml:"tls"`
	SASL     *SASL      `yaml:"sasl"`
	// Compression is the codec of produced batches.
	Compression string   `yaml:"compression" oneof:"none|gzip|snappy|lz4|zstd"`
	Linger      Duration `yaml:"linger" range:"0s..1s"`
	BatchBytes  Bytes    `yaml:"batch_bytes" range:"1KiB..100MiB"`
	// AutoCreateTopics creates missing topics with Partitions and Replication (-1: the brokers' default).
	AutoCreateTopics bool `yaml:"auto_create_topics"`
	Partitions       int  `yaml:"partitions" range:"-1..10000"`
	Replication      int  `yaml:"replication" range:"-1..100"`
	// MissingTopicGrace is how long a topic may be missing while the cluster answers before messages for it go to the
	// error topics of their rules.
	MissingTopicGrace Duration `yaml:"missing_topic_grace" range:"1s..7d"`
	Timeout           Duration `yaml:"timeout" range:"100ms..5m"` // of one request
}

// ClientTLS configures TLS to a server. An empty mapping means TLS with the system's authorities.
type ClientTLS struct {
	CA         Path   `yaml:"ca"`
	Cert       Path   `yaml:"cert"`
	Key        Path   `yaml:"key"`
	ServerName string `yaml:"server_name"`
}

// SASL is the authentication to Kafka.
type SASL struct {
	Mechanism string `yaml:"mechanism" oneof:"plain|scram-sha-256|scram-sha-512"`
	User      string `yaml:"user"`
	Password  Secret `yaml:"password"`
}

// Presence configures the events that report which vehicles are connected.
type Presence struct {
	// Grace is how long vehicles that were connected when the gateway was killed have to reconnect before they are
	// reported as disconnected.
	Grace Duration `yaml:"grace" range:"0s..24h"`
	// Redis also writes the hashes presence:{VIN}, in addition to the topic vehicle.presence.
	Redis bool `yaml:"redis"`
}

// Redis is the cell's Redis: one server, a cluster, or sentinels with the name of a master.
type Redis struct {
	Addresses        []string   `yaml:"addresses"`
	Username         string     `yaml:"username"`
	Password         Secret     `yaml:"password"`
	DB               int        `yaml:"db" range:"0..1000000"`
	Cluster          bool       `yaml:"cluster"`
	Master           string     `yaml:"master"` // sentinel: the master's name, addresses are the sentinels
	SentinelUsername string     `yaml:"sentinel_username"`
	SentinelPassword Secret     `yaml:"sentinel_password"`
	TLS              *ClientTLS `yaml:"tls"`
	PoolSize         int        `yaml:"pool_size" range:"1..10000"`
	Timeout          Duration   `yaml:"timeout" range:"10ms..5m"` // of one pipeline
	// Replicas is how many replicas of each primary must confirm shared state (cell.gateways: several) before a request
	// is answered. ConfirmTimeout bounds the wait for them.
	Replicas       int      `yaml:"replicas" range:"0..16"`
	ConfirmTimeout Duration `yaml:"confirm_timeout" range:"10ms..10s"`
}

// Rules configures the rule set, and what happens to its output when a sink is away.
type Rules struct {
	Path  Path `yaml:"path"`
	Watch bool `yaml:"watch"` // reload when files change
	// RunTests activates rules only if the tests next to them pass.
	RunTests bool `yaml:"run_tests" reload:"yes"`
	// ErrorTopic receives the messages that a rule without on_error cannot evaluate or deliver.
	ErrorTopic string `yaml:"error_topic"`
	// Workers is the most goroutines that evaluate messages; 0: one per processor.
	Workers int `yaml:"workers" range:"0..64"`
	// QueueMessages and QueueBytes bound each sink's queue in memory. Further decisions go to disk.
	QueueMessages int   `yaml:"queue_messages" range:"16..10000000"`
	QueueBytes    Bytes `yaml:"queue_bytes" range:"64KiB..16GiB"`
	// MaxVINs bounds the VINs for which operators of rules keep state. Beyond it the least recently changed VIN is
	// forgotten.
	MaxVINs  int      `yaml:"max_vins" range:"64..100000000"`
	WhenFull WhenFull `yaml:"when_full"`
	// HashKeys are the keys of the rules' function hash.
	HashKeys []HashKey `yaml:"hash_keys"`
}

// HashKey is a key of the rules' function hash. It applies to messages received from a given time on.
type HashKey struct {
	ID   string `yaml:"id"`   // prefix of each hash
	From string `yaml:"from"` // RFC 3339; empty: no start
	Key  Secret `yaml:"key"`
}

// WhenFull says what happens when the backlog of a sink fills the journal: hold (the disk watermarks apply) or age_out
// (the oldest records are skipped and counted).
type WhenFull struct {
	Kafka   string `yaml:"kafka" oneof:"hold|age_out"`
	Redis   string `yaml:"redis" oneof:"hold|age_out"`
	Central string `yaml:"central" oneof:"hold|age_out"`
	Webhook string `yaml:"webhook" oneof:"hold|age_out"`
}

// Webhook is an HTTP endpoint that rules may post to.
type Webhook struct {
	URL string `yaml:"url"` // https; http only to PrivateNetworks
	// Keys sign each request (HMAC-SHA256), newest first: text, or whsec_ and base64.
	Keys []Secret `yaml:"keys"`
	// Timeout bounds one request, Requests the concurrent requests.
	Timeout  Duration `yaml:"timeout" range:"100ms..1m"`
	Requests int      `yaml:"requests" range:"1..64"`
	// PrivateNetworks are the non-public networks that the endpoint may be in.
	PrivateNetworks []string   `yaml:"private_networks"`
	TLS             *ClientTLS `yaml:"tls"`
}

// Central is a central unit to which the sync worker forwards the outbox topics.
type Central struct {
	// Name identifies the centre in the API and in metrics.
	Name  string `yaml:"name"`
	Kafka Kafka  `yaml:"kafka" reload:"yes"`
	// Bandwidth limits all lanes together, LaneBandwidth each lane, in bytes on the wire; 0B/s: unlimited.
	Bandwidth     ByteRate      `yaml:"bandwidth" range:"0B/s..100GiB/s" reload:"yes"`
	LaneBandwidth LaneBandwidth `yaml:"lane_bandwidth" reload:"yes"`
	// Hours override both by time of day. The first entry that contains the time applies.
	Hours []CentralHours `yaml:"hours" reload:"yes"`
	// P2Percent is the share of p2 in the traffic of p1 and p2 while both have records to send.
	P2Percent int `yaml:"p2_percent" range:"1..99" reload:"yes"`
	// Memory bounds the records that are read and not yet acknowledged by the centre.
	Memory Bytes `yaml:"memory" range:"4MiB..16GiB"`
	// Mode selects whether records may be sent twice after a crash.
	Mode  string `yaml:"mode" oneof:"at_least_once|exactly_once"`
	Group string `yaml:"group"` // consumer group for offsets on the cell's Kafka; default cellgate-sync, with -{name} for further centres
}

// LaneBandwidth is a limit for each lane; 0B/s: unlimited.
type LaneBandwidth struct {
	P0 ByteRate `yaml:"p0" range:"0B/s..100GiB/s"`
	P1 ByteRate `yaml:"p1" range:"0B/s..100GiB/s"`
	P2 ByteRate `yaml:"p2" range:"0B/s..100GiB/s"`
}

// CentralHours are the limits from From (inclusive) to To (exclusive), in the gateway's time zone. If To is not later
// than From the period spans midnight.
type CentralHours struct {
	From          TimeOfDay     `yaml:"from"`
	To            TimeOfDay     `yaml:"to"`
	Bandwidth     ByteRate      `yaml:"bandwidth" range:"0B/s..100GiB/s"`
	LaneBandwidth LaneBandwidth `yaml:"lane_bandwidth"`
}

// Metrics configures label values.
type Metrics struct {
	// Classes are the topic classes with their own label value; all others are counted as other.
	Classes []string `yaml:"classes"`
}

// Tracing exports OpenTelemetry traces of messages and commands by OTLP over HTTP.
type Tracing struct {
	Endpoint string `yaml:"endpoint"` // URL of the trace receiver; empty: off
	// OneIn is the sampling rate for messages and commands whose sender does not decide: one in OneIn is traced; 0:
	// none.
	OneIn   int               `yaml:"one_in" range:"0..1000000000"`
	Headers map[string]Secret `yaml:"headers"` // added to each request
	TLS     *ClientTLS        `yaml:"tls"`
}

// Log configures the gateway's log on stderr.
type Log struct {
	Level  string `yaml:"level" oneof:"debug|info|warn|error" reload:"yes"`
	Format string `yaml:"format" oneof:"json|text"`
}
