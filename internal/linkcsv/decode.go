package linkcsv

import (
	"bufio"
	"io"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// decidedBy is how many bytes decide about the encoding of a text.
const decidedBy = 4096

// decoder reads a text as UTF-8. Spreadsheets also save the code page of the system: Windows-1251
// for Cyrillic, Windows-1252 in Western Europe. The first bytes beyond ASCII decide.
type decoder struct {
	raw     *bufio.Reader
	decoded io.Reader // nil while everything was ASCII
	legacy  bool      // decoded from a code page
}

// Read is part of io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	if d.decoded != nil {
		return d.decoded.Read(p)
	}
	head, err := d.raw.Peek(decidedBy)
	ascii := 0
	for ascii < len(head) && head[ascii] < utf8.RuneSelf {
		ascii++
	}
	switch {
	case ascii > 0:
		n := copy(p, head[:ascii])
		_, _ = d.raw.Discard(n) // cannot fail: it was peeked
		return n, nil
	case len(head) == 0:
		return 0, err
	}
	d.legacy = !validStart(head)
	switch {
	case !d.legacy:
		d.decoded = d.raw
	case cyrillic(head):
		d.decoded = charmap.Windows1251.NewDecoder().Reader(d.raw)
	default:
		d.decoded = charmap.Windows1252.NewDecoder().Reader(d.raw)
	}
	return d.decoded.Read(p)
}

// validStart reports whether a text is UTF-8. Its last character may be cut off.
func validStart(text []byte) bool {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == utf8.RuneError && size == 1 {
			return !utf8.FullRune(text)
		}
		text = text[size:]
	}
	return true
}

// cyrillic reports whether the letters beyond ASCII stand beside one another, as in Cyrillic words.
// In Western languages they stand alone among ASCII letters.
func cyrillic(text []byte) bool {
	const letter = 0xc0 // and above, in both code pages
	together, alone := 0, 0
	for i, b := range text {
		switch {
		case b < letter:
		case i > 0 && text[i-1] >= letter, i+1 < len(text) && text[i+1] >= letter:
			together++
		default:
			alone++
		}
	}
	return together > alone
}

// isASCII reports whether a text has only characters of ASCII.
func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// IsASCII reports whether a file has only characters of ASCII.
func IsASCII(path string) (bool, error) {
	s, err := openSource(path, nil)
	if err != nil {
		return false, err
	}
	defer s.close()
	for {
		chunk, err := s.raw.Peek(headSize)
		for _, b := range chunk {
			if b >= utf8.RuneSelf {
				return false, nil
			}
		}
		if err != nil && len(chunk) < headSize {
			return true, nil // a read error shows when the rows are read
		}
		_, _ = s.raw.Discard(len(chunk)) // cannot fail: it was peeked
	}
}

// Header returns the first row of a file.
func Header(path string) ([]string, error) {
	s, err := openSource(path, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	r := newReader(s.text)
	comma, separator := s.comma()
	r.Comma = comma
	if separator {
		if _, err := r.Read(); err != nil {
			return nil, err
		}
	}
	return r.Read()
}
