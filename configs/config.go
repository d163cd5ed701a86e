package configs

// Config is the whole configuration of one gateway.
type Config struct {
	Cell      Cell       `yaml:"cell"`
	DataDir   Path       `yaml:"data_dir"`
	Listeners []Listener `yaml:"listeners"`
	HTTP      HTTP       `yaml:"http"`
	TokenAPI  *TokenAPI  `yaml:"token_api"` // nil: no listener for vehicles that ask for tokens
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
	Central  []Central          `yaml:"central" single:"yes"` // none: the sync worker is off
	Metrics  Metrics            `yaml:"metrics"`
	Tracing  Tracing            `yaml:"tracing"`
	Log      Log                `yaml:"log"`

	// File is where the configuration was read from; relative paths were resolved from its folder.
	File string `yaml:"-"`
	// Hash is the SHA-256 of the file in hex.
	Hash string `yaml:"-"`
	// Warnings are what is permitted and still worth a second thought. The gateway logs them at its start.
	Warnings Problems `yaml:"-"`
}

// Cell names the cell and this gateway in it.
type Cell struct {
	ID     string `yaml:"id"` // required: letters, digits, '.', '_', '-', at most 64
	Region string `yaml:"region"`
	// Node is this gateway's name, unique in the cell: it is part of every msg-id. Default: host name.
	Node string `yaml:"node"`
	// Gateways is single, or several: then the vehicles' connections, sessions and commands are in Redis, for all of them.
	Gateways string `yaml:"gateways" oneof:"single|several"`
	// JoinKey is the file with the secret that the gateways of the cell share: they know each other's signing keys by it.
	JoinKey Path `yaml:"join_key"`
}

// Several tells that the cell has more gateways than this one.
func (c *Cell) Several() bool { return c.Gateways == "several" }

// Listener is one MQTT address.
type Listener struct {
	Name    string `yaml:"name"`
	Address string `yaml:"address"`
	// Protocol is mqtt (plain TCP or TLS) or ws (MQTT over WebSocket; wss when TLS is set).
	Protocol string `yaml:"protocol" oneof:"mqtt|ws"`
	// Path is the HTTP path of a ws listener.
	Path string     `yaml:"path"`
	TLS  *ServerTLS `yaml:"tls" reload:"yes"` // nil: plain, on loopback only
	// AnonymousRole admits clients without a token in this role, the client id as subject. Loopback only.
	AnonymousRole string `yaml:"anonymous_role"`
	// ProxyFrom lists the networks of load balancers whose PROXY protocol v2 header is believed, and
	// demanded. Empty: no PROXY protocol.
	ProxyFrom []string `yaml:"proxy_from"`
}

// ServerTLS is the server's side of TLS: versions 1.2 and 1.3 only.
type ServerTLS struct {
	Cert       Path   `yaml:"cert"`      // default {data_dir}/tls/server.crt
	Key        Path   `yaml:"key"`       // default {data_dir}/tls/server.key
	ClientCA   Path   `yaml:"client_ca"` // PEM file of the certificate authorities of clients
	ClientAuth string `yaml:"client_auth" oneof:"none|optional|required"`
	MinVersion string `yaml:"min_version" oneof:"1.2|1.3"`
}

// HTTP is the listener of API, metrics and console.
type HTTP struct {
	Address string     `yaml:"address"`
	TLS     *ServerTLS `yaml:"tls" reload:"yes"`
	// AllowInsecure permits an address off loopback without TLS: tokens then cross the network in clear.
	AllowInsecure bool     `yaml:"allow_insecure"`
	MaxBody       Bytes    `yaml:"max_body" range:"1KiB..64MiB"`
	ReadTimeout   Duration `yaml:"read_timeout" range:"1s..10m"`
	Console       bool     `yaml:"console"` // whether the console is served beside the API
	// MaxWait bounds ?wait= of a command.
	MaxWait Duration `yaml:"max_wait" range:"1s..10m"`
}

// TokenAPI is the vehicles' listener for token issuing and the JWKS, and nothing else. Its TLS is version 1.3,
// whatever min_version says: before that, a client certificate crosses the network in clear.
type TokenAPI struct {
	Address string     `yaml:"address"`
	TLS     *ServerTLS `yaml:"tls" reload:"yes"`
}

