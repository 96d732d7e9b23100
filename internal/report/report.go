// Package report writes the result of each link, as a list or joined to the rows of the
// user's CSV file. It also keeps the journal that an interrupted run is resumed from.
package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
)

// Result is one row of a report.
type Result struct {
	Link       string
	Outcome    ledger.Outcome // None for a pending link
	HTTPStatus int            // of the last answer to a DELETE, 0 without one
	LinkStatus string         // as the API spells it; empty if unknown
	Attempts   int
	FinishedAt time.Time // zero without an outcome
	Error      string
	Verified   Verified
}

// The formats of a report.
const (
	FormatCSV   = "csv"
	FormatJSONL = "jsonl" // one JSON object per line
)

// Options are the options of a report.
type Options struct {
	// Format is csv or jsonl. Empty means csv.
	Format string
	// Outcomes selects rows by outcome, with None for pending links. Empty selects all rows.
	Outcomes []ledger.Outcome
	// NoFormulaGuard leaves formulas in cells as they are. JSON is never guarded.
	NoFormulaGuard bool
	// Mark begins a CSV report with a byte-order mark, because a result has characters beyond
	// ASCII. A report that is joined to a file with such characters always has one.
	Mark bool
	// Verified adds columns for what verifications found.
	Verified bool
}

// columns are the names of our own columns. The last verifiedColumns of them are only there if the
// batch was verified.
var columns = []string{"link", "outcome", "http_status", "link_status", "attempts", "finished_at", "error", "verified", "verified_status", "verified_at"}

const verifiedColumns = 3

// own are the names of the columns of a report.
func own(verified bool) []string {
	if verified {
		return columns
	}
	return columns[:len(columns)-verifiedColumns]
}

// line is one row of a report.
type line struct {
	Result
	known   bool // its link is in the batch
	skipped bool // it was not a link
}

// outcome is "" for a link that is not in the batch.
func (l line) outcome() string {
	switch {
	case l.known:
		return l.Outcome.String()
	case l.skipped:
		return "skipped"
	}
	return ""
}

// cells returns the values of our own columns, without those of verifications.
func (l line) cells() []string {
	cells := []string{l.Link, l.outcome(), "", l.LinkStatus, "", "", l.Error}
	if !l.known {
		return cells
	}
	if l.HTTPStatus != 0 {
		cells[2] = strconv.Itoa(l.HTTPStatus)
	}
	cells[4] = strconv.Itoa(l.Attempts)
	if !l.FinishedAt.IsZero() {
		cells[5] = l.FinishedAt.UTC().Format(time.RFC3339)
	}
	return cells
}

// Write writes a list of results. It returns the first error of results.
func Write(w io.Writer, results iter.Seq2[Result, error], opt Options) error {
	t, err := newTable(w, nil, text{comma: ','}, opt)
	if err != nil {
		return err
	}
	for result, err := range results {
		if err != nil {
			return fmt.Errorf("read the results: %w", err)
		}
		if err := t.write(nil, line{Result: result, known: true}); err != nil {
			return err
		}
	}
	return t.flush()
}

// WriteJoined writes every row of the user's files, in order and with duplicates, followed
// by the result of its link. column is the column of the links as in linkcsv.Options, and
// find returns the result of a link, or false if it is not in the batch. All files must
// have the same columns. The error is an *linkcsv.InputError if a file cannot be read.
func WriteJoined(w io.Writer, files []string, column string, find func(link string) (Result, bool), opt Options) error {
	if len(files) == 0 {
		return errors.New("join the results: no file is named")
	}
	var t *table
	var header []string
	for _, file := range files {
		rows, err := linkcsv.OpenRows(file, nil, linkcsv.Options{Column: column, AnyID: true})
		if errors.Is(err, linkcsv.ErrNoRows) && len(files) > 1 {
			continue
		}
		if err != nil {
			return err
		}
		switch names := rows.Header(); {
		case t == nil:
			header = names
			var theirs text
			if theirs, err = textOf(rows, files); err == nil {
				t, err = newTable(w, header, theirs, opt)
			}
		case !slices.Equal(names, header):
			err = &linkcsv.InputError{
				Bad:  []linkcsv.Bad{{File: file, Place: linkcsv.Place{Row: 1, Line: 1}, Why: fmt.Sprintf("its columns are %q, those of %s are %q", names, files[0], header)}},
				Hint: "Files joined in one report must have the same columns in the same order. Join them one by one.",
			}
		}
		if err == nil {
			err = t.join(rows, find)
		}
		_ = rows.Close()
		if err != nil {
			return err
		}
	}
	if t == nil {
		return nil
	}
	return t.flush()
}

