package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Archive is the result of the check of one archive.
type Archive struct {
	Name     string
	Sum      string   // SHA-256 of its list of sums, which the history of the batch has too
	Problems []string // none: every byte is as it was written
}

// OK reports whether every byte is as it was written.
func (a Archive) OK() bool { return len(a.Problems) == 0 }

// ErrNone means that a folder has no archives.
var ErrNone = errors.New("there are no archives in the folder")

// Verify checks all archives in a folder, or the one that the folder is, in order of their names.
// The error wraps ErrNone if there are none.
func Verify(dir string) ([]Archive, error) {
	if _, err := os.Stat(filepath.Join(dir, sumsName)); err == nil {
		return []Archive{verifyOne(dir)}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("verify archives: %w", err)
	}
	var found []Archive
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), partialPrefix) && e.Name() != "lost+found" {
			found = append(found, verifyOne(filepath.Join(dir, e.Name())))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("verify archives in %s: %w", dir, ErrNone)
	}
	return found, nil
}

// sumLine is a line of the list of sums.
var sumLine = regexp.MustCompile(`^([0-9a-f]{64})  ([a-z0-9.]+)$`)

func verifyOne(folder string) Archive {
	a := Archive{Name: filepath.Base(folder)}
	problem := func(format string, args ...any) { a.Problems = append(a.Problems, fmt.Sprintf(format, args...)) }
	entries, err := os.ReadDir(folder)
	if err != nil {
		problem("%s", why(err))
		return a
	}
	list, err := os.ReadFile(filepath.Join(folder, sumsName))
	if err != nil {
		problem("%s: %s", sumsName, why(err))
		return a
	}
	whole := sha256.Sum256(list)
	a.Sum = hex.EncodeToString(whole[:])
	sums := map[string]string{}
	lines := strings.SplitAfter(string(list), "\n")
	for i, line := range lines[:len(lines)-1] {
		found := sumLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if found == nil {
			problem("%s: line %d is not a sum", sumsName, i+1)
			continue
		}
		sums[found[2]] = found[1]
	}
	if lines[len(lines)-1] != "" {
		problem("%s: the last line is cut off", sumsName)
	}
	for _, name := range names {
		switch got, err := fileSum(filepath.Join(folder, name)); {
		case err != nil:
			problem("%s: %s", name, why(err))
		case sums[name] == "":
			problem("%s: %s does not have its sum", name, sumsName)
		case got != sums[name]:
			problem("%s: it was changed", name)
		}
	}
	for _, e := range entries {
		if e.Name() != sumsName && !slices.Contains(names[:], e.Name()) {
			problem("%s: it does not belong to the archive", e.Name())
		}
	}
	return a
}

// why is the reason of an error of a file, without the path.
func why(err error) string {
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it is missing"
	case errors.As(err, &path):
		return path.Err.Error()
	}
	return err.Error()
}

// fileSum returns the SHA-256 of a file in hex.
func fileSum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
