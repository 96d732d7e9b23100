package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// The list fits the code: each text is there once, and the tests that should find a mutant exist.
func TestListFits(t *testing.T) {
	mutants, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("two mutants are named %q", m.name)
		}
		names[m.name] = true
		if changed, err := m.apply(root); err != nil {
			t.Error(err)
		} else {
			for file, text := range changed {
				if b, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(b) == text {
					t.Errorf("mutant %q changes nothing in %s (%v)", m.name, file, err)
				}
			}
		}
		for _, name := range strings.FieldsFunc(m.run, func(r rune) bool { return strings.ContainsRune("|()^", r) }) {
			name, _, _ = strings.Cut(name, "/")
			if !hasTest(t, m.pkg, strings.TrimSuffix(name, "$")) {
				t.Errorf("mutant %q: %s has no test %s", m.name, m.pkg, name)
			}
		}
	}
}

func hasTest(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	decl := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if decl.Match(b) {
			return true
		}
	}
	return false
}

func TestParse(t *testing.T) {
	mutants, err := parse("# one\n// a note\ntest ./a TestA|TestB\nfile a/a.go\n-\told\n-\tlines\n+\tnew\n-\tother\nfile a/b.go\n-x\n+\n\n# two\ntest ./b\nfile b.go\n-gone\n")
	if err != nil || len(mutants) != 2 {
		t.Fatalf("%+v, %v", mutants, err)
	}
	one, two := mutants[0], mutants[1]
	if one.name != "one" || one.pkg != "./a" || one.run != "TestA|TestB" || len(one.edits) != 3 ||
		one.edits[0] != (edit{"a/a.go", "\told\n\tlines\n", "\tnew\n"}) || one.edits[1] != (edit{"a/a.go", "\tother\n", ""}) || one.edits[2] != (edit{"a/b.go", "x\n", "\n"}) {
		t.Errorf("the first is %+v", one)
	}
	if two.pkg != "./b" || two.run != "" || len(two.edits) != 1 {
		t.Errorf("the second is %+v", two)
	}
	for _, text := range []string{"file a.go", "# one\nfile a.go\n-x\n", "# one\ntest ./a\n", "# one\ntest ./a\n-x\n", "# one\ntest ./a\nfile a.go\n+x\n"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestFinder(t *testing.T) {
	for text, want := range map[string]string{
		"--- FAIL: TestA (0.1s)\n    --- FAIL: TestA/b (0.1s)\n        x\nFAIL\n": "TestA/b",
		"panic: test timed out after 10m0s\n\ngoroutine 1":                        "panic: test timed out after 10m0s",
		"exit status 2": "the tests failed",
	} {
		if got := finder(text); got != want {
			t.Errorf("%q was found by %q, want %q", text, got, want)
		}
	}
}