// text is how the lines of the user's files look. The report looks the same.
type text struct {
	comma rune
	crlf  bool
	mark  bool // a byte-order mark, without which Excel takes UTF-8 for an old code page
}

// textOf returns how the files look. The report gets a byte-order mark if the first one has it, or
// if a file has a character beyond ASCII.
func textOf(rows *linkcsv.Rows, files []string) (text, error) {
	t := text{comma: rows.Comma(), crlf: rows.CRLF(), mark: rows.Mark()}
	for _, file := range files {
		if t.mark {
			break
		}
		ascii, err := linkcsv.IsASCII(file)
		if err != nil {
			return t, err
		}
		t.mark = !ascii
	}
	return t, nil
}

// join writes the rows of one file.
func (t *table) join(rows *linkcsv.Rows, find func(link string) (Result, bool)) error {
	for {
		row, err := rows.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var l line
		if row.Err == nil {
			l.Result, l.known = find(row.Link)
		}
		l.Link = row.Link
		if !l.known {
			l = notFound(row)
		}
		if err := t.write(linkcsv.Fit(row.Fields, t.theirs, rows.Comma()), l); err != nil {
			return err
		}
	}
}

// notFound is the line of a row whose link is not in the batch. A row is doubtful if its id is valid
// only with --any-id, and only the batch shows whether that was set.
func notFound(row linkcsv.Row) line {
	skipped := cmp.Or(row.Err, row.Doubt)
	if skipped != nil {
		return line{Result: Result{Error: "skipped: " + skipped.Error()}, skipped: true}
	}
	return line{Result: Result{Link: row.Link, Error: "not in this batch"}}
}

// table writes rows in one of the formats.
type table struct {
	opt    Options
	theirs int             // number of the user's columns
	csv    *linkcsv.Writer // nil for jsonl
	jsonl  *jsonLines      // nil for csv
}

// newTable returns a table after writing its header, if the format has one.
func newTable(w io.Writer, theirs []string, like text, opt Options) (*table, error) {
	t := &table{opt: opt, theirs: len(theirs)}
	switch opt.Format {
	case FormatJSONL:
		t.jsonl = newJSONLines(w, jsonNames(theirs, own(opt.Verified)), opt.Verified)
		return t, nil
	case FormatCSV, "":
		t.csv = linkcsv.NewWriter(w, like.comma, like.crlf, like.mark || opt.Mark)
		return t, t.record(append(slices.Clone(theirs), ownNames(theirs, own(opt.Verified))...))
	}
	return nil, fmt.Errorf("unknown report format %q: use %s or %s", opt.Format, FormatCSV, FormatJSONL)
}

func (t *table) write(theirs []string, l line) error {
	if len(t.opt.Outcomes) > 0 && (!l.known || !slices.Contains(t.opt.Outcomes, l.Outcome)) {
		return nil
	}
	if t.jsonl != nil {
		return writeError(t.jsonl.write(theirs, l))
	}
	return t.record(append(theirs, t.cells(l)...))
}

// cells returns the values of our own columns.
func (t *table) cells(l line) []string {
	if t.opt.Verified {
		return append(l.cells(), l.Verified.cells()...)
	}
	return l.cells()
}

// record writes a row of CSV. It may change fields.
func (t *table) record(fields []string) error {
	if !t.opt.NoFormulaGuard {
		for i, cell := range fields {
			fields[i] = guard(cell)
		}
	}
	return writeError(t.csv.Write(fields))
}

func (t *table) flush() error {
	if t.jsonl != nil {
		return writeError(t.jsonl.w.Flush())
	}
	return writeError(t.csv.Flush())
}

func writeError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write the report: %w", err)
}
