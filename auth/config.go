package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config is what an Authority is made from. Zero values take the defaults that are named.
type Config struct {
	// Dir holds the signing keys, the revocations and the copies of external key sets. It is created, mode
	// 0700, when missing. Required.
	Dir string
	// NoCreate makes Open fail with ErrNoKeys rather than create the directory or a first key; for tools,
	// so that a mistyped directory does not become a new authority.
	NoCreate bool
	// Cell is the cell id, the audience of its tokens. Required.
	Cell string
	// Issuer is iss of the cell's tokens; "cellgate/" and the cell id if empty.
	Issuer string
	// Algorithm is of new keys: ES256 (default) or EdDSA. Keys that exist keep theirs.
	Algorithm string
	// TTL is the life of a token that is asked for without one, and the longest for one issued to a
	// vehicle or by a service over HTTP. 1 hour.
	TTL time.Duration
	// MaxTTL is the longest life of any token, issued or accepted. 90 days, at least TTL.
	MaxTTL time.Duration
	// Leeway is how far clocks may differ: exp counts that much later, iat and nbf that much earlier.
	// 60 seconds; negative for none.
	Leeway time.Duration
	// KeyActivation is how long a new key is published before it signs, so that whoever follows the key set
	// knows it by then. 10 seconds; negative for none.
	KeyActivation time.Duration
	// MaxTokenBytes caps a token before any part of it is looked at. 4 KiB.
	MaxTokenBytes int
	// CacheSize bounds the verified tokens that are remembered. 131,072, about 65 MB when full; negative
	// for almost none.
	CacheSize int
	// MaxRevocations bounds the revocations in force. 100,000, about 40 MB.
	MaxRevocations int
	// Roles are the configuration's roles.
	Roles map[string]RolePolicy
	// VINLists are lists of VINs that limits of commands can name.
	VINLists map[string][]string
	// External are further issuers.
	External []ExternalIssuer
	// Revocations spreads revocations to the other gateways of the cell; nil for none.
	Revocations RevocationStore
	// Poll is how often files and the store are looked at. 400 ms, so that two rounds fit into a second.
	Poll time.Duration

	// VehicleCAs returns the CAs whose certificates name vehicles, for POST /v1/tokens. It is asked on each
	// call, so that they can be reloaded; nil turns issuing by certificate off.
	VehicleCAs func() *x509.CertPool
	// VehicleName says where a vehicle's certificate has its VIN. NameFromSAN.
	VehicleName NameSource
	// BindCertificates binds tokens issued by certificate to it (cnf.x5t#S256).
	BindCertificates bool
	// IssueRate and IssueBurst limit the tokens that POST /v1/tokens issues: 200 a second, 1,000 at once.
	// Besides, each vehicle may ask once a second, each service or operator 100 times.
	IssueRate  float64
	IssueBurst int

	// Audit is where the audit log goes; nil for nowhere.
	Audit *Audit
	// Now is the wall clock; time.Now if nil.
	Now func() time.Time
	// Trusted is for how long nothing has cast doubt upon the wall clock; nil: for ever. Nothing is deleted by
	// calendar time, no revocation and no key, before every token that could have been issued in doubt is past.
	Trusted func() time.Duration
	Log     *slog.Logger
	Metrics *Metrics
}

// NameSource is the part of a vehicle's certificate that holds its VIN.
type NameSource string

// The sources of a VIN.
const (
	NameFromSAN NameSource = "san" // the URI urn:vin:{VIN} among the subject alternative names
	NameFromCN  NameSource = "cn"  // the subject's common name
)

// defaults fills in what is zero and checks the rest.
func (c *Config) defaults() error {
	setDefault(&c.Issuer, "cellgate/"+c.Cell)
	setDefault(&c.Algorithm, ES256)
	setDefault(&c.TTL, time.Hour)
	setDefault(&c.MaxTTL, max(90*24*time.Hour, c.TTL))
	setDefault(&c.Leeway, time.Minute)
	setDefault(&c.KeyActivation, 10*time.Second)
	setDefault(&c.MaxTokenBytes, 4<<10)
	setDefault(&c.CacheSize, 128<<10)
	setDefault(&c.MaxRevocations, 100_000)
	setDefault(&c.Poll, 400*time.Millisecond)
	setDefault(&c.VehicleName, NameFromSAN)
	setDefault(&c.IssueRate, 200)
	setDefault(&c.IssueBurst, 1000)
	c.Leeway, c.KeyActivation = max(0, c.Leeway), max(0, c.KeyActivation)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return c.validate()
}

func (c *Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "auth directory is not set")
	check(c.Cell != "", "cell id is not set")
	check(c.Algorithm == ES256 || c.Algorithm == EdDSA, "algorithm %q is not one of ES256, EdDSA", c.Algorithm)
	check(c.TTL >= time.Second && c.TTL <= c.MaxTTL, "token TTL %s is not between 1s and the maximum %s", c.TTL, c.MaxTTL)
	check(c.IssueRate > 0 && c.IssueBurst > 0, "issue rate and burst must be over 0")
	check(c.Leeway <= 10*time.Minute, "leeway %s is over 10m", c.Leeway)
	check(c.VehicleName == NameFromSAN || c.VehicleName == NameFromCN, "vehicle name source %q is not one of san, cn", c.VehicleName)
	check(c.Poll > 0 && c.Poll <= time.Hour, "poll interval %s is not between 0 and 1h", c.Poll)
	for i := range c.External {
		errs = append(errs, c.External[i].Validate())
		check(c.External[i].Issuer != c.Issuer, "external issuer %q is the cell itself", c.Issuer)
	}
	return errors.Join(errs...)
}

// slack is how far ahead of this clock a token may be dated: by the leeway, and by the second that Issue may add.
func (c *Config) slack() time.Duration { return max(c.Leeway, time.Second) }

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
