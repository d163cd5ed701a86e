package app

import (
	"time"

	"cellgate/broker/command"
	"cellgate/broker/shared/remote"
	"cellgate/broker/wal"
	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/sink"
	"cellgate/rules/workbench"
)

// Answers of the operators' calls of the HTTP API. The command line uses the same types, so its pages cannot fall
// behind the API. openapi.yaml describes them to other clients.

// LedgerAnswer is GET /v1/ledger.
type LedgerAnswer struct {
	Sinks []sink.SinkLedger `json:"sinks"`
}

// Status is GET /v1/status.
type Status struct {
	Cell   string `json:"cell"`
	Region string `json:"region,omitempty"`
	Node   string `json:"node"`
	Build  Build  `json:"build"`
	Phase  string `json:"phase"`
	// Ready and Reason are the status and the reason of /readyz.
	Ready        string          `json:"ready"`
	Reason       string          `json:"reason,omitempty"`
	Restart      []string        `json:"restart,omitempty"` // keys whose values in the file take effect with a restart
	Started      time.Time       `json:"started"`
	Uptime       string          `json:"uptime"`
	Connections  int             `json:"connections"`
	Journal      JournalStatus   `json:"journal"`
	Rules        RulesStatus     `json:"rules"`
	Sinks        []SinkLoad      `json:"sinks"`
	Parked       []sink.Parked   `json:"parked,omitempty"` // destinations that take nothing, and what waits for them
	Dependencies []remote.Health `json:"dependencies"`
	Commands     command.Stat    `json:"commands"`
	Lanes        []LaneLoad      `json:"lanes,omitempty"`    // to the centre
	Gateways     []GatewayStatus `json:"gateways,omitempty"` // in a cell with several
}

// JournalStatus says what the journal holds, and which consumers still need it.
type JournalStatus struct {
	Epoch       uint64            `json:"epoch"`
	First       uint64            `json:"first"`   // sequence of the oldest record kept
	Durable     uint64            `json:"durable"` // sequence of the newest record on disk
	Bytes       int64             `json:"bytes"`
	MaxBytes    int64             `json:"max_bytes"`
	Oldest      time.Time         `json:"oldest,omitzero"`
	Needed      map[string]uint64 `json:"needed,omitempty"` // by consumer, the oldest sequence that it still needs
	Full        string            `json:"full,omitempty"`   // why nothing can be accepted
	DroppedQoS0 uint64            `json:"dropped_qos0"`     // for lack of room, since the start
	Corruptions []wal.Corruption  `json:"corruptions,omitempty"`
}

// RulesStatus describes the rule set in force; when that is not the one in the files, it says why.
type RulesStatus struct {
	Hash  string    `json:"hash"`
	Rules int       `json:"rules"`
	Since time.Time `json:"since"`
	Error string    `json:"error,omitempty"`
}

// RuleSet is GET /v1/rules: the rule set in force.
type RuleSet struct {
	Hash   string          `json:"hash"`
	Since  time.Time       `json:"since"`
	Path   string          `json:"path"`
	Files  []string        `json:"files"`
	Rules  []lang.RuleInfo `json:"rules"`
	Error  string          `json:"error,omitempty"` // why the files are not what runs
	Broken bool            `json:"files_not_in_force"`
	// Warnings about the rules in force.
	Warnings doc.Diagnostics `json:"warnings"`
	// Applied reports whether the rule set came over the API, instead of the files.
	Applied bool `json:"applied"`
	// Held lists the rules that send nothing because too many of their messages were errors.
	Held []HeldRule `json:"held"`
	// Counts has, by rule, the outcomes of the messages on its topics since the start of the gateway.
	Counts map[string]RuleCount `json:"counts"`
}

// RuleCount counts the messages on a rule's topics by outcome.
type RuleCount struct {
	Matched  uint64 `json:"matched"`
	Filtered uint64 `json:"filtered"`
	Missing  uint64 `json:"missing"` // lack a field that the condition names
	Errors   uint64 `json:"errors"`
}

