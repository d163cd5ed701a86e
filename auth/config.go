package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cellgate/broker/shared/complete"
)

// Config configures an Authority.
type Config struct {
	// Dir holds the signing keys, the revocations and the copies of external key sets. It is created, mode 0700, if
	// missing.
	Dir string
	// NoCreate makes Open fail with ErrNoKeys instead of creating the directory or a first key. Tools set it, so that a
	// mistyped directory does not become a new authority.
	NoCreate bool
	// Cell is the cell id, which is the audience of its tokens.
	Cell string
	// Issuer is the claim iss of the cell's tokens.
	Issuer string
	// Algorithm is the algorithm of new keys: ES256 or EdDSA. Existing keys keep theirs.
	Algorithm string
	// TTL is the default lifetime of a token, and the longest for a token issued to a vehicle or by a service over
	// HTTP.
	TTL time.Duration
	// MaxTTL is the longest lifetime of any token, issued or accepted; at least TTL.
	MaxTTL time.Duration
	// Leeway is how far clocks may differ: exp counts that much later, iat and nbf that much earlier.
	Leeway time.Duration `zero:"none"`
	// KeyActivation is how long a new key is published before it signs, so that everyone who follows the key set has it
	// by then.
	KeyActivation time.Duration `zero:"none"`
	// CacheSize bounds the verified tokens in the cache, about 500 B each.
	CacheSize int `zero:"almost none"`
	// MaxRevocations bounds the revocations in force, about 400 B each.
	MaxRevocations int
	// Roles are the configured roles.
	Roles map[string]RolePolicy
	// VINLists are the lists of VINs that command limits can name.
	VINLists map[string][]string
	// External are the external issuers.
	External []ExternalIssuer
	// revocations exchanges revocations with the other gateways of the cell.
	Revocations RevocationStore `zero:"they stay here"`
	// Poll is the interval at which files and the store are checked.
	Poll time.Duration

	// VehicleCAs returns the CAs whose certificates name vehicles, for POST /v1/tokens. It is called for each request,
	// so that they can be reloaded.
	VehicleCAs func() *x509.CertPool `zero:"none is issued by certificate"`
	// VehicleName says which part of a vehicle's certificate holds its VIN.
	VehicleName NameSource
	// BindCertificates binds tokens issued by certificate to the certificate (cnf.x5t#S256).
	BindCertificates bool
	// IssueRate and IssueBurst limit the tokens that POST /v1/tokens issues in total, per second and at once. In
	// addition, each vehicle may ask once a second, each service or operator 100 times.
	IssueRate  float64
	IssueBurst int

	// Audit is the audit log.
	Audit *Audit `zero:"nowhere"`
	// Now is the wall clock.
	Now func() time.Time
	// Trusted returns for how long the wall clock has been trusted without interruption. No revocation or key is
	// deleted because of its date before every token that could have been issued while the clock was in doubt has
	// expired.
	Trusted func() time.Duration `zero:"for ever"`
	Log     *slog.Logger
	Metrics *Metrics
}

// NameSource is the part of a vehicle's certificate that holds its VIN.
type NameSource string

// The sources of a VIN.
const (
	nameFromSAN NameSource = "san" // the URI urn:vin:{VIN} among the subject alternative names
	nameFromCN  NameSource = "cn"  // the subject's common name
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
	check(c.VehicleName == nameFromSAN || c.VehicleName == nameFromCN, "vehicle name source %q is not one of san, cn", c.VehicleName)
	check(c.Poll <= time.Hour, "poll interval %s is over 1h", c.Poll)
	for i := range c.External {
		errs = append(errs, c.External[i].validate())
		check(c.External[i].Issuer != c.Issuer, "external issuer %q is the cell itself", c.Issuer)
	}
	return errors.Join(errs...)
}

// slack is how far ahead of this clock a token's iat may be: the leeway, but at least the second that Issue may add.
func (c *Config) slack() time.Duration { return max(c.Leeway, time.Second) }
