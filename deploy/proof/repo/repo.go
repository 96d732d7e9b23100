// Package repo gives the proofs the files of the repository and the programs of
// this machine.
package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Root is the folder of the repository's go.mod.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), "module linkcancel\n") {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod of linkcancel above this folder")
		}
		dir = up
	}
}

// Path is where a file of the repository is.
func Path(t testing.TB, elem ...string) string {
	t.Helper()
	return filepath.Join(append([]string{Root(t)}, elem...)...)
}

// Read reads a file of the repository.
func Read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(Path(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Have says whether this machine has all of these programs. In CI it must;
// elsewhere what needs them is left out, and make proof says so.
func Have(t testing.TB, programs ...string) bool {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("no %s: CI must install it, or proofs are left out", p)
		}
		t.Logf("left out: there is no %s", p)
		return false
	}
	return true
}

// Mutate replaces the only occurrence of a text, to prove that a check sees the
// difference.
func Mutate(t testing.TB, in []byte, old, replacement string) []byte {
	t.Helper()
	if n := strings.Count(string(in), old); n != 1 {
		t.Fatalf("%q occurs %d times, not once: the mutation no longer fits the file", old, n)
	}
	return []byte(strings.Replace(string(in), old, replacement, 1))
}
