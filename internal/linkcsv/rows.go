// Package linkcsv reads payment links out of the user's CSV files: it finds
// the delimiter, the header and the right column, unpacks gzip, and says of
// each row that cannot be used where it stands and why. It reads row by row
// and keeps nothing.
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

	"linkcancel/internal/plexy"
)

// maxColumns is how many columns a file may have: as many as a spreadsheet has.
const maxColumns = 16_384

// lookAhead is how many rows after the first are read to find the header and
// the column.
const lookAhead = 20

// A Row is one row of a file.
type Row struct {
	File   string   // as messages name it: the path, or "stdin"
	Line   int      // line of the link's cell, or of the mistake; from 1
	Column int      // and its column in bytes; from 1
	Fields []string // valid until the next call of Next
	Link   string   // the link's id, which passed plexy.CheckID; empty with Err. It shares the row's memory.
	Err    error    // why the row cannot be used; nil for a good one
}

// Rows reads one file.
type Rows struct {
	source *source
	csv    *csv.Reader
	raw    *rawReader
	comma  rune

	first  []string // the header, or the first row
	header bool     // first is a header
	column int      // index of the column with the links

	ahead []record // read to find the header, not yet returned
	err   error    // how reading ended; comes after ahead
}

// record is a row before the column is known.
type record struct {
	fields []string
	places []place // of the fields; nil with err
	place          // of the row, or of the mistake
	err    error   // a mistake of the syntax
}

type place struct{ line, column int }

// OpenRows opens the file at path, or stdin for "-", and looks at its first
// rows. column is the header name of the links' column, or its number from 1;
// empty: it is found. A number is a number even where a column has it as its
// name. If the input is refused the error is an *InputError.
func OpenRows(path string, stdin io.Reader, column string) (*Rows, error) {
	source, err := openSource(path, stdin)
	if err != nil {
		return nil, err
	}
	r := &Rows{source: source, comma: source.comma()}
	r.raw = &rawReader{from: source.text}
	r.csv = csv.NewReader(bufio.NewReaderSize(r.raw, headSize))
	r.csv.Comma = r.comma
	r.csv.FieldsPerRecord = -1 // checked here, for a better message
	r.csv.ReuseRecord = true
	if err := r.begin(column); err != nil {
		source.close()
		return nil, err
	}
	return r, nil
}

// begin reads ahead and chooses the column.
func (r *Rows) begin(column string) error {
	for len(r.ahead) < 1+lookAhead {
		rec, err := r.read()
		if err != nil {
			r.err = err
			break
		}
		rec.fields = slices.Clone(rec.fields)
		if rec.err == nil {
			rec.places = make([]place, len(rec.fields))
			for i := range rec.places {
				rec.places[i].line, rec.places[i].column = r.csv.FieldPos(i)
			}
		}
		r.ahead = append(r.ahead, rec)
	}
	if len(r.ahead) == 0 {
		if r.err != io.EOF {
			return r.err
		}
		return refuse(r.source.name, 0, 0, "the file is empty", "It should hold one payment link a row.")
	}
	first := r.ahead[0]
	if first.err != nil {
		return refuse(r.source.name, first.line, first.column, first.err.Error(), "The first row must be a header or a row of data.")
	}

	c := chooser{file: r.source.name, line: first.line, first: first.fields}
	for _, rec := range r.ahead[1:] {
		if rec.err == nil {
			c.rest = append(c.rest, rec.fields)
		}
	}
	r.first = first.fields
	header, index, err := c.choose(column)
	if err != nil {
		// What stopped the reading may be why no column was found.
		if r.err != nil && r.err != io.EOF {
			return r.err
		}
		return err
	}
	r.header, r.column = header, index
	if header {
		r.ahead = r.ahead[1:]
		if len(r.ahead) == 0 && r.err == io.EOF {
			return refuse(r.source.name, 0, 0, "a header and no rows", "It should hold one payment link a row.")
		}
	}
	return nil
}

// Header returns the names of the columns as the file has them; without a
// header they are column_1, column_2 and so on.
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

// HasHeader tells whether the file's first row is a header.
func (r *Rows) HasHeader() bool { return r.header }

// Column is the index, from 0, of the column that holds the links.
func (r *Rows) Column() int { return r.column }

// Comma is the delimiter of the file.
func (r *Rows) Comma() rune { return r.comma }

// Close closes the file.
func (r *Rows) Close() error {
	r.source.close()
	if r.err == nil {
		r.err = io.EOF
	}
	r.ahead = nil
	return nil
}

// Next returns the next row, good or bad; at the end io.EOF. An *InputError
// says that the rest of the file cannot be read as rows at all; any other
// error is one of the operating system.
func (r *Rows) Next() (Row, error) {
	if len(r.ahead) > 0 {
		rec := r.ahead[0]
		r.ahead = r.ahead[1:]
		if rec.err == nil && r.column < len(rec.places) {
			return r.row(rec, rec.places[r.column]), nil
		}
		return r.row(rec, rec.place), nil
	}
	if r.err != nil {
		return Row{}, r.err
	}
	rec, err := r.read()
	if err != nil {
		r.err = err
		return Row{}, err
	}
	at := rec.place
	if rec.err == nil && r.column < len(rec.fields) {
		at.line, at.column = r.csv.FieldPos(r.column)
	}
	return r.row(rec, at), nil
}

