package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mutant is linkcancel with one small bug.
type mutant struct {
	name  string
	pkg   string // whose tests must find it
	run   string // selects the tests that should, as go test -run does; "": all
	edits []edit
}

// edit replaces whole lines of a file. They occur in it once.
type edit struct{ file, old, new string }

// parse reads a list of mutants, which doc.go describes.
func parse(text string) (mutants []mutant, err error) {
	var m *mutant
	var file string
	var e *edit
	for i, line := range strings.Split(text, "\n") {
		bad := func(why string) error { return fmt.Errorf("line %d: %s: %q", i+1, why, line) }
		kind, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			m = nil
		case kind == "//":
		case kind == "#":
			mutants = append(mutants, mutant{name: rest})
			m, file, e = &mutants[len(mutants)-1], "", nil
		case m == nil:
			return nil, bad("a mutant begins with its name after #")
		case kind == "test":
			m.pkg, m.run, _ = strings.Cut(rest, " ")
		case kind == "file":
			file, e = rest, nil
		case line[0] == '-' && file != "":
			if e == nil || e.new != "" {
				m.edits = append(m.edits, edit{file: file})
				e = &m.edits[len(m.edits)-1]
			}
			e.old += line[1:] + "\n"
		case line[0] == '+' && e != nil:
			e.new += line[1:] + "\n"
		default:
			return nil, bad("neither test, file, - nor +")
		}
	}
	for _, m := range mutants {
		if m.pkg == "" || len(m.edits) == 0 {
			return nil, fmt.Errorf("mutant %q has no test or no edit", m.name)
		}
	}
	return mutants, nil
}

// apply returns the changed files of a mutant. The error says which text no longer fits the code.
func (m mutant) apply(root string) (map[string]string, error) {
	changed := map[string]string{}
	for _, e := range m.edits {
		text, ok := changed[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, fmt.Errorf("mutant %q: %w", m.name, err)
			}
			text = "\n" + string(b)
		}
		old := "\n" + e.old
		if n := strings.Count(text, old); n != 1 {
			return nil, fmt.Errorf("mutant %q: its text occurs %d times in %s, not once:\n%s", m.name, n, e.file, e.old)
		}
		changed[e.file] = strings.Replace(text, old, "\n"+e.new, 1)
	}
	for file, text := range changed {
		changed[file] = text[1:]
	}
	return changed, nil
}

// plant writes the mutant's files into a copy of the module. Call restore to undo it.
func (m mutant) plant(copied string) (restore func() error, err error) {
	changed, err := m.apply(copied)
	if err != nil {
		return nil, err
	}
	before := map[string][]byte{}
	restore = func() (err error) {
		for name, b := range before {
			err = errors.Join(err, os.WriteFile(filepath.Join(copied, name), b, 0o600))
		}
		return err
	}
	for name, text := range changed {
		path := filepath.Join(copied, name)
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, errors.Join(err, restore())
		}
		before[name] = b
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, errors.Join(err, restore())
		}
	}
	return restore, nil
}
