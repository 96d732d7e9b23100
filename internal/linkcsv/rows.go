// Package linkcsv reads payment links from the user's CSV files. It finds the delimiter,
// the header and the column, unpacks gzip, and reports the position and reason for every
// bad row. It reads row by row and keeps nothing.
package linkcsv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"linkcancel/internal/clean"
	"linkcancel/internal/plexy"
)

// maxColumns is the maximum number of columns, that of a spreadsheet.
const maxColumns = 16_384

// maxSkipped is how many empty rows in a row are accepted: twice as many as a spreadsheet has.
const maxSkipped = 2_097_152

// lookAhead is how many rows after the first are read to find the header and the column.
const lookAhead = 20

// Row is one row. Fields are valid until the next Next, and fitted to the first row's length.
type Row struct {
	File string // the path, or "stdin"
	Place
	Fields []string
	Link   string // id that passed plexy.CheckID, empty with Err; shares the row's memory
	Err    error  // why the row is bad, or nil
	// Doubt is why the row is bad without Options.AnyID, or nil.
	Doubt error
}

// ErrNoRows is the cause of the InputError of a file with a header and nothing else.
var ErrNoRows = errors.New("no rows")

// Options are the options for reading a file.
type Options struct {
	// Column is the name or number (from 1) of the links' column. "" means to find it.
	Column string
	// AnyID accepts ids of every form. Otherwise one id of the documented form requires it of all.
	AnyID bool
	// Ahead searches a regular file for the first id of the documented form before it
	// returns rows, so that Mixed is always nil. It reads the file twice if there is none.
	Ahead bool
}

// Rows reads one file.
type Rows struct {
	source *source
	csv    *csv.Reader
	raw    *rawReader
	comma  rune
	anyID  bool

	first  []string // the header or the first row
	header bool     // first is a header
	column int      // index of the column with the links
	name   string   // of that column

	ahead    []record // read to find the header
	err      error    // how reading ended, returned after ahead
	inner    int      // line ends inside cells so far, plus the separator line
	repeated int64    // rows that repeat the header

	documented bool       // an id had the documented form, in any case
	others     InputError // rows without it that Next returned as good
}

// record is a row before the column is known.
type record struct {
	fields []string
	place  Place
	err    error // syntax error
	cut    bool  // the file ends in this row without a line end
}

// OpenRows opens a file, or stdin for "-", and reads its first rows, or returns an *InputError.
func OpenRows(path string, stdin io.Reader, opt Options) (*Rows, error) {
	source, err := openSource(path, stdin)
	if err != nil {
		return nil, err
	}
	r := &Rows{source: source, anyID: opt.AnyID}
	comma, named := source.comma()
	r.comma = comma
	r.raw = &rawReader{from: source.text}
	r.csv = newReader(r.raw)
	r.csv.Comma = r.comma
	r.csv.ReuseRecord = true
	err = r.begin(opt.Column, named)
	if err == nil && opt.Ahead && !opt.AnyID && !r.documented && source.regular() {
		r.documented, err = anyDocumented(path, opt.Column)
	}
	if err != nil {
		source.close()
		return nil, err
	}
	return r, nil
}

// newReader returns a reader of rows of any length.
func newReader(text io.Reader) *csv.Reader {
	r := csv.NewReader(bufio.NewReaderSize(text, headSize))
	r.FieldsPerRecord = -1 // checked by the caller, for a better message
	return r
}

// anyDocumented reports whether an id of the file has the documented form.
func anyDocumented(path, column string) (bool, error) {
	r, err := OpenRows(path, nil, Options{Column: column, AnyID: true})
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }()
	for !r.documented {
		if _, err := r.Next(); err != nil {
			return false, nil // Next will return the error
		}
	}
	return true, nil
}

// begin reads ahead and chooses the column.
func (r *Rows) begin(column string, separator bool) error {
	if separator {
		if _, err := r.read(); err != nil {
			return err
		}
		r.inner++ // spreadsheets do not count it as a row
	}
	for len(r.ahead) < 1+lookAhead {
		rec, err := r.read()
		if err != nil {
			r.err = err
			break
		}
		rec.fields = slices.Clone(rec.fields)
		r.ahead = append(r.ahead, rec)
	}
	if len(r.ahead) == 0 {
		if r.err != io.EOF {
			return r.err
		}
		return refuse(r.source.name, Place{}, "the file is empty", "It should hold one payment link a row.")
	}
	first := r.ahead[0]
	if first.err != nil {
		return refuse(r.source.name, first.place, first.err.Error(), "The first row must be a header or a row of data.")
	}
	r.first = first.fields
	if err := r.choose(column); err != nil {
		// The read error may be why no column was found.
		if r.err != nil && r.err != io.EOF {
			return r.err
		}
		return err
	}
	if r.header {
		r.ahead = r.ahead[1:]
		if len(r.ahead) == 0 && r.err == io.EOF {
			e := refuse(r.source.name, Place{}, "a header and no rows", "It should hold one payment link a row.")
			e.Cause = ErrNoRows
			return e
		}
	}
	for _, rec := range r.ahead {
		r.documented = r.documented || r.column < len(rec.fields) && holdsID(rec.fields[r.column])
	}
	return nil
}

