package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"cellgate/broker/shared/complete"
	files "cellgate/broker/shared/stable"
)

// serverTLS is a listener's TLS. Every handshake uses the current configuration, so that certificates and client
// authorities are replaced without a restart. The session ticket keys belong to server: they rotate daily and survive a
// reload.
type serverTLS struct {
	server  *tls.Config
	current atomic.Pointer[tlsFiles]
}

// tlsFiles is the configuration read from a listener's files.
type tlsFiles struct {
	from   TLS
	config *tls.Config
}

// Errors of a listener's TLS options.
var (
	errClientAuth = errors.New("client_auth is not one of none, optional, required")
	errTLSVersion = errors.New("TLS versions below 1.2 are not served")
)

func newServerTLS(read *tlsFiles) *serverTLS {
	s := new(serverTLS)
	s.current.Store(read)
	s.server = &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.current.Load().config, nil
		},
	}
	return s
}

func readTLS(o TLS) (*tlsFiles, error) {
	if err := complete.Check(o); err != nil {
		return nil, err
	}
	cert, err := files.KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("tls certificate %s: %w", o.Cert, err)
	}
	if o.MinVersion < tls.VersionTLS12 {
		return nil, errTLSVersion
	}
	cfg := &tls.Config{
		MinVersion:   o.MinVersion,
		Certificates: []tls.Certificate{cert},
		NextProtos:   nil,
		// No post-quantum key exchange: it would add half to a handshake's CPU, and 1.2 KB on the wire each way.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
	}
	if err := clientAuth(cfg, &o); err != nil {
		return nil, err
	}
	return &tlsFiles{from: o, config: cfg}, nil
}

func clientAuth(cfg *tls.Config, o *TLS) error {
	switch o.ClientAuth {
	case "none":
		return nil
	case "optional":
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
	case "required":
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		return fmt.Errorf("%w: %q", errClientAuth, o.ClientAuth)
	}
	cas, err := files.CertPool(o.ClientCA)
	if err != nil {
		return fmt.Errorf("tls client_ca: %w", err)
	}
	cfg.ClientCAs = cas
	// Resumption would skip the check against the current client authorities.
	cfg.SessionTicketsDisabled = true
	return nil
}