// Auth says how tokens are issued and verified.
type Auth struct {
	KeysDir     Path     `yaml:"keys_dir"` // default {data_dir}/auth
	Alg         string   `yaml:"alg" oneof:"ES256|EdDSA"`
	Issuer      string   `yaml:"issuer"` // default cellgate/{cell.id}
	TokenTTL    Duration `yaml:"token_ttl" range:"1m..8760h" reload:"yes"`
	MaxTokenTTL Duration `yaml:"max_token_ttl" range:"1m..8760h" reload:"yes"` // the longest that may be asked for
	Leeway      Duration `yaml:"leeway" range:"0s..10m" reload:"yes"`
	// CacheEntries bounds the verified tokens remembered so that reconnects are cheap.
	CacheEntries int `yaml:"cache_entries" range:"0..10000000"`
	// ExpiringNotice is how long before the token's end a vehicle is told; 0s: never.
	ExpiringNotice Duration `yaml:"expiring_notice" range:"0s..24h" reload:"yes"`
	// ExpiryJitter spreads the end of connections whose tokens end together; never past the end.
	ExpiryJitter Duration `yaml:"expiry_jitter" range:"0s..10m" reload:"yes"`

	ClientCertificate ClientCertificate `yaml:"client_certificate" reload:"yes"`
	Issuers           []Issuer          `yaml:"issuers" reload:"yes"`
	Roles             map[string]Role   `yaml:"roles" reload:"yes"`
	// VINLists are lists of VINs by name, for limits of commands.
	VINLists   map[string][]string `yaml:"vin_lists" reload:"yes"`
	Revocation Revocation          `yaml:"revocation"`
	Audit      Audit               `yaml:"audit"`
}

// ClientCertificate governs tokens that a vehicle gets by its client certificate.
type ClientCertificate struct {
	// VINFrom is where the certificate holds the VIN: the SAN URI urn:vin:{VIN} or the subject's CN.
	VINFrom string `yaml:"vin_from" oneof:"san|cn"`
	// Bind binds tokens to the certificate that asked for them (cnf.x5t#S256, RFC 8705).
	Bind bool `yaml:"bind"`
	// IssueRate bounds tokens issued per second and gateway, IssueBurst how many at once.
	IssueRate  int `yaml:"issue_rate" range:"1..1000000"`
	IssueBurst int `yaml:"issue_burst" range:"1..1000000"`
}

// Issuer is another authority whose tokens are accepted: one of the two JWKS sources is set.
type Issuer struct {
	Issuer   string   `yaml:"issuer"`
	Audience string   `yaml:"audience"` // default the cell's id
	JWKSFile Path     `yaml:"jwks_file"`
	JWKSURL  string   `yaml:"jwks_url"`
	Refresh  Duration `yaml:"refresh" range:"10s..168h"`
	// Roles are the roles that this issuer's tokens may carry, at least one. A token of another is refused.
	Roles []string `yaml:"roles"`
	// Scopes are what its tokens may grant, none by default. Others that a token carries are left out.
	Scopes []string `yaml:"scopes" oneof:"telemetry:read|command:send|command:read|vehicle:admin|rules:admin|token:issue"`
	// Algorithms are those that its keys may be for.
	Algorithms []string `yaml:"algorithms" oneof:"ES256|EdDSA|RS256|PS256"`
}

// Role grants topics by filters; {vin} and {name} stand for the token's subject. Deny beats allow.
type Role struct {
	Publish       []string `yaml:"publish"`
	Subscribe     []string `yaml:"subscribe"`
	DenyPublish   []string `yaml:"deny_publish"`
	DenySubscribe []string `yaml:"deny_subscribe"`
	// AssignedClientID permits an empty client id, which the gateway then assigns. True unless set.
	AssignedClientID bool `yaml:"assigned_client_id"`
	// CommandNames and CommandVINs limit the commands that Publish grants, as the claims of a token do; empty: all.
	// @name stands for the VINs of auth.vin_lists.
	CommandNames []string `yaml:"command_names"`
	CommandVINs  []string `yaml:"command_vins"`
}

