package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Why a store lets nobody in, for errors.Is. It does not pass by waiting: somebody has to change a setting.
var (
	ErrTLS   = errors.New("TLS is refused")
	ErrLogin = errors.New("the login is refused")
)

// Refusal names the cause of an error that comes of TLS, or of a login that Redis does not take, and returns others as they are.
func Refusal(err error) error {
	var certificate *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var alert *net.OpError // what the other side has said of our certificate
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
