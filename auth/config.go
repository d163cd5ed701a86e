package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cellgate/broker/shared/complete"
)

// Config is what an Authority is made from.
type Config struct {
	// Dir holds the signing keys, the revocations and the copies of external key sets. It is created, mode
	// 0700, when missing.
	Dir string
	// NoCreate makes Open fail with ErrNoKeys rather than create the directory or a first key; for tools,
	// so that a mistyped directory does not become a new authority.
	NoCreate bool
	// Cell is the cell id, the audience of its tokens.
	Cell string
	// Issuer is iss of the cell's tokens.
	Issuer string
	// Algorithm is of new keys: ES256 or EdDSA. Keys that exist keep theirs.
	Algorithm string
	// TTL is the life of a token that is asked for without one, and the longest for one issued to a
	// vehicle or by a service over HTTP.
	TTL time.Duration
	// MaxTTL is the longest life of any token, issued or accepted; at least TTL.
	MaxTTL time.Duration
	// Leeway is how far clocks may differ: exp counts that much later, iat and nbf that much earlier.
	Leeway time.Duration `zero:"none"`
	// KeyActivation is how long a new key is published before it signs, so that whoever follows the key set
	// knows it by then.
	KeyActivation time.Duration `zero:"none"`
	// CacheSize bounds the verified tokens that are remembered, about 500 B each.
	CacheSize int `zero:"almost none"`
	// MaxRevocations bounds the revocations in force, about 400 B each.
	MaxRevocations int
	// Roles are the configuration's roles.
	Roles map[string]RolePolicy
	// VINLists are lists of VINs that limits of commands can name.
	VINLists map[string][]string
	// External are further issuers.
	External []ExternalIssuer
	// Revocations spreads revocations to the other gateways of the cell.
	Revocations RevocationStore `zero:"they stay here"`
	// Poll is how often files and the store are looked at.
	Poll time.Duration

	// VehicleCAs returns the CAs whose certificates name vehicles, for POST /v1/tokens. It is asked on each
	// call, so that they can be reloaded.
	VehicleCAs func() *x509.CertPool `zero:"none is issued by certificate"`
	// VehicleName says where a vehicle's certificate has its VIN.
	VehicleName NameSource
	// BindCertificates binds tokens issued by certificate to it (cnf.x5t#S256).
	BindCertificates bool
	// IssueRate and IssueBurst limit the tokens that POST /v1/tokens issues, a second and at once.
	// Besides, each vehicle may ask once a second, each service or operator 100 times.
	IssueRate  float64
	IssueBurst int

	// Audit is where the audit log goes.
	Audit *Audit `zero:"nowhere"`
	// Now is the wall clock.
	Now func() time.Time
	// Trusted is for how long nothing has cast doubt upon the wall clock. Nothing is deleted by
	// calendar time, no revocation and no key, before every token that could have been issued in doubt is past.
	Trusted func() time.Duration `zero:"for ever"`
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

func (c *Config) validate() error {
	errs := []error{complete.Check(*c)}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Algorithm == ES256 || c.Algorithm == EdDSA, "algorithm %q is not one of ES256, EdDSA", c.Algorithm)
	check(c.TTL >= time.Second && c.TTL <= c.MaxTTL, "token TTL %s is not between 1s and the maximum %s", c.TTL, c.MaxTTL)
	check(c.Leeway <= 10*time.Minute, "leeway %s is over 10m", c.Leeway)
	check(c.VehicleName == NameFromSAN || c.VehicleName == NameFromCN, "vehicle name source %q is not one of san, cn", c.VehicleName)
	check(c.Poll <= time.Hour, "poll interval %s is over 1h", c.Poll)
	for i := range c.External {
		errs = append(errs, c.External[i].Validate())
		check(c.External[i].Issuer != c.Issuer, "external issuer %q is the cell itself", c.Issuer)
	}
	return errors.Join(errs...)
}

// slack is how far ahead of this clock a token may be dated: by the leeway, and by the second that Issue may add.
func (c *Config) slack() time.Duration { return max(c.Leeway, time.Second) }
