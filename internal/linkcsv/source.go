package linkcsv

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"regexp"
	"unicode/utf8"
)

// headSize is how many bytes of a file are checked before a row is read.
const headSize = 64 << 10

// Name returns the name of the file at path in messages: "-" is stdin.
func Name(path string) string {
	if path == "-" {
		return "stdin"
	}
	return path
}

// source is the text of a file, unpacked and without its byte-order mark.
type source struct {
	name string
	raw  *bufio.Reader // unpacked
	text *decoder
	head []byte // the first headSize bytes of raw, or all of it
	gzip bool
	mark bool     // it begins with a byte-order mark
	crlf bool     // its first line ends as on Windows
	file *os.File // nil for standard input
}

// openSource opens a file and refuses it if it cannot be CSV.
func openSource(path string, stdin io.Reader) (*source, error) {
	s := &source{name: Name(path)}
	raw := stdin
	if path == "-" {
		if stdin == nil {
			return nil, refuse(s.name, Place{}, "standard input cannot be read here", "Give the name of a file.")
		}
	} else {
		file, err := openRegular(path)
		if err != nil {
			return nil, err
		}
		s.file, raw = file, file
	}
	if err := s.begin(raw); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func openRegular(path string) (*os.File, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, cannotOpen(path, err)
	}
	return file, nil
}

// CheckPath checks that there is a file at path. The error is an *InputError.
func CheckPath(path string) error {
	if path == "-" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return cannotOpen(path, err)
	}
	if info.IsDir() {
		return refuse(path, Place{}, "this is a directory", "Give the name of a CSV file.")
	}
	return nil
}

func cannotOpen(path string, err error) error {
	why := err
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		why = pathError.Err // without the path, which the message has already
	}
	e := refuse(path, Place{}, fmt.Sprintf("cannot open it: %v", why), "Check the name and the permissions of the file.")
	if errors.Is(err, fs.ErrNotExist) {
		e = refuse(path, Place{}, "no such file", "Check the name of the file.")
	}
	e.Cause = err
	return e
}

// begin unpacks the text, checks its head and removes all byte-order marks.
func (s *source) begin(raw io.Reader) error {
	s.raw = bufio.NewReaderSize(raw, headSize)
	magic, err := s.raw.Peek(2)
	if err != nil && err != io.EOF {
		return s.readError(err)
	}
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		s.gzip = true
		unpacked, err := gzip.NewReader(s.raw)
		if err != nil {
			return s.readError(err)
		}
		s.raw = bufio.NewReaderSize(unpacked, headSize)
	}
	// A read error after some text is returned with its position when the rows are read.
	s.head, err = s.raw.Peek(headSize)
	if err != nil && err != io.EOF && len(s.head) == 0 {
		return s.readError(err)
	}
	if err := s.checkHead(); err != nil {
		return err
	}
	for bytes.HasPrefix(s.head, []byte("\ufeff")) {
		_, _ = s.raw.Discard(len("\ufeff")) // cannot fail: it was peeked
		s.head, s.mark = s.head[len("\ufeff"):], true
	}
	s.crlf = firstRowIsCRLF(s.head)
	s.text = &decoder{raw: s.raw}
	if s.mark {
		s.text.decoded = s.raw
	}
	return nil
}

// checkHead refuses a file whose first bytes are not text.
func (s *source) checkHead() error {
	head := s.head
	switch {
	case len(bytes.TrimSpace(bytes.TrimPrefix(head, []byte("\ufeff")))) == 0 && len(head) < headSize:
		return refuse(s.name, Place{}, "the file is empty", "It should hold one payment link a row.")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")),
		bytes.HasPrefix(head, []byte("\xd0\xcf\x11\xe0")):
		return refuse(s.name, Place{}, "a spreadsheet or zip file, not a CSV file", "Open it and export it as CSV.")
	case isUTF16(head):
		return refuse(s.name, Place{}, "the file is in UTF-16", "Save it as UTF-8, in a spreadsheet: “CSV UTF-8 (Comma delimited)”.")
	case isBinary(head):
		return refuse(s.name, Place{}, "a binary file, not a CSV file", "Give a text file with one payment link a row.")
	case bytes.IndexByte(head, '\r') >= 0 && bytes.IndexByte(head, '\n') < 0 && len(bytes.TrimRight(head, "\r")) > bytes.IndexByte(head, '\r'):
		return refuse(s.name, Place{}, "its lines end with a carriage return alone", `Save it with line ends of Unix (\n) or Windows (\r\n).`)
	}
	return nil
}

