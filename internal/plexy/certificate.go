package plexy

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// explained adds advice to the error of an untrusted certificate.
func explained(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w (if its CA is your own, let SSL_CERT_FILE name the CA's file)", err)
	}
	return err
}