// RuleHistory is GET /v1/rules/history, newest first.
type RuleHistory struct {
	Sets []RanSet `json:"sets"`
}

// RanSet is a rule set that was put in force.
type RanSet struct {
	Hash    string    `json:"hash"`
	At      time.Time `json:"at"`
	Applied bool      `json:"applied"` // over the API, instead of the files
	InForce bool      `json:"in_force"`
}

// RanRules is GET /v1/rules/history/{hash}: a rule set that ran, and what would change if it were put in force again.
type RanRules struct {
	RanSet
	Files map[string]string `json:"files"`
	// Diff goes from the set in force to this one. Error says why this one cannot be put in force.
	Diff  *workbench.DiffReport `json:"diff,omitempty"`
	Error string                `json:"error,omitempty"`
}

// HeldRule is a rule held by its limit.
type HeldRule struct {
	Rule     string    `json:"rule"`
	Limit    string    `json:"limit"`
	Since    time.Time `json:"since"`
	Errors   uint64    `json:"errors"`
	Messages uint64    `json:"messages"`
}

// SinkLoad says how far a sink lags behind the journal.
type SinkLoad struct {
	Sink       string  `json:"sink"`
	LagRecords uint64  `json:"lag_records"`
	LagSeconds float64 `json:"lag_seconds"`
	LogBytes   int64   `json:"log_bytes"`
	Live       bool    `json:"live"` // fed as decisions are made, not from the decision log
}

// LaneLoad says how far a lane to the centre lags. The lag is null while it is not known.
type LaneLoad struct {
	Centre     string   `json:"centre"`
	Lane       string   `json:"lane"`
	Known      bool     `json:"known"` // whether the lag is known
	LagRecords *int64   `json:"lag_records"`
	LagBytes   *int64   `json:"lag_bytes"` // estimate, before compression
	LagSeconds *float64 `json:"lag_seconds"`
	// HeadroomSeconds is the time until retention removes the oldest waiting record. DrainSeconds is the time until
	// nothing waits, at the current rate. Each is null when unknown or never.
	HeadroomSeconds *float64 `json:"headroom_seconds"`
	DrainSeconds    *float64 `json:"drain_seconds"`
	Rate            float64  `json:"records_per_second"` // forwarded
	InFlight        int      `json:"in_flight"`          // records read that the centre does not have yet
	MemoryBytes     int      `json:"memory_bytes"`       // used by records in flight
	RawBytes        uint64   `json:"raw_bytes"`          // forwarded since the worker started, before compression
	WireBytes       uint64   `json:"wire_bytes"`         // sent since the worker started
	// Retries counts the requests to the centre that were sent again since the worker started, by reason.
	Retries map[string]uint64 `json:"retries"`
	Paused  bool              `json:"paused"`         // by an operator
	Gaps    []LaneGap         `json:"gaps,omitempty"` // where the lane has stopped until an operator skips them
}

// LaneGap is a partition of the outbox that lacks the next record to forward.
type LaneGap struct {
	Centre    string    `json:"centre"`
	Lane      string    `json:"lane"`
	Topic     string    `json:"topic"`
	Partition int       `json:"partition"`
	From      int64     `json:"from"`           // first missing offset
	Next      int64     `json:"next"`           // first offset that exists
	Records   *int64    `json:"records"`        // number of missing records; null when unknown
	Recreated bool      `json:"anew,omitempty"` // the topic was recreated or truncated: everything from Next on is forwarded
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason"`
}

// SkippedGap is a gap that an operator skipped.
type SkippedGap struct {
	LaneGap
	At     time.Time `json:"at"`
	By     string    `json:"by"` // role and name
	Issuer string    `json:"by_iss,omitempty"`
	// Done is false while a skip is under way or was cut short: the lane may still stand at the gap.
	Done bool `json:"done"`
}

