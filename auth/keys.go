package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cellgate/broker/shared/stable"
)

// The signature algorithms of the cell's own keys.
const (
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

// ErrNoKeys means that the directory has no signing key and none may be made.
var ErrNoKeys = errors.New("no signing key")

// keyFileVersion is the format of key files. A file of another version is refused, never rewritten.
const keyFileVersion = 1

// keyFile is the content of key-{kid}.json, mode 0600. Everything about a key is in its one file, so every change is
// one atomic rename.
type keyFile struct {
	Version int       `json:"version"`
	KID     string    `json:"kid"` // RFC 7638 thumbprint of the public key
	Alg     string    `json:"alg"`
	Created time.Time `json:"created"`
	// SignFrom is when the key starts signing. It is a little after Created, so that every process on the directory has
	// read the key before it sees a token signed with it.
	SignFrom time.Time `json:"sign_from"`
	// VerifyUntil is when the key is retired; absent for the newest key.
	VerifyUntil *time.Time `json:"verify_until,omitempty"`
	PrivateKey  string     `json:"private_key"` // PKCS #8 in PEM
}

type signKey struct {
	file    keyFile
	private crypto.Signer
	verify  *verifyKey
}

// verifyKey is a public key and the only algorithm that it may verify.
type verifyKey struct {
	kid    string
	alg    string
	method jwt.SigningMethod
	public crypto.PublicKey
	issuer *issuer
}

// heldKey is a verifyKey with its end. The end is separate from the key: a rotation sets the end of the old key without
// invalidating its entries in the token cache.
type heldKey struct {
	*verifyKey
	// notAfter is when the key is retired; zero means never.
	notAfter time.Time
}

func (k heldKey) retired(now time.Time) bool {
	return !k.notAfter.IsZero() && now.After(k.notAfter)
}

// keyring is an immutable snapshot of all keys in force.
type keyring struct {
	own   []*signKey // oldest first by SignFrom
	byKID map[string]heldKey
}

// signer returns the key to sign with: the newest whose SignFrom has passed, or the oldest if the clock is behind all
// of them.
func (r *keyring) signer(now time.Time) *signKey {
	for i := len(r.own) - 1; i >= 0; i-- {
		if !now.Before(r.own[i].file.SignFrom) {
			return r.own[i]
		}
	}
	return r.own[0]
}

func newSignKey(alg string, created, signFrom time.Time) (*signKey, error) {
	var private crypto.Signer
	var err error
	switch alg {
	case ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("algorithm %q is not one of ES256, EdDSA", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	kid, err := thumbprint(private.Public())
	if err != nil {
		return nil, err
	}
	k := &signKey{private: private, file: keyFile{
		Version: keyFileVersion, KID: kid, Alg: alg,
		Created: created.UTC().Truncate(time.Second), SignFrom: signFrom.UTC().Truncate(time.Second),
		PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}}
	return k, nil
}

func keyPath(dir, kid string) string { return filepath.Join(dir, "key-"+kid+".json") }

// keyFiles returns the paths of a directory's keys, none if there is no directory. An unreadable directory is an error;
// filepath.Glob would report it as empty.
func keyFiles(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "key-") && strings.HasSuffix(e.Name(), ".json") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// save writes the key's file atomically and durably.
func (k *signKey) save(dir string) error {
	b, err := json.MarshalIndent(&k.file, "", "  ") //nolint:gosec // the key is the point: the file is 0600
	if err != nil {
		return fmt.Errorf("encode key file: %w", err)
	}
	return writeFileAtomic(keyPath(dir, k.file.KID), append(b, '\n'))
}

// loadKeys reads every key file of the directory. One bad file fails the whole load: a gateway that silently lost a key
// would refuse the vehicles whose tokens it signed.
func loadKeys(dir string, own *issuer) ([]*signKey, error) {
	names, err := keyFiles(dir)
	if err != nil {
		return nil, err
	}
	keys := make([]*signKey, 0, len(names))
	for _, name := range names {
		k, err := loadKey(name, own)
		if errors.Is(err, fs.ErrNotExist) {
			continue // pruned by another process since the listing
		}
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", name, err)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b *signKey) int {
		if c := a.file.SignFrom.Compare(b.file.SignFrom); c != 0 {
			return c
		}
		return strings.Compare(a.file.KID, b.file.KID)
	})
	return keys, nil
}

// stampKeys returns a value that changes whenever a key file is added, replaced or removed. Each of these is a rename
// or an unlink of a whole file.
func stampKeys(dir string) (string, error) {
	names, err := keyFiles(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range names {
		info, err := os.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %d %o\n", name, info.Size(), info.ModTime().UnixNano(), info.Mode())
	}
	return b.String(), nil
}

func loadKey(name string, own *issuer) (*signKey, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("mode %04o lets others read it: chmod 600", info.Mode().Perm())
	}
	b, err := stable.ReadFile(name)
	if err != nil {
		return nil, err
	}
	k := &signKey{}
	if err := json.Unmarshal(b, &k.file); err != nil {
		// An error of encoding/json can quote the file, which holds the private key.
		return nil, errors.New("not a key file: broken JSON")
	}
	if k.file.Version != keyFileVersion {
		return nil, fmt.Errorf("format version %d, this build reads %d", k.file.Version, keyFileVersion)
	}
	return k, k.parse(own)
}

// parse fills private and verify from the file and checks that they belong together.
func (k *signKey) parse(own *issuer) error {
	block, _ := pem.Decode([]byte(k.file.PrivateKey))
	if block == nil {
		return errors.New("private_key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return errors.New("private_key is not PKCS #8")
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return errors.New("private_key cannot sign")
	}
	k.private = private
	if k.verify, err = newVerifyKey(k.file.KID, k.file.Alg, private.Public(), own); err != nil {
		return err
	}
	if want, err := thumbprint(private.Public()); err != nil || want != k.file.KID {
		return errors.New("kid is not the key's thumbprint")
	}
	return nil
}

// held returns the key's public part with its end.
func (k *signKey) held() heldKey {
	h := heldKey{verifyKey: k.verify}
	if k.file.VerifyUntil != nil {
		h.notAfter = *k.file.VerifyUntil
	}
	return h
}

// keepVerified reuses the public parts of keys that were loaded before: a kid is the key's thumbprint, so the same kid
// and algorithm mean the same key.
func keepVerified(keys, before []*signKey) {
	for _, k := range keys {
		for _, old := range before {
			if old.file.KID == k.file.KID && old.file.Alg == k.file.Alg {
				k.verify = old.verify
			}
		}
	}
}

// equal reports whether two loads of a key have the same result, so that a reload need not replace it.
func (k *signKey) equal(o *signKey) bool {
	return k.file.KID == o.file.KID && k.file.SignFrom.Equal(o.file.SignFrom) && k.held().notAfter.Equal(o.held().notAfter)
}
