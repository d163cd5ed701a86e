package stable

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"cellgate/test/check"
)

// pair creates the PEM of a certificate and its key.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check.OK(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	check.OK(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	check.OK(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// A truncated chain or list of authorities is an error wherever it is cut: otherwise its beginning would take effect.
func TestFilesThatAreCutShortAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leaf, key := pair(t, 1)
	issuer, _ := pair(t, 2)
	chain := append(append([]byte("# the leaf\n"), leaf...), issuer...)
	certFile, keyFile := filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key")
	write := func(file string, b []byte) {
		check.OK(t, os.WriteFile(file, b, 0o600))
	}
	write(keyFile, key)
	write(certFile, chain)
	if pair, err := KeyPair(certFile, keyFile); err != nil || len(pair.Certificate) != 2 {
		t.Errorf("%d certificates, %v", len(pair.Certificate), err)
	}
	if pool, err := CertPool(certFile); err != nil || pool == nil {
		t.Error(err)
	}
	first := len(chain) - len(issuer)
	for cut := first + len("-----BEGIN "); cut < len(chain)-1; cut += 7 {
		write(certFile, chain[:cut])
		if _, err := KeyPair(certFile, keyFile); !errors.Is(err, errCutShort) {
			t.Fatalf("cut at %d: pair %v", cut, err)
		}
		if _, err := CertPool(certFile); !errors.Is(err, errCutShort) {
			t.Fatalf("cut at %d: pool %v", cut, err)
		}
	}
	write(certFile, []byte("# none\n"))
	if _, err := CertPool(certFile); !errors.Is(err, errNoCertificate) {
		t.Errorf("without a certificate: %v", err)
	}
	write(certFile, nil)
	if _, err := KeyPair(certFile, keyFile); err == nil {
		t.Error("an empty certificate")
	}
	if _, err := CertPool(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
