package broker

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"linkcancel/internal/clean"
)

// ReadPasswordFile reads a password from a file that contains nothing else. The warning
// says that others can read the file, or is "".
func ReadPasswordFile(path string) (password, warning string, err error) {
	password, warning, err = clean.ReadSecretFile(path)
	switch {
	case err != nil:
		return "", "", err
	case password == "":
		return "", "", fmt.Errorf("%s is empty", path)
	case strings.ContainsFunc(password, unicode.IsControl):
		return "", "", errors.New(path + " has more than one line or a control character: keep only the password itself")
	case warning != "":
		warning = "the password file " + warning
	}
	return password, warning, nil
}
