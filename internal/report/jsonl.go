package report

import (
	"bufio"
	"encoding/json"
	"io"
	"time"
)

// jsonLines writes one object per line, with the keys in the order of the columns.
type jsonLines struct {
	w    *bufio.Writer
	keys [][]byte // quoted, with the colon
	line []byte

	verified bool // see Options.Verified
}

func newJSONLines(w io.Writer, names []string, verified bool) *jsonLines {
	j := &jsonLines{w: bufio.NewWriter(w), verified: verified}
	for _, name := range names {
		j.keys = append(j.keys, append(appendJSON(nil, name), ':'))
	}
	return j
}

// write writes an object: the user's columns as strings, then our own. A missing value is null.
func (j *jsonLines) write(theirs []string, l line) error {
	b := append(j.line[:0], '{')
	key := 0
	value := func(v any) {
		if key > 0 {
			b = append(b, ',')
		}
		b = appendJSON(append(b, j.keys[key]...), v)
		key++
	}
	for _, cell := range theirs {
		value(cell)
	}
	var outcome, status, attempts, finished any
	if text := l.outcome(); text != "" {
		outcome = text
	}
	if l.known {
		attempts = l.Attempts
		if l.HTTPStatus != 0 {
			status = l.HTTPStatus
		}
		if !l.FinishedAt.IsZero() {
			finished = l.FinishedAt.UTC().Format(time.RFC3339)
		}
	}
	value(l.Link)
	value(outcome)
	value(status)
	value(l.LinkStatus)
	value(attempts)
	value(finished)
	value(l.Error)
	if j.verified {
		for _, cell := range l.Verified.cells() {
			if cell == "" {
				value(nil)
			} else {
				value(cell)
			}
		}
	}
	j.line = append(b, '}', '\n')
	_, err := j.w.Write(j.line)
	return err
}

// appendJSON appends a string, a number or nil. Encoding these cannot fail.
func appendJSON(b []byte, v any) []byte {
	if v == "" {
		return append(b, `""`...)
	}
	text, _ := json.Marshal(v)
	return append(b, text...)
}