// Revocation says how revocations spread between the gateways of a cell.
type Revocation struct {
	Poll Duration `yaml:"poll" range:"100ms..1h"`
	// RedisKey is the hash that the gateways share; empty: revocations stay in this gateway.
	RedisKey string `yaml:"redis_key"`
}

// Audit is the audit log: JSON lines, rotated by size.
type Audit struct {
	File     Path  `yaml:"file"` // default {data_dir}/audit.log
	MaxBytes Bytes `yaml:"max_bytes" range:"1MiB..10GiB"`
	Keep     int   `yaml:"keep" range:"1..1000"`
}

// Uplink says what an acknowledgement promises and how much may be on its way.
type Uplink struct {
	// Ack is what a PUBACK stands behind: journal (fsync), kafka (acks=all), memory (receipt).
	Ack string `yaml:"ack" oneof:"journal|kafka|memory"`
	// AckByClass overrides Ack for the topic class (v1/{vin}/up/{class}, its first level).
	AckByClass map[string]string `yaml:"ack_by_class" oneof:"journal|kafka|memory"`
	// Window bounds unacknowledged QoS 1 and 2 messages per connection; MQTT 5 clients see it as
	// Receive Maximum.
	Window  int     `yaml:"window" range:"1..65535"`
	Journal Journal `yaml:"journal"`
}

// Journal bounds the durable log.
type Journal struct {
	Dir            Path     `yaml:"dir"` // default {data_dir}/journal
	SegmentBytes   Bytes    `yaml:"segment_bytes" range:"1MiB..4GiB"`
	MaxBytes       Bytes    `yaml:"max_bytes" range:"4MiB..64TiB" reload:"yes"`
	MaxAge         Duration `yaml:"max_age" range:"0s..87600h" reload:"yes"` // 0s: by bytes alone
	CommitInterval Duration `yaml:"commit_interval" range:"0s..1s"`
	BufferBytes    Bytes    `yaml:"buffer_bytes" range:"1MiB..4GiB"`
	// AlarmPercent, DropPercent, RefusePercent and HoldPercent are the watermarks of MaxBytes, or of what the disk
	// has less ReserveBytes where that is less: alarm, QoS 0 dropped, new connections refused, reading stopped.
	AlarmPercent  int `yaml:"alarm_percent" range:"1..100" reload:"yes"`
	DropPercent   int `yaml:"drop_percent" range:"1..100" reload:"yes"`
	RefusePercent int `yaml:"refuse_percent" range:"1..100" reload:"yes"`
	HoldPercent   int `yaml:"hold_percent" range:"1..100" reload:"yes"`
	// ReserveBytes stay free on the disk, so that commands and cursors can still be written.
	ReserveBytes Bytes `yaml:"reserve_bytes" range:"0B..64GiB" reload:"yes"`
}

// Sessions bounds what is kept for each client.
type Sessions struct {
	// MaxExpiry caps the session expiry that a client asks for; MQTT 3.1.1 sessions get it whole.
	MaxExpiry         Duration `yaml:"max_expiry" range:"0s..87600h"`
	MaxQueuedMessages int      `yaml:"max_queued_messages" range:"1..1000000"`
	MaxQueuedBytes    Bytes    `yaml:"max_queued_bytes" range:"1KiB..1GiB"`
	MaxSubscriptions  int      `yaml:"max_subscriptions" range:"1..100000"`
	MaxInflight       int      `yaml:"max_inflight" range:"1..65535"` // beside the client's Receive Maximum
	// WhenFull says which message a full queue drops (and counts): the new one or the oldest.
	WhenFull            string `yaml:"when_full" oneof:"drop_new|drop_old"`
	MaxRetainedMessages int    `yaml:"max_retained_messages" range:"0..10000000"`
	MaxRetainedBytes    Bytes  `yaml:"max_retained_bytes" range:"0B..64GiB"`
	// MaxPerSubject and those after it bound what the clients of one token subject have together: sessions, connected
	// or not, their subscriptions, their queued bytes, and the retained messages that they have published.
	MaxPerSubject              int   `yaml:"max_per_subject" range:"1..1000000"`
	MaxSubscriptionsPerSubject int   `yaml:"max_subscriptions_per_subject" range:"1..1000000"`
	MaxQueuedBytesPerSubject   Bytes `yaml:"max_queued_bytes_per_subject" range:"1KiB..192MiB"`
	MaxRetainedPerSubject      int   `yaml:"max_retained_per_subject" range:"1..10000000"`
}

