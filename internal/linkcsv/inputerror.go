package linkcsv

import (
	"fmt"
	"strings"

	"linkcancel/internal/clean"
)

// MaxShown is how many bad rows an InputError names; it counts the others.
const MaxShown = 10

// An InputError says that the user's input is refused, and why. Nothing was
// done with it, so a command exits with 2.
type InputError struct {
	Bad   []Bad  // what is wrong, the first MaxShown places
	More  int64  // how many more places there are
	Hint  string // what to do; may be empty
	Cause error  // the error of the operating system, if there was one
}

// Bad is one place of the input that cannot be used.
type Bad struct {
	File   string // as the user gave it; "stdin" for standard input; may be empty
	Line   int    // from 1; 0 if the whole file is meant
	Column int    // in bytes, from 1
	Why    string
}

// String is one line, FILE:LINE:COLUMN: why.
func (b Bad) String() string {
	switch {
	case b.File == "":
		return b.Why
	case b.Line == 0:
		return clean.Line(b.File) + ": " + b.Why
	}
	return fmt.Sprintf("%s:%d:%d: %s", clean.Line(b.File), b.Line, b.Column, b.Why)
}

// Error has a line for each place and a last one for the hint.
func (e *InputError) Error() string {
	lines := make([]string, 0, len(e.Bad)+2)
	for _, bad := range e.Bad {
		lines = append(lines, bad.String())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("… and %d more", e.More))
	}
	if e.Hint != "" {
		lines = append(lines, e.Hint)
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the cause, such as an fs.ErrNotExist.
func (e *InputError) Unwrap() error { return e.Cause }

// Add notes one more place, or only counts it when enough are named.
func (e *InputError) Add(bad Bad) {
	if len(e.Bad) < MaxShown {
		e.Bad = append(e.Bad, bad)
	} else {
		e.More++
	}
}

// refuse is an InputError about one place.
func refuse(file string, line, column int, why, hint string) *InputError {
	return &InputError{
		Bad:  []Bad{{File: file, Line: line, Column: column, Why: why}},
		Hint: hint,
	}
}
