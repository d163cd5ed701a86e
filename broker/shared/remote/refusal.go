package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Causes of refused access, for errors.Is. They are permanent until a setting is changed.
var (
	ErrTLS   = errors.New("TLS is refused")
	ErrLogin = errors.New("the login is refused")
)

// refusal wraps an error of TLS, or of a rejected Redis login, with its cause, and returns other errors unchanged.
func refusal(err error) error {
	var certificate *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var alert *net.OpError // the peer's response to our certificate
	switch text := err.Error(); {
	case errors.Is(err, ErrTLS), errors.Is(err, ErrLogin):
		return err
	case errors.As(err, &certificate), errors.As(err, &unknown), errors.As(err, &record), errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("%w: %w", ErrTLS, err)
	case strings.HasPrefix(text, "NOAUTH"), strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOPERM"), strings.HasPrefix(text, "ERR AUTH"):
		return fmt.Errorf("%w: %w", ErrLogin, err)
	}
	return err
}
