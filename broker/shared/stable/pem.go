package stable

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// errCutShort means that a PEM file ends or breaks off within a block. crypto/tls and crypto/x509 skip such a block: a
// chain without its last certificates, or fewer authorities than intended, would take effect.
var errCutShort = errors.New("a PEM block is cut short: the file is not whole")

// KeyPair is tls.LoadX509KeyPair for complete files only.
func KeyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := read(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := read(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// read reads a complete PEM file.
func read(file string) ([]byte, error) {
	b, err := ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := whole(b); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

// errNoCertificate means that a file of authorities has no certificate.
var errNoCertificate = errors.New("no certificate")

// CertPool reads a complete PEM file of authorities.
func CertPool(file string) (*x509.CertPool, error) {
	b, err := read(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%w in %s", errNoCertificate, file)
	}
	return pool, nil
}

// whole returns errCutShort unless every block that begins is also read.
func whole(b []byte) error {
	begun := bytes.Count(b, []byte("-----BEGIN "))
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		begun--
	}
	if begun > 0 {
		return errCutShort
	}
	return nil
}
