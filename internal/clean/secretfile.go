package clean

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// MaxSecretFile limits the file of a secret in bytes, in case the path is wrong.
const MaxSecretFile = 4 << 10

// ReadSecretFile reads a file that contains nothing but a secret. It removes white space
// around the secret and a byte-order mark, which editors on Windows add. The warning says
// that others can read the file, or is "". Neither it nor the error shows the secret.
func ReadSecretFile(path string) (secret, warning string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", "", err
	}
	if info.IsDir() {
		return "", "", fmt.Errorf("%s is a directory: give the path of a file in it", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, MaxSecretFile+1))
	if err != nil {
		return "", "", err
	}
	if len(content) > MaxSecretFile {
		return "", "", fmt.Errorf("%s is longer than %d bytes: is it the right file?", path, MaxSecretFile)
	}
	// Windows has no such modes, and a pipe has no lasting content. Mode 0440 is how
	// Kubernetes mounts a secret for a group and systemd a credential for a user.
	mode := info.Mode()
	if runtime.GOOS != "windows" && mode.IsRegular() && mode.Perm()&0o077 != 0 && mode.Perm() != 0o440 {
		warning = fmt.Sprintf("%s can be used by others (mode %04o): chmod 600 it", path, mode.Perm())
	}
	return strings.TrimSpace(strings.TrimPrefix(string(content), "\uFEFF")), warning, nil
}
