package broker

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"linkcancel/internal/clean"
)

// ReadPasswordFile reads a file that contains a password. The warning is about its mode.
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
