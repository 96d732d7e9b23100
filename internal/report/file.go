package report

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrExists means that the file exists and must not be overwritten.
var ErrExists = errors.New("the file exists and is never overwritten: move it away or name another")

// errNotRegular protects folders that others may write into, where a special file may be a
// trap: a symbolic link to another file of the user, or a pipe that somebody reads.
var errNotRegular = errors.New("it is a symbolic link, or not a regular file: name a file, or use standard output")

// WriteFile writes the file at path atomically, as Create does. Devices and open files of the
// process, such as /dev/stdout, are written directly. An error of write is returned as it is.
func WriteFile(path string, overwrite bool, write func(io.Writer) error) error {
	if isStream(path) {
		return writeStream(path, write)
	}
	file, err := Create(path, overwrite)
	if err != nil {
		return err
	}
	defer file.Discard()
	if err := writeBuffered(file, write); err != nil {
		return err
	}
	return file.Commit()
}

// File is a file that gets its name when it is complete. Only its owner can read it.
type File struct {
	file      *os.File // nil after it was closed
	path      string
	overwrite bool
}

// Create creates a temporary file beside path. Commit renames it. Without overwrite the error for
// an existing file wraps ErrExists. Only a regular file is ever replaced.
func Create(path string, overwrite bool) (*File, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("write %s: it is a directory: name a file in it", path)
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("write %s: %w", path, errNotRegular)
	case err == nil && !overwrite:
		return nil, fmt.Errorf("write %s: %w", path, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("write the report: %w", err)
	}
	// The name of path is not part of it, because it may have the maximum length.
	temp := filepath.Join(filepath.Dir(path), ".linkcancel-"+rand.Text()[:8]+".tmp")
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return &File{file: file, path: path, overwrite: overwrite}, nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) { return f.file.Write(p) }

// Commit syncs the file to disk and renames it to its path.
func (f *File) Commit() error {
	err := f.file.Sync()
	if closeErr := f.file.Close(); err == nil {
		err = closeErr
	}
	temp := f.file.Name()
	f.file = nil
	defer func() { _ = os.Remove(temp) }()
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := publish(temp, f.path, f.overwrite); err != nil {
		return err
	}
	syncFolder(filepath.Dir(f.path))
	return nil
}

// Discard deletes the file. It does nothing after Commit.
func (f *File) Discard() {
	if f.file == nil {
		return
	}
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
	f.file = nil
}

func writeBuffered(w io.Writer, write func(io.Writer) error) error {
	buffer := bufio.NewWriterSize(w, 64<<10)
	if err := write(buffer); err != nil {
		return err
	}
	if err := buffer.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// publish renames the finished file.
func publish(temp, path string, overwrite bool) error {
	if overwrite {
		if err := os.Rename(temp, path); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		return nil
	}
	err := os.Link(temp, path)
	if err == nil {
		return nil // Commit removes the other name
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: %w", path, ErrExists)
	}
	// A file system without hard links: claim the name with an empty file, and replace it.
	claim, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("write %s: %w", path, ErrExists)
	case err != nil:
		return fmt.Errorf("write the report: %w", err)
	}
	_ = claim.Close()
	return publish(temp, path, true)
}

// isStream reports whether path is a device or an open file of this process.
func isStream(path string) bool {
	if path == os.DevNull {
		return true
	}
	switch filepath.Dir(filepath.Clean(path)) {
	case "/dev", "/dev/fd", "/proc/self/fd":
		return true
	}
	return false
}

func writeStream(path string, write func(io.Writer) error) error {
	// Append, because a regular file may have content already.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	err = writeBuffered(file, write)
	if closeErr := file.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("write the report: %w", closeErr)
	}
	return err
}

// syncFolder makes a new name durable, where the file system can.
func syncFolder(folder string) {
	dir, err := os.Open(folder)
	if err != nil {
		return
	}
	_ = dir.Sync()
	_ = dir.Close()
}
