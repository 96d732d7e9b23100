package report

import (
	"errors"
	"io"
	"io/fs"
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

// Whatever stood there before: the new file is the owner's alone.
func TestWriteFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.csv")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := WriteFile(path, true, writeText("new")); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
	wantFile(t, path, "new")
}

// Who may write into the folder cannot lead a report elsewhere.
func TestWriteFileFollowsNothing(t *testing.T) {
	folder := t.TempDir()
	theirs := filepath.Join(folder, "theirs")
	if err := os.WriteFile(theirs, []byte("theirs"), 0o640); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"file": theirs, "nothing": filepath.Join(folder, "none"), "device": os.DevNull, "itself": "itself.csv"} {
		link := filepath.Join(folder, name+".csv")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		for _, overwrite := range []bool{false, true} {
			if err := WriteFile(link, overwrite, writeText("ours")); !errors.Is(err, errNotRegular) {
				t.Errorf("%s, overwrite %v: %v", name, overwrite, err)
			}
		}
		if got, err := os.Readlink(link); got != target || err != nil {
			t.Errorf("%s: the link is %q, %v", name, got, err)
		}
	}
	wantFile(t, theirs, "theirs")
	if _, err := os.Stat(filepath.Join(folder, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made where a link leads: %v", err)
	}

	// A link that is planted while the report is written is replaced, or left
	// alone, never followed.
	late := filepath.Join(folder, "late.csv")
	plant := func(io.Writer) error { return os.Symlink(theirs, late) }
	if err := WriteFile(late, false, plant); !errors.Is(err, ErrExists) {
		t.Errorf("planted late: %v", err)
	}
	if err := os.Remove(late); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(late, true, plant); err != nil {
		t.Errorf("planted late: %v", err)
	}
	if info, err := os.Lstat(late); err != nil || info.Mode() != 0o600 {
		t.Errorf("planted late: %v, %v", info, err)
	}
	wantFile(t, theirs, "theirs")
}

// A file that is begun has no name yet, and what is given up leaves nothing.
func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rejects.csv")
	for _, commit := range []bool{false, true} {
		f, err := Create(path, false)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(f, "text")
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is there too early: %v", err)
		}
		if commit {
			err = f.Commit()
		}
		f.Discard()
		f.Discard()
		if names, _ := os.ReadDir(filepath.Dir(path)); err != nil || commit && len(names) != 1 || !commit && len(names) != 0 {
			t.Errorf("commit %v: %v, %v", commit, names, err)
		}
	}
	wantFile(t, path, "text")
}
