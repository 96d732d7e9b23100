package report

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"linkcancel/internal/ledger"
)

// maxLine is the maximum length of a line in bytes.
const maxLine = 1 << 20

// ErrBadJournal means that a line is not a line of a journal.
var ErrBadJournal = errors.New("this is not a line of a journal; the file was changed or damaged")

// checkRange refuses positions that a reader would refuse.
func checkRange(chunk, first, n int) error {
	if chunk < 0 || chunk > math.MaxInt32 || first < 0 || n < 1 || first > ledger.ChunkLinks-n {
		return fmt.Errorf("chunk %d cannot have %d links from position %d", chunk, n, first)
	}
	return nil
}

// appendEntry appends the line of an entry.
func appendEntry(b []byte, e ledger.Entry) []byte {
	b = append(b, "r "...)
	b = append(strconv.AppendInt(b, int64(e.Chunk), 10), ' ')
	b = append(strconv.AppendInt(b, int64(e.Position), 10), ' ')
	var record [ledger.RecordSize]byte
	b = append(hex.AppendEncode(b, e.Record.Append(record[:0])), ' ')
	seconds := int64(0)
	if !e.At.IsZero() {
		seconds = min(max(e.At.Unix(), 0), math.MaxUint32)
	}
	b = append(strconv.AppendInt(b, seconds, 10), ' ')
	b = append(appendJSON(b, e.LinkStatus), ' ')
	return append(appendJSON(b, e.Error), '\n')
}

// readJournal reads all complete lines. good is the offset after the last of them.
func readJournal(r io.Reader) (h Header, s *State, good int64, err error) {
	lines := bufio.NewReaderSize(r, maxLine)
	s = newState()
	for number := 1; ; number++ {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == io.EOF && number == 1:
			return h, nil, 0, errors.New("it has no full first line: the run was stopped before it sent anything; delete the journal and start again")
		case err == io.EOF:
			return h, s, good, nil // the rest is a partial line
		case err == bufio.ErrBufferFull:
			return h, nil, 0, fmt.Errorf("line %d: %w", number, ErrBadJournal)
		case err != nil:
			return h, nil, 0, err
		}
		good += int64(len(line))
		line = line[:len(line)-1]
		if number == 1 {
			err = readHeader(line, &h)
			s.canaryOff = h.NoCanary
		} else {
			err = s.apply(line)
		}
		if err != nil {
			return h, nil, 0, fmt.Errorf("line %d: %w", number, err)
		}
	}
}

func readHeader(line []byte, h *Header) error {
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(line, &version) != nil || version.Version < 1 {
		return ErrBadJournal
	}
	if version.Version > JournalVersion {
		return fmt.Errorf("the journal has version %d, and this linkcancel knows versions up to %d: resume with the linkcancel that wrote it",
			version.Version, JournalVersion)
	}
	if json.Unmarshal(line, h) != nil {
		return ErrBadJournal
	}
	return nil
}

// apply applies a line after the header.
func (s *State) apply(line []byte) error {
	if string(line) == "c" {
		s.withdraw()
		s.canaryOff = true
		return nil
	}
	kind, line, found := bytes.Cut(line, []byte(" "))
	if !found || len(kind) != 1 {
		return ErrBadJournal
	}
	switch kind[0] {
	case 's':
		return s.applyStarted(line)
	case 'r':
		return s.applyEntry(line)
	}
	return ErrBadJournal
}

func (s *State) applyStarted(line []byte) error {
	var chunk, first, n int
	if !cutNumber(&line, &chunk) || !cutNumber(&line, &first) || !cutNumber(&line, &n) ||
		len(line) > 0 || checkRange(chunk, first, n) != nil {
		return ErrBadJournal
	}
	s.start(chunk, first, n)
	return nil
}

func (s *State) applyEntry(line []byte) error {
	var e ledger.Entry
	var seconds int
	if !cutNumber(&line, &e.Chunk) || !cutNumber(&line, &e.Position) || checkRange(e.Chunk, e.Position, 1) != nil {
		return ErrBadJournal
	}
	digits, line, _ := bytes.Cut(line, []byte(" "))
	var record [ledger.RecordSize]byte
	if len(digits) != hex.EncodedLen(len(record)) {
		return ErrBadJournal
	}
	if _, err := hex.Decode(record[:], digits); err != nil {
		return ErrBadJournal
	}
	e.Record = ledger.DecodeRecord(record[:])
	if !cutNumber(&line, &seconds) || seconds > math.MaxUint32 {
		return ErrBadJournal
	}
	if seconds > 0 {
		e.At = time.Unix(int64(seconds), 0).UTC()
	}
	if !cutText(&line, &e.LinkStatus) || !cutText(&line, &e.Error) || len(line) > 0 ||
		int(e.Record.Outcome) > len(ledger.Outcomes) {
		return ErrBadJournal
	}
	s.commit(e)
	return nil
}

// cutNumber removes a decimal number and the space after it from the start of the line.
func cutNumber(line *[]byte, n *int) bool {
	digits, rest, _ := bytes.Cut(*line, []byte(" "))
	if len(digits) == 0 || len(digits) > 10 {
		return false
	}
	*n = 0
	for _, c := range digits {
		if c < '0' || c > '9' {
			return false
		}
		*n = *n*10 + int(c-'0')
	}
	*line = rest
	return true
}

// cutText removes a JSON string and the space after it from the start of the line.
func cutText(line *[]byte, text *string) bool {
	b := *line
	if len(b) < 2 || b[0] != '"' {
		return false
	}
	end, plain := 1, true
	for ; end < len(b) && b[end] != '"'; end++ {
		if b[end] == '\\' {
			plain = false
			end++
		} else if b[end] < ' ' || b[end] >= utf8.RuneSelf {
			plain = false // leave it to the JSON decoder
		}
	}
	if end >= len(b) {
		return false
	}
	end++
	switch {
	case plain:
		*text = string(b[1 : end-1])
	case json.Unmarshal(b[:end], text) != nil:
		return false
	}
	*line = bytes.TrimPrefix(b[end:], []byte(" "))
	return true
}
