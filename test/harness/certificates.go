package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cellgate/test/check"
)

// WriteCertificates writes ca.crt, server.crt and server.key (ECDSA P-256, for localhost) to dir.
func WriteCertificates(t testing.TB, dir string) {
	t.Helper()
	check.OK(t, os.MkdirAll(dir, 0o750))
	caKey, ca := certificate(t, "cellgate test CA", nil, nil)
	key, leaf := certificate(t, "localhost", ca, caKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check.OK(t, err)
	writePEM(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", ca.Raw)
	writePEM(t, filepath.Join(dir, "server.crt"), "CERTIFICATE", leaf.Raw)
	writePEM(t, filepath.Join(dir, "server.key"), "PRIVATE KEY", keyDER)
}

// Authority signs client certificates of vehicles.
type Authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewAuthority returns a new authority.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	key, cert := certificate(t, "vehicle test CA", nil, nil)
	return &Authority{key, cert}
}

func (a *Authority) write(t testing.TB, path string) {
	t.Helper()
	writePEM(t, path, "CERTIFICATE", a.cert.Raw)
}

// Vehicle returns a client certificate with the VIN as common name and, if san is set, the URI urn:vin:{VIN}.
func (a *Authority) Vehicle(t testing.TB, vin string, san bool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check.OK(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: vin},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if san {
		template.URIs = []*url.URL{{Scheme: "urn", Opaque: "vin:" + vin}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	check.OK(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// certificate returns a certificate signed by parent, or a self-signed authority if parent is nil.
func certificate(t testing.TB, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check.OK(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check.OK(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	check.OK(t, err)
	cert, err := x509.ParseCertificate(der)
	check.OK(t, err)
	return key, cert
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	check.OK(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
