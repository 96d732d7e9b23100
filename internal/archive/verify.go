package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
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
		switch {
		case strings.HasPrefix(e.Name(), partialPrefix) || e.Name() == "lost+found":
		case !e.IsDir():
			found = append(found, Archive{Name: e.Name(), Problems: []string{"it is not a folder"}})
		default:
			found = append(found, verifyOne(filepath.Join(dir, e.Name())))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("verify archives in %s: %w", dir, ErrNone)
	}
	return found, nil
}

// Where is what the history of a batch says about its archive.
func Where(name, sum string) string { return name + ", SHA-256 " + sum }

// Compare compares archives with what the histories of their batches say: it adds problems of
// archives that were replaced, and the archives that are missing.
func Compare(found []Archive, entries []history.Entry) []Archive {
	sums := map[string]string{}
	for _, e := range entries {
		if name, sum, ok := strings.Cut(e.Detail, ", SHA-256 "); ok && e.Action == history.Archive {
			sums[name] = sum
		}
	}
	for i := range found {
		a := &found[i]
		if want := sums[a.Name]; want != "" && want != a.Sum {
			a.Problems = append(a.Problems, "SHA256SUMS: the history of the batch has another SHA-256 for it")
		}
		delete(sums, a.Name)
	}
	for name := range sums {
		found = append(found, Archive{Name: name, Problems: []string{"it is missing: the history of the batch has it"}})
	}
	slices.SortFunc(found, func(a, b Archive) int { return strings.Compare(a.Name, b.Name) })
	return found
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
	list, err := readFile(filepath.Join(folder, sumsName))
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
	if batch, err := readFile(filepath.Join(folder, "batch.json")); err == nil {
		if name, err := nameOf(batch); err != nil || name != a.Name {
			problem("batch.json: it is of another batch than the name of the folder says")
		}
	}
	for _, e := range entries {
		if e.Name() != sumsName && !slices.Contains(names[:], e.Name()) {
			problem("%s: it does not belong to the archive", e.Name())
		}
	}
	return a
}

// nameOf is the name of the folder of the batch in batch.json.
func nameOf(text []byte) (string, error) {
	var b struct {
		Batch   string    `json:"batch"`
		Created time.Time `json:"created"`
	}
	err := json.Unmarshal(text, &b)
	return Name(ledger.Batch{ID: b.Batch, Created: b.Created}), err
}

// errNotRegular is about links, pipes and the like: what they lead to is not in the archive.
var errNotRegular = errors.New("it is not a regular file")

// open opens a regular file.
func open(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

func readFile(path string) ([]byte, error) {
	file, err := open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
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
	file, err := open(path)
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
