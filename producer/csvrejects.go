package producer

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"

	"linkcancel/internal/linkcsv"
)

// rejects writes rows that were passed over, so that they can be corrected and
// imported by themselves.
type rejects struct {
	csv       *csv.Writer
	manyFiles bool     // then an error names the file
	header    []string // the one written last
}

func newRejects(w io.Writer, manyFiles bool) *rejects {
	return &rejects{csv: csv.NewWriter(w), manyFiles: manyFiles}
}

// write adds a row under the header of its file; files with another header get
// a new one.
func (r *rejects) write(rows *linkcsv.Rows, row linkcsv.Row) error {
	header := rows.Header()
	if r.header == nil {
		r.csv.Comma = rows.Comma()
	}
	if !slices.Equal(header, r.header) {
		r.header = header
		if err := r.record(append(slices.Clone(header), "line", "error")); err != nil {
			return err
		}
	}
	why := row.Err.Error()
	if r.manyFiles {
		why = row.File + ": " + why
	}
	fields := linkcsv.Fit(row.Fields, len(header), rows.Comma())
	return r.record(append(fields, strconv.Itoa(row.Line), why))
}

func (r *rejects) record(fields []string) error {
	if err := r.csv.Write(fields); err != nil {
		return fmt.Errorf("write rejected rows: %w", err)
	}
	return nil
}

func (r *rejects) flush() error {
	r.csv.Flush()
	if err := r.csv.Error(); err != nil {
		return fmt.Errorf("write rejected rows: %w", err)
	}
	return nil
}
