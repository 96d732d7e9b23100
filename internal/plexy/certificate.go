package plexy

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// explained adds to the error of a TLS handshake what the user can do about a
// certificate that no known authority has signed. There is no switch that takes
// any certificate.
func explained(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w (if its CA is your own, let SSL_CERT_FILE name the CA's file)", err)
	}
	return err
}
