package report

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func writeText(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if filepath.Ext(name.Name()) == ".tmp" {
			t.Errorf("%s is left", name.Name())
		}
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.csv")
	if err := WriteFile(path, false, writeText("one")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "one")

	if err := WriteFile(path, false, writeText("two")); !errors.Is(err, ErrExists) {
		t.Errorf("a file that is there: %v", err)
	}
	wantFile(t, path, "one")

	broken := errors.New("broken")
	err := WriteFile(path, true, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("an error of write: %v", err)
	}
	wantFile(t, path, "one")

	if err := WriteFile(path, true, writeText("three")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "three")

	// Another process makes the file while this one writes.
	late := filepath.Join(filepath.Dir(path), "late.csv")
	err = WriteFile(late, false, func(w io.Writer) error {
		return os.WriteFile(late, []byte("theirs"), 0o600)
	})
	if !errors.Is(err, ErrExists) {
		t.Errorf("a file that came late: %v", err)
	}
	wantFile(t, late, "theirs")

	if err := WriteFile(filepath.Dir(path), true, writeText("x")); err == nil {
		t.Error("a directory was written")
	}
	if err := WriteFile(os.DevNull, false, writeText("x")); err != nil {
		t.Errorf("a device: %v", err)
	}
}

func TestWriteFileKeepsModeAndLink(t *testing.T) {
	folder := t.TempDir()
	path, link := filepath.Join(folder, "report.csv"), filepath.Join(folder, "latest.csv")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("report.csv", link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, true, writeText("new")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "new")
	if target, err := os.Readlink(link); err != nil || target != "report.csv" {
		t.Errorf("the link is %q, %v", target, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
