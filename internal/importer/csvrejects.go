package importer

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"linkcancel/internal/linkcsv"
)

// rejects writes skipped rows, so that they can be corrected and imported separately.
type rejects struct {
	to        io.Writer
	csv       *linkcsv.Writer // nil before the first row
	manyFiles bool            // errors name the file
	header    []string        // the last one written
}

func newRejects(w io.Writer, manyFiles bool) *rejects {
	return &rejects{to: w, manyFiles: manyFiles}
}

// write writes a row below the header of its file, a new one if the header differs.
func (r *rejects) write(rows *linkcsv.Rows, row linkcsv.Row) error {
	header := rows.Header()
	if r.csv == nil {
		r.csv = linkcsv.NewWriter(r.to, rows.Comma(), rows.CRLF(), rows.Mark())
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
	if r.csv == nil {
		return nil
	}
	if err := r.csv.Flush(); err != nil {
		return fmt.Errorf("write rejected rows: %w", err)
	}
	return nil
}
