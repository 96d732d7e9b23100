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
	File string // as the user gave it; "stdin" for standard input; may be empty
	Place
	Why string
}

// Place is where something stands in a file. Its zero value is the whole file.
type Place struct {
	Row    int    // as a spreadsheet counts them, from 1; the header and blank lines count too
	Line   int    // as a text editor counts them, from 1; it differs behind cells of several lines
	Byte   int    // of the line, from 1; 0 unless it takes one to find the place
	Column string // the name of the column, or its number; may be empty
}

// String is such as: row 304 (line 310), column Ссылка. It is empty for the whole
// file.
func (p Place) String() string {
	if p.Row == 0 {
		return ""
	}
	text := fmt.Sprintf("row %d", p.Row)
	switch {
	case p.Byte > 0:
		text += fmt.Sprintf(" (line %d, byte %d)", p.Line, p.Byte)
	case p.Line != p.Row:
		text += fmt.Sprintf(" (line %d)", p.Line)
	}
	if p.Column != "" {
		text += ", column " + p.Column
	}
	return text
}

// String is one line, FILE: PLACE: why.
func (b Bad) String() string {
	text := b.Why
	if place := b.Place.String(); place != "" {
		text = place + ": " + text
	}
	if b.File != "" {
		text = clean.Line(b.File) + ": " + text
	}
	return text
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
	if e.full() {
		e.More++
	} else {
		e.Bad = append(e.Bad, bad)
	}
}

func (e *InputError) full() bool { return len(e.Bad) >= MaxShown }

// refuse is an InputError about one place.
func refuse(file string, at Place, why, hint string) *InputError {
	return &InputError{Bad: []Bad{{File: file, Place: at, Why: why}}, Hint: hint}
}