// choose finds the header and the column in the rows read ahead.
func (r *Rows) choose(column string) (err error) {
	if row, found := r.title(); found {
		return refuse(r.source.name, r.ahead[0].place, fmt.Sprintf("this looks like a title: the header seems to be in row %d", row),
			"Delete the rows above the header.")
	}
	c := chooser{file: r.source.name, at: r.ahead[0].place, first: r.first}
	for _, rec := range r.ahead[1:] {
		if rec.err == nil {
			c.rest = append(c.rest, rec.fields)
		}
	}
	if r.header, r.column, err = c.choose(column); err == nil {
		r.name = trimCell(r.first[r.column])
	}
	return err
}

// title reports whether the file begins with a title, and in which row the header seems to be: a
// later row names a links column, or has several cells while the title has one.
func (r *Rows) title() (row int, found bool) {
	if slices.ContainsFunc(r.first, isLinkName) {
		return 0, false
	}
	for i, rec := range r.ahead {
		if rec.err != nil || slices.ContainsFunc(rec.fields, looksLikeID) {
			return 0, false
		}
		if i > 0 && slices.ContainsFunc(rec.fields, isLinkName) {
			return rec.place.Row, true
		}
		next := i + 1
		if i > 0 && filled(r.first) == 1 && filled(rec.fields) > 1 && next < len(r.ahead) &&
			slices.ContainsFunc(r.ahead[next].fields, looksLikeID) {
			return rec.place.Row, true
		}
	}
	return 0, false
}

// filled counts the cells that are not empty.
func filled(fields []string) (n int) {
	for _, field := range fields {
		if !empty(field) {
			n++
		}
	}
	return n
}

// Header returns the names of the columns. Without a header they are column_1, column_2 and so on.
func (r *Rows) Header() []string {
	if r.header {
		return slices.Clone(r.first)
	}
	names := make([]string, len(r.first))
	for i := range names {
		names[i] = "column_" + strconv.Itoa(i+1)
	}
	return names
}

// Comma returns the delimiter of the file.
func (r *Rows) Comma() rune { return r.comma }

// CRLF reports whether the lines of the file end as on Windows.
func (r *Rows) CRLF() bool { return r.source.crlf }

// Mark reports whether a copy of the file in UTF-8 needs a byte-order mark, by which spreadsheets know
// UTF-8: the file has one, or was decoded from a code page.
func (r *Rows) Mark() bool { return r.source.mark || r.source.text.legacy }

// ColumnText describes the column with the links: column 2 "Link".
func (r *Rows) ColumnText() string {
	text := "column " + strconv.Itoa(r.column+1)
	if r.header && r.name != "" {
		text += " " + quote(r.name)
	}
	return text
}

// Close closes the file.
func (r *Rows) Close() error {
	r.source.close()
	if r.err == nil {
		r.err = io.EOF
	}
	r.ahead = nil
	return nil
}

// Repeated returns how many rows so far repeated the header. Next skips them.
func (r *Rows) Repeated() int64 { return r.repeated }

// Mixed returns rows that Next returned as good but that are bad, because a later id has
// the documented form and theirs does not. It is nil if there are none.
func (r *Rows) Mixed() *InputError {
	if !r.documented || len(r.others.Bad) == 0 {
		return nil
	}
	return &r.others
}

// Next returns the next row, good or bad, or io.EOF. An *InputError means that the rest of
// the file cannot be read as rows. Other errors come from the operating system.
func (r *Rows) Next() (Row, error) {
	for skipped := 0; ; skipped++ {
		rec, err := r.next()
		if err != nil {
			return Row{}, err
		}
		if row, ok := r.row(rec); ok {
			return row, nil
		}
		if skipped == maxSkipped {
			r.err = r.endless(rec.place)
			return Row{}, r.err
		}
		r.repeated++
	}
}

// endless refuses a file with too many empty rows or headers.
func (r *Rows) endless(at Place) error {
	return refuse(r.source.name, at, fmt.Sprintf("%d rows one after another are empty, or repeat the header", maxSkipped),
		"Delete them, and look whether the file is complete.")
}

// next returns the next record, first from those read ahead.
func (r *Rows) next() (record, error) {
	if len(r.ahead) > 0 {
		rec := r.ahead[0]
		r.ahead = r.ahead[1:]
		return rec, nil
	}
	if r.err != nil {
		return record{}, r.err
	}
	rec, err := r.read()
	r.err = err
	return rec, err
}

