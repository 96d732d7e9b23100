package broker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"unicode"
)

// maxPasswordFile limits a password file in bytes, in case the path is wrong.
const maxPasswordFile = 4 << 10

// ReadPasswordFile reads a password from a file that contains nothing else, and trims it.
// The warning says that others can read the file, or is "". Neither it nor the error shows
// the password.
func ReadPasswordFile(path string) (password, warning string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", "", err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxPasswordFile+1))
	if err != nil {
		return "", "", err
	}
	password = strings.TrimSpace(string(content))
	switch mode := info.Mode(); {
	case len(content) > maxPasswordFile:
		return "", "", fmt.Errorf("%s is longer than %d bytes: is it the right file?", path, maxPasswordFile)
	case password == "":
		return "", "", fmt.Errorf("%s is empty", path)
	case strings.ContainsFunc(password, unicode.IsControl):
		return "", "", errors.New(path + " has more than one line or a control character: keep only the password itself")
	// See plexy.Key.Warning.
	case runtime.GOOS != "windows" && mode.IsRegular() && mode.Perm()&0o077 != 0 && mode.Perm() != 0o440:
		warning = fmt.Sprintf("the password file %s can be used by others (mode %04o): chmod 600 it", path, mode.Perm())
	}
	return password, warning, nil
}