// Commands bounds and shapes downlink commands.
type Commands struct {
	// SubscribeOnConnect subscribes a vehicle to its cmd topics without a SUBSCRIBE.
	SubscribeOnConnect bool `yaml:"subscribe_on_connect"`
	// EnvelopeFor311 wraps the payload for MQTT 3.1.1 vehicles as {id, name, issued_at, expires_at, payload}.
	EnvelopeFor311 bool     `yaml:"envelope_for_311"`
	DefaultTTL     Duration `yaml:"default_ttl" range:"1s..8760h"`
	MaxTTL         Duration `yaml:"max_ttl" range:"1s..8760h"`
	MaxQueued      int      `yaml:"max_queued" range:"1..100000"` // open commands per VIN; one more is a 429
	// Inflight bounds the commands sent to one vehicle and not acknowledged.
	Inflight   int   `yaml:"inflight" range:"1..65535"`
	MaxPayload Bytes `yaml:"max_payload" range:"1B..16MiB"`
	// KeepFor and KeepMax bound the finished commands that are remembered.
	KeepFor Duration `yaml:"keep_for" range:"1m..87600h"`
	KeepMax int      `yaml:"keep_max" range:"1..100000000"`
	// MaxEvents bounds state changes that wait for Kafka; above it WhenEventsFull decides: refuse new
	// commands or drop (and count) the oldest event.
	MaxEvents      int    `yaml:"max_events" range:"1..100000000"`
	WhenEventsFull string `yaml:"when_events_full" oneof:"refuse|drop_old"`
	// FromKafka takes commands from vehicle.commands. FromKafkaGroup shows tools how far that is.
	FromKafka      bool   `yaml:"from_kafka"`
	FromKafkaGroup string `yaml:"from_kafka_group"`
	// FromKafkaNames and FromKafkaVINs limit what may come that way, where no token does; empty: all.
	FromKafkaNames []string `yaml:"from_kafka_names"`
	FromKafkaVINs  []string `yaml:"from_kafka_vins"`
}

// Limits bound connections and what each may do.
type Limits struct {
	MaxConnections        int   `yaml:"max_connections" range:"1..10000000"`
	ConnectionsPerAddress int   `yaml:"connections_per_address" range:"0..10000000"` // 0: off (carrier NAT)
	ConnectRate           int   `yaml:"connect_rate" range:"0..1000000"`             // per second, before the handshake; 0: off
	MaxPacket             Bytes `yaml:"max_packet" range:"1KiB..256MiB"`
	MaxConnectPacket      Bytes `yaml:"max_connect_packet" range:"512B..1MiB"` // of a client not yet admitted
	// MessagesPerSecond and BytesPerSecond slow one connection down by not reading, 0: off.
	MessagesPerSecond int      `yaml:"messages_per_second" range:"0..10000000"`
	BytesPerSecond    Bytes    `yaml:"bytes_per_second" range:"0B..10GiB"`
	MaxKeepalive      Duration `yaml:"max_keepalive" range:"5s..65535s"`
	// MaxTopicLevels bounds the levels of topics and filters.
	MaxTopicLevels   int      `yaml:"max_topic_levels" range:"8..128"`
	HandshakeTimeout Duration `yaml:"handshake_timeout" range:"100ms..5m"`
	ConnectTimeout   Duration `yaml:"connect_timeout" range:"100ms..5m"`
	WriteTimeout     Duration `yaml:"write_timeout" range:"100ms..5m"`
	// Handshakes bounds the connections that have not finished TLS and CONNECT. At the bound the oldest gives
	// way: it must hold all that a connect storm brings while one slow client shakes hands. 0 is not a value.
	Handshakes int `yaml:"handshakes" range:"1..100000"`
	// OutboundBytes bounds one connection's outgoing queue.
	OutboundBytes Bytes `yaml:"outbound_bytes" range:"4KiB..64MiB"`
}