// isUTF16 looks for a byte-order mark of UTF-16 or 32, or for zero bytes at every second place.
func isUTF16(head []byte) bool {
	if bytes.HasPrefix(head, []byte{0xff, 0xfe}) || bytes.HasPrefix(head, []byte{0xfe, 0xff}) ||
		bytes.HasPrefix(head, []byte{0, 0, 0xfe, 0xff}) {
		return true
	}
	var zeros [2]int
	for i, b := range head {
		if b == 0 {
			zeros[i%2]++
		}
	}
	half := len(head) / 2
	return half >= 2 && (zeros[0]*10 > half*8 && zeros[1]*10 < half ||
		zeros[1]*10 > half*8 && zeros[0]*10 < half)
}

// isBinary looks for a zero byte or many control characters: one in twenty, while random bytes have
// one in nine. Invalid UTF-8 may be an old code page with ASCII ids.
func isBinary(head []byte) bool {
	controls := 0
	for _, b := range head {
		switch {
		case b == 0:
			return true
		case b == '\t' || b == '\n' || b == '\r':
		case b < ' ' || b == 0x7f:
			controls++
		}
	}
	return controls >= 8 && controls*20 > len(head)
}

// readError returns an *InputError for a damaged gzip file, and wraps other errors.
func (s *source) readError(err error) error {
	var corrupt flate.CorruptInputError
	if s.gzip && (errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.As(err, &corrupt)) {
		e := refuse(s.name, Place{}, fmt.Sprintf("the gzip file is damaged or cut off (%v)", err),
			"Make or copy the file again.")
		e.Cause = err
		return e
	}
	return fmt.Errorf("read %s: %w", s.name, err)
}

// regular reports whether the file can be opened again.
func (s *source) regular() bool {
	if s.file == nil {
		return false
	}
	info, err := s.file.Stat()
	return err == nil && info.Mode().IsRegular()
}

func (s *source) close() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

// separatorLine is a first line such as sep=; which sets the delimiter for Excel.
var separatorLine = regexp.MustCompile(`^(?i:"?sep=([^\s"a-z0-9]|\t)"?)[,;\t]*\r?(\n|$)`)

// comma finds the delimiter: of a separator line, or the one of ',', ';' and tab that is most
// frequent outside quotes in the first record. If it has none, the next one without an id counts.
func (s *source) comma() (comma rune, named bool) {
	if found := separatorLine.FindSubmatch(s.head); found != nil && found[1][0] < utf8.RuneSelf {
		return rune(found[1][0]), true
	}
	first := true
	for record := range records(s.head) {
		oneColumn := holdsID(string(record)) || isLinkName(string(record))
		if comma, found := delimiterOf(record); found && (first || !oneColumn) {
			return comma, false
		}
		if oneColumn {
			break
		}
		first = false
	}
	return ',', false
}

// records splits a text at line ends outside quotes and skips empty lines.
func records(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		start, quoted := 0, false
		for i, b := range text {
			if b == '"' {
				quoted = !quoted
			}
			if b != '\n' || quoted {
				continue
			}
			if record := bytes.TrimRight(text[start:i], "\r"); len(record) > 0 && !yield(record) {
				return
			}
			start = i + 1
		}
		if start < len(text) {
			yield(text[start:])
		}
	}
}

// delimiterOf returns the delimiter that a record has most often outside quotes.
func delimiterOf(record []byte) (comma rune, found bool) {
	var counts [utf8.RuneSelf]int
	quoted := false
	for _, b := range record {
		if b == '"' {
			quoted = !quoted
		}
		if b < utf8.RuneSelf && !quoted {
			counts[b]++
		}
	}
	comma = ','
	for _, c := range ";\t" {
		if counts[c] > counts[comma] {
			comma = c
		}
	}
	return comma, counts[comma] > 0
}

// firstRowIsCRLF reports whether the first row ends as on Windows. Cells in quotes have line ends of
// their own.
func firstRowIsCRLF(head []byte) bool {
	quoted := false
	for i, b := range head {
		switch {
		case b == '"':
			quoted = !quoted
		case b == '\n' && !quoted:
			return i > 0 && head[i-1] == '\r'
		}
	}
	return false
}