// PausedLane is a lane paused by an operator.
type PausedLane struct {
	Centre string    `json:"centre"`
	Lane   string    `json:"lane"`
	At     time.Time `json:"at"`
	By     string    `json:"by"` // role and name
}

// SyncAnswer is GET /v1/sync, and the answer of pausing and resuming.
type SyncAnswer struct {
	Lanes   []LaneLoad   `json:"lanes"`
	Paused  []PausedLane `json:"paused,omitempty"`
	Skipped []SkippedGap `json:"skipped"` // newest first
}

// SkipAnswer is POST /v1/sync/skip.
type SkipAnswer struct {
	Skipped []SkippedGap `json:"skipped"`
}

// DrainStatus is the answer of /v1/drain. Rate and Endpoint describe a drain under way; Since and SentAway the last
// one.
type DrainStatus struct {
	Draining  bool      `json:"draining"`
	Rate      float64   `json:"rate,omitempty"` // vehicles per second
	Endpoint  string    `json:"endpoint,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	SentAway  int       `json:"sent_away"`
	Connected int       `json:"connected"` // clients of any role
	Empty     bool      `json:"empty"`     // of a drain under way: no vehicle is connected
}

// VehiclePage is GET /v1/vehicles.
type VehiclePage struct {
	Vehicles []Vehicle `json:"vehicles"`
	Next     string    `json:"next,omitempty"` // the cursor of the next page
	// Missing lists the gateways of the cell that did not answer in time. What only they know is not in the page.
	Missing []string `json:"missing,omitempty"`
}

// Vehicle is a vehicle's session. GET /v1/vehicles/{vin} returns all of it; a list leaves out SessionExpiry and
// Subscriptions.
type Vehicle struct {
	VIN   string `json:"vin"`
	Node  string `json:"node,omitempty"` // in a cell of several gateways, the one that has or last had the vehicle
	Ready bool   `json:"ready"`          // for commands
	Held
	Subscriptions []Subscription `json:"subscriptions,omitempty"`
	Presence      *LastPresence  `json:"presence,omitempty"`
	// State is the hash veh:{VIN} in Redis, with ?state=true. StateError says why it is not known.
	State      map[string]string `json:"state,omitempty"`
	StateError string            `json:"state_error,omitempty"`
}

// Held describes what the gateway keeps for a client.
type Held struct {
	Connected     bool      `json:"connected"`
	MQTT          string    `json:"mqtt,omitempty"`
	Since         time.Time `json:"since"`
	TokenEnds     time.Time `json:"token_ends,omitzero"`
	SessionEnds   time.Time `json:"session_ends,omitzero"` // when a session that is not connected ends
	SessionExpiry string    `json:"session_expiry,omitempty"`
	Queued        int       `json:"queued"`
	Inflight      int       `json:"inflight"`
	QueuedBytes   int64     `json:"queued_bytes"`
	Will          bool      `json:"will,omitempty"`
}

// LastPresence is the last event of vehicle.presence of a vehicle, published or about to be. After a kill of the
// gateway, a vehicle that was connected stays connected, or ready, until it returns or presence.grace has passed.
type LastPresence struct {
	Event  string `json:"event"`
	Epoch  int64  `json:"epoch,omitempty"` // 0 for a vehicle whose end was published some time ago
	Seq    uint64 `json:"seq,omitempty"`
	At     string `json:"at,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Subscription is a subscription of a vehicle.
type Subscription struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos"`
}

// Capacity is GET /v1/capacity: use and bounds, for scalers.
type Capacity struct {
	Connections Share      `json:"connections"`
	Journal     Share      `json:"journal_bytes"`
	Sinks       []SinkLoad `json:"sinks"`
	Commands    int        `json:"commands_open"`
	Goroutines  int        `json:"goroutines"`
	HeapBytes   uint64     `json:"heap_bytes"`
	CPUs        int        `json:"cpus"`
}

// Share is the used part of a bound.
type Share struct {
	Used  int64   `json:"used"`
	Max   int64   `json:"max"`
	Ratio float64 `json:"ratio"`
}