// Kafka is the cell's Kafka.
type Kafka struct {
	Brokers  []string   `yaml:"brokers"`
	ClientID string     `yaml:"client_id"`
	TLS      *ClientTLS `yaml:"tls"`
	SASL     *SASL      `yaml:"sasl"`
	// Compression of what is produced.
	Compression string   `yaml:"compression" oneof:"none|gzip|snappy|lz4|zstd"`
	Linger      Duration `yaml:"linger" range:"0s..1s"`
	BatchBytes  Bytes    `yaml:"batch_bytes" range:"1KiB..100MiB"`
	// AutoCreateTopics creates missing topics with Partitions and Replication (-1: the brokers' default).
	AutoCreateTopics bool `yaml:"auto_create_topics"`
	Partitions       int  `yaml:"partitions" range:"-1..10000"`
	Replication      int  `yaml:"replication" range:"-1..100"`
	// MissingTopicGrace is how long the cluster may say that a topic does not exist before messages for it go to
	// their rules' error topics.
	MissingTopicGrace Duration `yaml:"missing_topic_grace" range:"1s..7d"`
	Timeout           Duration `yaml:"timeout" range:"100ms..5m"` // of one request
}

// ClientTLS is the client's side of TLS; an empty mapping is TLS with the system's authorities.
type ClientTLS struct {
	CA         Path   `yaml:"ca"`
	Cert       Path   `yaml:"cert"`
	Key        Path   `yaml:"key"`
	ServerName string `yaml:"server_name"`
}

// SASL is the authentication towards Kafka.
type SASL struct {
	Mechanism string `yaml:"mechanism" oneof:"plain|scram-sha-256|scram-sha-512"`
	User      string `yaml:"user"`
	Password  Secret `yaml:"password"`
}

// Presence tells which vehicles are connected.
type Presence struct {
	// Grace is how long vehicles that were connected when the gateway was killed have to return before they are told to be
	// disconnected.
	Grace Duration `yaml:"grace" range:"0s..24h"`
	// Redis keeps the hashes presence:{VIN}, beside the topic vehicle.presence.
	Redis bool `yaml:"redis"`
}

// Redis is the cell's Redis: one server, a cluster, or sentinels with a master's name.
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
	// Replicas is how many replicas of each primary have to have what cell.gateways: several keeps there before it is told;
	// ConfirmTimeout is for how long they are waited for.
	Replicas       int      `yaml:"replicas" range:"0..16"`
	ConfirmTimeout Duration `yaml:"confirm_timeout" range:"10ms..10s"`
}

// Rules says where the rules are and what becomes of what they choose when a sink is away.
type Rules struct {
	Path  Path `yaml:"path"`
	Watch bool `yaml:"watch"` // reload when files change
	// RunTests lets rules go into force only when the tests beside them pass.
	RunTests bool `yaml:"run_tests" reload:"yes"`
	// ErrorTopic takes what a rule without on_error cannot evaluate or deliver.
	ErrorTopic string `yaml:"error_topic"`
	// Workers is on how many goroutines messages are evaluated when there are many; 0 means one for each processor.
	Workers int `yaml:"workers" range:"0..64"`
	// QueueMessages and QueueBytes bound each sink's queue in memory; beyond it decisions go to disk.
	QueueMessages int   `yaml:"queue_messages" range:"16..10000000"`
	QueueBytes    Bytes `yaml:"queue_bytes" range:"64KiB..16GiB"`
	// MaxVINs bounds the VINs of which the rules' operators remember something; past it the one that was changed
	// longest ago is forgotten.
	MaxVINs  int      `yaml:"max_vins" range:"64..100000000"`
	WhenFull WhenFull `yaml:"when_full"`
	// HashKeys are the keys of the rules' function hash.
	HashKeys []HashKey `yaml:"hash_keys"`
}

// HashKey is a key of the rules' function hash, for messages that are received from a time on.
type HashKey struct {
	ID   string `yaml:"id"`   // stands in front of each hash
	From string `yaml:"from"` // RFC 3339; empty: from ever on
	Key  Secret `yaml:"key"`
}

