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

// WriteFile makes the file at path with what write writes: whole and synced to
// disk, or not at all. The file is readable by its owner only, unless one that
// is overwritten was open to others. Without overwrite a file that is there is
// left alone, and the error wraps ErrExists. What is no regular file, such as
// /dev/stdout, is written to directly. The error of write is returned as it is.
func WriteFile(path string, overwrite bool, write func(io.Writer) error) error {
	mode := fs.FileMode(0o600)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("write %s: it is a directory: name a file in it", path)
	case err == nil && !info.Mode().IsRegular():
		return writeDevice(path, write)
	case err == nil && !overwrite:
		return fmt.Errorf("write %s: %w", path, ErrExists)
	case err == nil:
		mode = info.Mode().Perm()
		// A symbolic link goes on pointing to the file.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("write the report: %w", err)
	}

	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8]+".tmp")
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer func() { _ = os.Remove(temp) }() // after a rename it is not there
	if err := fill(file, write); err != nil {
		return err
	}
	if err := publish(temp, path, overwrite); err != nil {
		return err
	}
	syncFolder(filepath.Dir(path))
	return nil
}

// fill writes, syncs and closes the file.
func fill(file *os.File, write func(io.Writer) error) error {
	if err := writeBuffered(file, write); err != nil {
		_ = file.Close()
		return err
	}
	err := file.Sync()
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
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

func writeDevice(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
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