// row checks a record. It returns false for one that repeats the header.
func (r *Rows) row(rec record) (row Row, ok bool) {
	row = Row{File: r.source.name, Place: rec.place, Fields: rec.fields}
	if rec.err != nil {
		row.Err = rec.err
		return row, true
	}
	row.Place.Byte = 0
	row.Fields = r.fitted(rec.fields)
	if r.header && r.isHeader(row.Fields) {
		return Row{}, false
	}
	if r.column >= len(rec.fields) || len(row.Fields) != len(r.first) {
		// Shifted ids show the form too.
		r.documented = r.documented || slices.ContainsFunc(rec.fields, holdsID)
		row.Err = r.badLength(len(rec.fields))
		return row, true
	}
	found, err := parseCell(rec.fields[r.column])
	if err == nil && r.source.text.legacy && !isASCII(found.id) {
		err = errNotASCII // a damaged byte reads as a letter
	}
	// A refused cell may also show the form of the ids.
	r.documented = r.documented || found.documented || holdsID(rec.fields[r.column])
	if err == nil && len(rec.fields) < len(r.first) && !found.documented && (r.column > 0 || rec.cut) {
		// Only the documented form would show that the id is complete and in its column.
		row.Err = r.badLength(len(rec.fields))
		return row, true
	}
	if err != nil {
		if err == errEmpty && slices.ContainsFunc(row.Fields, isTotal) {
			err = errTotal
		}
		row.Err, row.Column = err, r.columnName()
		return row, true
	}
	row.Link, row.Doubt = found.id, r.doubt(found, rec.place)
	if row.Doubt != nil && !r.anyID {
		row.Link, row.Err, row.Column = "", row.Doubt, r.columnName()
	}
	return row, true
}

// doubt compares the form of an id with the others in the file.
func (r *Rows) doubt(found cellID, at Place) error {
	switch {
	case found.doubt != nil:
		return found.doubt
	case found.documented:
	case r.documented:
		return errForm
	case !r.anyID && r.others.full():
		r.others.More++
	case !r.anyID:
		at.Byte, at.Column = 0, r.columnName()
		r.others.Add(Bad{File: r.source.name, Place: at, Why: errForm.Error()})
	}
	return nil
}

// fitted removes empty cells from a row that is too long and fills up one that is too short.
func (r *Rows) fitted(fields []string) []string {
	n := len(r.first)
	switch {
	case len(fields) > n && filled(fields[n:]) == 0:
		return fields[:n]
	case len(fields) < n:
		return Fit(fields, n, r.comma)
	}
	return fields
}

// isHeader reports whether a row repeats the header.
func (r *Rows) isHeader(fields []string) bool {
	// Fast path for nearly every row.
	if len(fields) != len(r.first) || !strings.Contains(fields[r.column], r.name) {
		return false
	}
	return slices.EqualFunc(fields, r.first, func(a, b string) bool { return trimCell(a) == trimCell(b) })
}

func (r *Rows) columnName() string {
	if !r.header {
		return strconv.Itoa(r.column + 1)
	}
	if r.name == "" || len(r.name) > 40 || clean.Line(r.name) != r.name {
		return fmt.Sprintf("%d %s", r.column+1, quote(r.name))
	}
	return r.name
}

func (r *Rows) badLength(n int) error {
	fields := "cells"
	if n == 1 {
		fields = "cell"
	}
	what := "the first row"
	if r.header {
		what = "the header"
	}
	return fmt.Errorf("%d %s, %s has %d", n, fields, what, len(r.first))
}

// read returns the next record that is not blank. The fields are valid until the next call.
// The error is io.EOF, an *InputError, or an error of the operating system.
func (r *Rows) read() (record, error) {
	skipped := 0
	for {
		r.raw.row = r.csv.InputOffset()
		fields, err := r.csv.Read()
		if err != nil {
			return r.failed(err)
		}
		line, _ := r.csv.FieldPos(0)
		rec := record{fields: fields, place: Place{Row: line - r.inner, Line: line}}
		for _, field := range fields {
			if strings.IndexByte(field, '\n') >= 0 {
				r.inner += strings.Count(field, "\n")
			}
		}
		if len(fields) > maxColumns {
			return record{}, refuse(r.source.name, rec.place, fmt.Sprintf("the row has more than %d cells", maxColumns),
				"It should hold one payment link a row.")
		}
		if filled(fields[:1]) == 0 && filled(fields) == 0 {
			if skipped++; skipped > maxSkipped {
				return record{}, r.endless(rec.place)
			}
			continue
		}
		if len(r.first) != len(fields) {
			text := r.raw.until(r.csv.InputOffset())
			rec.cut = len(text) > 0 && text[len(text)-1] != '\n'
		}
		return rec, nil
	}
}