// WhenFull says per sink what happens when its backlog has used the journal up: hold (the disk ladder
// follows) or age_out (the oldest are passed over and counted).
type WhenFull struct {
	Kafka   string `yaml:"kafka" oneof:"hold|age_out"`
	Redis   string `yaml:"redis" oneof:"hold|age_out"`
	Central string `yaml:"central" oneof:"hold|age_out"`
	Webhook string `yaml:"webhook" oneof:"hold|age_out"`
}

// Webhook is an HTTP endpoint that rules may post to.
type Webhook struct {
	URL string `yaml:"url"` // https; http only into PrivateNetworks
	// Keys sign each request (HMAC-SHA256), the newest first: a text, or whsec_ and base64.
	Keys []Secret `yaml:"keys"`
	// Timeout bounds one request, Requests how many are under way at a time.
	Timeout  Duration `yaml:"timeout" range:"100ms..1m"`
	Requests int      `yaml:"requests" range:"1..64"`
	// PrivateNetworks are those of the networks that are not the Internet that the endpoint may be in.
	PrivateNetworks []string   `yaml:"private_networks"`
	TLS             *ClientTLS `yaml:"tls"`
}

// Central is a central unit, to which a sync worker forwards the outbox topics.
type Central struct {
	// Name tells several centres apart, in the API and in metrics.
	Name  string `yaml:"name"`
	Kafka Kafka  `yaml:"kafka" reload:"yes"`
	// Bandwidth is of all lanes together, LaneBandwidth of each, on the wire; 0B/s: unlimited.
	Bandwidth     ByteRate      `yaml:"bandwidth" range:"0B/s..100GiB/s" reload:"yes"`
	LaneBandwidth LaneBandwidth `yaml:"lane_bandwidth" reload:"yes"`
	// Hours replace both at times of the day, the first that has the time.
	Hours []CentralHours `yaml:"hours" reload:"yes"`
	// P2Percent is what p2 has of what p1 and p2 send together while both have something.
	P2Percent int `yaml:"p2_percent" range:"1..99" reload:"yes"`
	// Memory bounds the records that are read and that the centre does not have yet.
	Memory Bytes `yaml:"memory" range:"4MiB..16GiB"`
	// Mode is what a crash may do: have records sent again, or nothing twice.
	Mode  string `yaml:"mode" oneof:"at_least_once|exactly_once"`
	Group string `yaml:"group"` // offsets are committed to it on the cell's Kafka; default cellgate-sync, of others with -{name}
}

// LaneBandwidth is a limit for each lane; 0B/s: none of its own.
type LaneBandwidth struct {
	P0 ByteRate `yaml:"p0" range:"0B/s..100GiB/s"`
	P1 ByteRate `yaml:"p1" range:"0B/s..100GiB/s"`
	P2 ByteRate `yaml:"p2" range:"0B/s..100GiB/s"`
}

// CentralHours are the limits at times of the day: from From until before To, over midnight when To is not later. The
// times are those of the gateway's time zone.
type CentralHours struct {
	From          TimeOfDay     `yaml:"from"`
	To            TimeOfDay     `yaml:"to"`
	Bandwidth     ByteRate      `yaml:"bandwidth" range:"0B/s..100GiB/s"`
	LaneBandwidth LaneBandwidth `yaml:"lane_bandwidth"`
}

// Metrics bounds label values.
type Metrics struct {
	// Classes are the topic classes with a label value of their own; all others count as other.
	Classes []string `yaml:"classes"`
}

// Tracing sends OpenTelemetry traces of messages and commands by OTLP over HTTP.
type Tracing struct {
	Endpoint string `yaml:"endpoint"` // URL of the receiver of traces; empty: off
	// OneIn is of how many messages and commands one is traced, when their sender does not say whether they are; 0: none.
	OneIn   int               `yaml:"one_in" range:"0..1000000000"`
	Headers map[string]Secret `yaml:"headers"` // of each request
	TLS     *ClientTLS        `yaml:"tls"`
}

// Log is the gateway's own log, on stderr.
type Log struct {
	Level  string `yaml:"level" oneof:"debug|info|warn|error" reload:"yes"`
	Format string `yaml:"format" oneof:"json|text"`
}
