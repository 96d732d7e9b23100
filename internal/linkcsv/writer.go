package linkcsv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"io"
)

// Writer writes rows that end like those of another file. Unlike encoding/csv it leaves the line ends
// within cells as they are.
type Writer struct {
	out  *bufio.Writer
	row  bytes.Buffer
	csv  *csv.Writer // to row
	crlf bool
}

// NewWriter returns a Writer with a delimiter. crlf: rows end as on Windows. mark: a byte-order mark
// comes first.
func NewWriter(w io.Writer, comma rune, crlf, mark bool) *Writer {
	out := &Writer{out: bufio.NewWriter(w), crlf: crlf}
	if mark {
		_, _ = out.out.WriteString("\ufeff") // Flush returns the error
	}
	out.csv = csv.NewWriter(&out.row)
	out.csv.Comma = comma
	return out
}

// Write writes a row.
func (w *Writer) Write(fields []string) error {
	w.row.Reset()
	if err := w.csv.Write(fields); err != nil {
		return err
	}
	w.csv.Flush()
	if w.crlf {
		w.row.Truncate(w.row.Len() - 1)
		w.row.WriteString("\r\n")
	}
	_, err := w.out.Write(w.row.Bytes())
	return err
}

// Flush writes what is left.
func (w *Writer) Flush() error { return w.out.Flush() }