// empty reports whether a cell has nothing visible. Old programs end a file with Ctrl-Z.
func empty(cell string) bool {
	if cell == "" {
		return true
	}
	if cell[0] > ' ' && cell[0] < utf8.RuneSelf {
		return false
	}
	return strings.TrimFunc(cell, func(r rune) bool { return unicode.IsSpace(r) || plexy.Invisible(r) || r == ctrlZ }) == ""
}

const ctrlZ = '\x1a'

// failed handles a read error.
func (r *Rows) failed(err error) (record, error) {
	var syntax *csv.ParseError
	switch {
	case err == io.EOF:
		return record{}, io.EOF
	case errors.As(err, &syntax):
		return r.mistake(syntax)
	case errors.Is(err, errRowTooLong):
		return record{}, r.tooLong()
	}
	return record{}, r.source.readError(err)
}

// mistake turns a syntax error into a bad row, or refuses the file if the row's end is unknown.
func (r *Rows) mistake(syntax *csv.ParseError) (record, error) {
	text := bytes.TrimLeft(r.raw.until(r.csv.InputOffset()), "\r\n") // blank lines before the row
	line, column, open := lastQuoted(text, byte(r.comma))
	at := Place{Row: syntax.StartLine - r.inner, Line: syntax.StartLine + line, Byte: column}
	switch {
	case open:
		return record{}, refuse(r.source.name, at,
			"the file ends inside a quoted cell that opens here", "Close the quote; inside quotes, write a quote twice.")
	case bytes.IndexByte(bytes.TrimRight(text, "\r\n"), '\n') >= 0:
		// The cell includes whole lines, which may hold links, so the row cannot be skipped.
		return record{}, refuse(r.source.name, at,
			fmt.Sprintf("a quoted cell that opens here meets another quote in line %d", syntax.Line),
			"Close the quote; inside quotes, write a quote twice.")
	}
	at.Line, at.Byte = syntax.Line, syntax.Column
	if fields, ok := r.repaired(text); ok {
		return record{fields: fields, place: at}, nil
	}
	rec := record{fields: r.lazyFields(text), place: at}
	if errors.Is(syntax.Err, csv.ErrQuote) {
		rec.err = errors.New("a quote inside a quoted cell that is not written twice")
	} else {
		rec.err = errors.New("a quote inside a cell that is not quoted")
	}
	return rec, nil
}

// repaired reads a line again without a byte-order mark, which concatenated files have in
// the middle, and without the = of ="…", which programs write to keep a cell as text.
func (r *Rows) repaired(line []byte) (fields []string, ok bool) {
	line = bytes.TrimPrefix(line, []byte("\ufeff"))
	if bytes.HasPrefix(line, []byte(`="`)) {
		line = line[1:]
	}
	comma := string(r.comma)
	line = bytes.ReplaceAll(line, []byte(comma+`="`), []byte(comma+`"`))
	strict := csv.NewReader(bytes.NewReader(line))
	strict.Comma = r.comma
	fields, err := strict.Read()
	return fields, err == nil
}

// lazyFields splits a bad line as well as possible, so that a list of bad rows can show it.
func (r *Rows) lazyFields(line []byte) []string {
	lazy := csv.NewReader(bytes.NewReader(line))
	lazy.Comma = r.comma
	lazy.FieldsPerRecord = -1
	lazy.LazyQuotes = true
	fields, err := lazy.Read()
	if err != nil {
		return []string{string(bytes.TrimRight(line, "\r\n"))}
	}
	return fields
}

// tooLong returns the error with the start of a row that does not end.
func (r *Rows) tooLong() error {
	before, text := r.raw.kept[:r.raw.row-r.raw.first], r.raw.kept[r.raw.row-r.raw.first:]
	start := 1 + r.raw.lines + bytes.Count(before, []byte("\n"))
	row := bytes.TrimLeft(text, "\r\n") // blank lines before the row
	start += bytes.Count(text[:len(text)-len(row)], []byte("\n"))
	at := Place{Row: start - r.inner, Line: start}
	if line, column, open := lastQuoted(row, byte(r.comma)); open {
		at.Line, at.Byte = start+line, column
		return refuse(r.source.name, at, "a quoted cell that opens here does not end within 1 MiB",
			"Close the quote; inside quotes, write a quote twice.")
	}
	return refuse(r.source.name, at, errRowTooLong.Error(), "It should hold one payment link a row.")
}

// Fit copies a row and gives it n fields, so that columns added after it line up. It fills a short
// row with empty fields, and joins what is too much into the last one with the delimiter.
func Fit(fields []string, n int, comma rune) []string {
	fitted := make([]string, n, n+8)
	copied := copy(fitted, fields)
	if n > 0 && copied < len(fields) {
		fitted[n-1] = strings.Join(fields[n-1:], string(comma))
	}
	return fitted
}
