// Package archive keeps evidence of finished batches in a folder: the report, the batch and its
// history, with a list of SHA-256 sums. linkcancel never deletes an archive.
//
//	DIR/march-20260301T120000.000Z/
//	    report.csv.gz   the outcome of each link
//	    batch.json      the batch with its counts, as batch show --json
//	    history.jsonl   who did what, one entry per line
//	    SHA256SUMS      for sha256sum -c
//
// A folder gets its name when it is complete and on disk. An attempt that broke off leaves a hidden
// folder, which the next one removes.
package archive

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"linkcancel/internal/ledger"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
)

// sumsName is the file with the sums of the others.
const sumsName = "SHA256SUMS"

// names are the files of an archive, in the order of the sums.
var names = [...]string{"batch.json", "history.jsonl", "report.csv.gz"}

// partialPrefix begins the name of a folder that is not complete.
const partialPrefix = ".partial-"

// ErrFolder means that there is no folder to write to.
var ErrFolder = errors.New("cannot write archives")

// CheckFolder returns an error that wraps ErrFolder unless archives can be written to the folder.
func CheckFolder(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a folder")
	}
	var probe string
	if err == nil {
		probe, err = os.MkdirTemp(dir, partialPrefix+"check-")
	}
	if err == nil {
		err = os.Remove(probe)
	}
	if err != nil {
		return fmt.Errorf("%w to %s: %w", ErrFolder, dir, err)
	}
	return nil
}

// Name is the name of a batch's folder. It differs for a later batch of the same id.
func Name(b ledger.Batch) string {
	id := b.ID
	if strings.HasPrefix(id, ".") {
		id = "_" + id // not hidden
	}
	return id + "-" + b.Created.UTC().Format("20060102T150405.000Z")
}

// Write archives a batch that has ended. It returns the name of the folder and the SHA-256 of its
// list of sums, in hex. If the archive is there already, it is checked and left as it is.
func Write(ctx context.Context, l *ledger.Ledger, dir string, b ledger.Batch) (name, sum string, err error) {
	name = Name(b)
	final := filepath.Join(dir, name)
	if _, err := os.Lstat(final); !errors.Is(err, fs.ErrNotExist) {
		return existing(final, name, err)
	}
	if err := removePartial(dir, name); err != nil {
		return "", "", fmt.Errorf("archive batch %s: %w", b.ID, err)
	}
	partial, err := os.MkdirTemp(dir, partialPrefix+name+"-")
	if err != nil {
		return "", "", fmt.Errorf("archive batch %s: %w", b.ID, err)
	}
	defer os.RemoveAll(partial) // there is none after the rename
	sum, err = fill(ctx, l, partial, b)
	if err == nil {
		err = os.Chmod(partial, 0o750)
	}
	if err == nil {
		err = os.Rename(partial, final)
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return "", "", fmt.Errorf("archive batch %s: %w", b.ID, err)
	}
	return name, sum, nil
}

// existing checks an archive that a process wrote that died before it could say so.
func existing(folder, name string, err error) (string, string, error) {
	if err != nil {
		return "", "", fmt.Errorf("archive batch: %w", err)
	}
	a := verifyOne(folder)
	if !a.OK() {
		return "", "", fmt.Errorf("the archive %s is damaged: %s: move it away", folder, a.Problems[0])
	}
	return name, a.Sum, nil
}

// removePartial removes what attempts for the same batch have left.
func removePartial(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), partialPrefix+name+"-") {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill writes the files of a batch, and returns the SHA-256 of the list of their sums.
func fill(ctx context.Context, l *ledger.Ledger, folder string, b ledger.Batch) (sum string, err error) {
	entries, err := l.History(ctx, b.ID)
	if err != nil {
		return "", err
	}
	result, err := status.ReadResult(ctx, l, b)
	if err != nil {
		return "", err
	}
	writers := map[string]func(io.Writer) error{
		"batch.json": func(w io.Writer) error { return encode(w, status.ViewOf(b).With(result)) },
		"history.jsonl": func(w io.Writer) error {
			for _, e := range entries {
				if err := encode(w, status.ViewOfEntry(e)); err != nil {
					return err
				}
			}
			return nil
		},
		"report.csv.gz": func(w io.Writer) error {
			zip := gzip.NewWriter(w)
			if err := report.Write(zip, report.Results(ctx, l, b), report.Options{}); err != nil {
				return err
			}
			return zip.Close()
		},
	}
	var sums bytes.Buffer
	for _, name := range names {
		sum, err := writeFile(filepath.Join(folder, name), writers[name])
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
	}
	sum, err = writeFile(filepath.Join(folder, sumsName), func(w io.Writer) error {
		_, err := w.Write(sums.Bytes())
		return err
	})
	if err == nil {
		err = syncFolder(folder)
	}
	return sum, err
}

// encode writes a JSON document on a line.
func encode(w io.Writer, document any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(document)
}

// writeFile writes a file to disk and returns its SHA-256 in hex. Nobody should change it later.
func writeFile(path string, write func(io.Writer) error) (sum string, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	err = write(io.MultiWriter(file, hash))
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return hex.EncodeToString(hash.Sum(nil)), err
}

// syncFolder writes the names in a folder to disk.
func syncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
