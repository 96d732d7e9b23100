package linkcsv

import (
	"bytes"
	"errors"
	"io"
)

// maxRow is the maximum length of a row in bytes, in case a quote is never closed.
const maxRow = 1 << 20

var errRowTooLong = errors.New("the row is longer than 1 MiB")

// rawReader passes a text on and keeps the current row, because errors of encoding/csv lack it.
type rawReader struct {
	from  io.Reader
	kept  []byte
	first int64 // offset in the text of kept[0]
	lines int   // line ends before kept[0]
	row   int64 // offset of the current row
}

func (r *rawReader) Read(p []byte) (int, error) {
	done := min(r.row-r.first, int64(len(r.kept)))
	r.lines += bytes.Count(r.kept[:done], []byte("\n"))
	r.kept = r.kept[:copy(r.kept, r.kept[done:])]
	r.first += done
	if len(r.kept) > maxRow {
		return 0, errRowTooLong
	}
	n, err := r.from.Read(p)
	r.kept = append(r.kept, p[:n]...)
	return n, err
}

// until returns the current row up to the offset end. It is valid until the next Read.
func (r *rawReader) until(end int64) []byte {
	return r.kept[r.row-r.first : min(end-r.first, int64(len(r.kept)))]
}

// lastQuoted finds the quoted field at which encoding/csv stopped in a record: the lines before it,
// its column in bytes from 1, and whether the text ends before the field is closed.
func lastQuoted(record []byte, comma byte) (line, column int, open bool) {
	start := 0 // of the line
	at, lines := 0, 0
	for at < len(record) {
		if record[at] != '"' {
			next := bytes.IndexAny(record[at:], string(rune(comma))+"\n")
			if next < 0 || record[at+next] == '\n' {
				return line, column, false
			}
			at += next + 1
			continue
		}
		line, column = lines, at-start+1
		at++
		for closed := false; !closed; {
			switch {
			case at >= len(record):
				return line, column, true
			case record[at] == '\n':
				lines++
				start = at + 1
			case record[at] == '"' && at+1 < len(record) && record[at+1] == '"':
				at++
			case record[at] == '"':
				closed = true
			}
			at++
		}
		if at < len(record) && record[at] != comma {
			return line, column, false
		}
		at++
	}
	return line, column, false
}
