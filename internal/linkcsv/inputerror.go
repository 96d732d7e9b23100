package linkcsv

import (
	"fmt"
	"strings"

	"linkcancel/internal/clean"
)

// MaxShown is how many bad rows an InputError lists. It counts the others.
const MaxShown = 10

// InputError means that the input is refused. Nothing was done with it, so a command exits with 2.
type InputError struct {
	Bad   []Bad  // the first MaxShown problems
	More  int64  // number of further problems
	Hint  string // what to do, may be empty
	Cause error  // error of the operating system, may be nil
}

// Bad is one problem of the input.
type Bad struct {
	File string // as the user gave it, "stdin", or empty
	Place
	Why string
}

// Place is a position in a file. Zero means the whole file.
type Place struct {
	Row    int    // as in a spreadsheet, from 1, including the header and blank lines
	Line   int    // as in a text editor, from 1; cells may have several lines
	Byte   int    // in the line, from 1; 0 if unknown
	Column string // name or number of the column, may be empty
}

// String returns, for example, "row 304 (line 310), column Ссылка". It is empty for the whole file.
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

// String returns one line, FILE: PLACE: why.
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

// Error returns one line for each problem and one for the hint.
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

// Add adds a problem, or only counts it after MaxShown.
func (e *InputError) Add(bad Bad) {
	if e.full() {
		e.More++
	} else {
		e.Bad = append(e.Bad, bad)
	}
}

func (e *InputError) full() bool { return len(e.Bad) >= MaxShown }

// refuse returns an InputError with one problem.
func refuse(file string, at Place, why, hint string) *InputError {
	return &InputError{Bad: []Bad{{File: file, Place: at, Why: why}}, Hint: hint}
}
