package plexy

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// explained adds advice to the error of a certificate that no known authority has signed.
// Verification cannot be turned off.
func explained(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w (if its CA is your own, let SSL_CERT_FILE name the CA's file)", err)
	}
	return err
}
