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

// ErrExists: the file is there, and must not be overwritten.
var ErrExists = errors.New("the file exists already, and is never overwritten: move it away or name another")

// errOdd: a report goes into a file of its own. Where others may write into the
// folder, anything else may be a trap: a link to a file of the user's, or a pipe
// that somebody listens at.
var errOdd = errors.New("it is a symbolic link, or no regular file: name a file, or leave it to standard output")

// WriteFile makes the file at path with what write writes: as Create does it, or
// not at all. The devices and open files of a process, such as /dev/stdout, are
// written to directly. The error of write is returned as it is.
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

// File is a file that gets its name when it is whole. It is readable by its
// owner only.
type File struct {
	file      *os.File // nil: it has been closed
	path      string
	overwrite bool
}

// Create begins to make the file at path, under another name beside it, which
// nobody can guess. Without overwrite a file that is there is left alone, and
// the error wraps ErrExists. What is no regular file is never replaced, nor
// followed.
func Create(path string, overwrite bool) (*File, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("write %s: it is a directory: name a file in it", path)
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("write %s: %w", path, errOdd)
	case err == nil && !overwrite:
		return nil, fmt.Errorf("write %s: %w", path, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("write the report: %w", err)
	}
	// Without the name itself: it may be as long as a name can be.
	temp := filepath.Join(filepath.Dir(path), ".linkcancel-"+rand.Text()[:8]+".tmp")
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return &File{file: file, path: path, overwrite: overwrite}, nil
}

// Write is part of io.Writer.
func (f *File) Write(p []byte) (int, error) { return f.file.Write(p) }

// Commit syncs the file to disk and gives it its name.
func (f *File) Commit() error {
	err := f.file.Sync()
	if closeErr := f.file.Close(); err == nil {
		err = closeErr
	}
	temp := f.file.Name()
	f.file = nil
	defer func() { _ = os.Remove(temp) }() // after a rename it is not there
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := publish(temp, f.path, f.overwrite); err != nil {
		return err
	}
	syncFolder(filepath.Dir(f.path))
	return nil
}

// Discard deletes the file; after Commit it does nothing.
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

// publish gives the finished file its name.
func publish(temp, path string, overwrite bool) error {
	if overwrite {
		if err := os.Rename(temp, path); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		return nil
	}
	err := os.Link(temp, path)
	if err == nil {
		return nil // the other name is removed
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: %w", path, ErrExists)
	}
	// A file system without hard links: take the name with an empty file, which
	// only one process can make, and put the finished one in its place.
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

// isStream tells whether path names a device, or an open file of this process:
// only the system puts names into these folders.
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
	// Where it is a file, someone has written into it before.
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

// syncFolder makes a new name durable. Some file systems cannot; then the name
// is as safe as they make it.
func syncFolder(folder string) {
	dir, err := os.Open(folder)
	if err != nil {
		return
	}
	_ = dir.Sync()
	_ = dir.Close()
}