// row checks a record; at is the place of its link.
func (r *Rows) row(rec record, at place) Row {
	row := Row{File: r.source.name, Line: rec.line, Column: rec.column, Fields: rec.fields}
	switch {
	case rec.err != nil:
		row.Err = rec.err
	case len(rec.fields) != len(r.first):
		row.Err = r.badLength(len(rec.fields))
	default:
		row.Line, row.Column = at.line, at.column
		row.Link, row.Err = parseID(rec.fields[r.column])
	}
	return row
}

func (r *Rows) badLength(n int) error {
	fields := "fields"
	if n == 1 {
		fields = "field"
	}
	what := "the first row"
	if r.header {
		what = "the header"
	}
	return fmt.Errorf("%d %s, %s has %d", n, fields, what, len(r.first))
}

// parseID is plexy.ParseID with a short way for the usual cell: of letters,
// digits, '_' and '-' alone nothing has to be taken off or refused.
func parseID(cell string) (string, error) {
	if len(cell) == 0 || len(cell) > 128 {
		return plexy.ParseID(cell)
	}
	for i := range len(cell) {
		c := cell[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return plexy.ParseID(cell)
		}
	}
	return cell, nil
}

// read returns the next record that is not a blank line. The fields are valid
// until the next call. The error is io.EOF, an *InputError or one of the
// operating system.
func (r *Rows) read() (record, error) {
	for {
		r.raw.row = r.csv.InputOffset()
		fields, err := r.csv.Read()
		if err != nil {
			return r.failed(err)
		}
		if r.blank(fields) {
			continue
		}
		if len(fields) > maxColumns {
			line, _ := r.csv.FieldPos(0)
			return record{}, refuse(r.source.name, line, 1, fmt.Sprintf("the row has more than %d fields", maxColumns),
				"It should hold one payment link a row.")
		}
		rec := record{fields: fields}
		rec.line, rec.column = r.csv.FieldPos(0)
		return rec, nil
	}
}

// failed tells apart why a record could not be read.
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

// blank tells whether a row is a line of white space; a quoted cell of white
// space is not, it is a row without an id.
func (r *Rows) blank(fields []string) bool {
	return len(fields) == 1 && fields[0] != "" && strings.TrimSpace(fields[0]) == "" &&
		bytes.IndexByte(r.raw.until(r.csv.InputOffset()), '"') < 0
}

// mistake turns an error of the syntax into a bad row, or refuses the file if
// nobody can say where the next row starts.
func (r *Rows) mistake(syntax *csv.ParseError) (record, error) {
	text := bytes.TrimLeft(r.raw.until(r.csv.InputOffset()), "\r\n") // blank lines before the row
	line, column, open := lastQuoted(text, byte(r.comma))
	line += syntax.StartLine
	switch {
	case open:
		return record{}, refuse(r.source.name, line, column,
			"the file ends inside a quoted field that opens here", "Close the quote; inside quotes, write a quote twice.")
	case bytes.IndexByte(bytes.TrimRight(text, "\r\n"), '\n') >= 0:
		// The field took in whole lines before it broke: links may be among
		// them, so the row cannot be passed over either.
		return record{}, refuse(r.source.name, line, column,
			fmt.Sprintf("a quoted field that opens here meets another quote in line %d", syntax.Line),
			"Close the quote; inside quotes, write a quote twice.")
	}
	rec := record{fields: r.lazyFields(text)}
	rec.line, rec.column = syntax.Line, syntax.Column
	if errors.Is(syntax.Err, csv.ErrQuote) {
		rec.err = errors.New("a quote inside a quoted field that is not written twice")
	} else {
		rec.err = errors.New("a quote inside a field that is not quoted")
	}
	return rec, nil
}

// lazyFields splits a line with a mistake as well as it goes, so that a list
// of bad rows can show it.
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

// tooLong says where the row starts that does not end.
func (r *Rows) tooLong() error {
	before, text := r.raw.kept[:r.raw.row-r.raw.first], r.raw.kept[r.raw.row-r.raw.first:]
	start := 1 + r.raw.lines + bytes.Count(before, []byte("\n"))
	row := bytes.TrimLeft(text, "\r\n") // blank lines before the row
	start += bytes.Count(text[:len(text)-len(row)], []byte("\n"))
	if line, column, open := lastQuoted(row, byte(r.comma)); open {
		return refuse(r.source.name, start+line, column,
			"a quoted field that opens here does not end within 1 MiB", "Close the quote; inside quotes, write a quote twice.")
	}
	return refuse(r.source.name, start, 1, errRowTooLong.Error(), "It should hold one payment link a row.")
}

// Fit copies a row and gives it n fields, so that columns set behind it stand
// where they belong: a short one is filled with empty fields, and what is too
// much goes into the last one, with the delimiter between.
func Fit(fields []string, n int, comma rune) []string {
	fitted := make([]string, n, n+8)
	copied := copy(fitted, fields)
	if n > 0 && copied < len(fields) {
		fitted[n-1] = strings.Join(fields[n-1:], string(comma))
	}
	return fitted
}
