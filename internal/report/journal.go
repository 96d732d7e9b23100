package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"linkcancel/internal/ledger"
)

// JournalVersion is the format that is written. Version 1, which has no "c" lines, is read too.
const JournalVersion = 2

// Header is the first line of a journal. It holds what a resume needs.
type Header struct {
	Version     int       `json:"version"` // JournalVersion; CreateJournal sets it
	Batch       string    `json:"batch"`
	Digest      string    `json:"digest"` // of the batch's links, to check that the files are the same
	Name        string    `json:"name,omitempty"`
	Files       []string  `json:"files"`
	API         string    `json:"api,omitempty"` // its base URL
	Column      string    `json:"column,omitempty"`
	AnyID       bool      `json:"any_id,omitempty"`
	SkipInvalid bool      `json:"skip_invalid,omitempty"`
	NoCanary    bool      `json:"no_canary,omitempty"`
	Rate        string    `json:"rate,omitempty"` // as ratelimit.ParseRate reads it
	Attempts    int       `json:"attempts,omitempty"`
	Retry       bool      `json:"retry,omitempty"`  // the file is a report, whose unfinished links are run again
	Verify      string    `json:"verify,omitempty"` // see ledger.Terms
	PauseAbove  string    `json:"pause_above,omitempty"`
	Total       int64     `json:"total"`
	Created     time.Time `json:"created"`
}

// Journal is the file that `run --resume` reads. Every call hands its lines to the
// operating system before it returns, so a kill loses none. They are synced to disk once a
// second, so a power failure may lose a second. Its methods are safe for concurrent use.
// After the first error of a write or sync, all calls return that error and write nothing,
// because lines after a partial line could not be read.
//
// One line of text is one event:
//
//	s 0 50 50                       chunk, first position, links: their requests may be sent from now on
//	r 0 51 <record> <unix> "" "…"   chunk, position, record in hex, seconds, link status, error
//	c                               the canary is off; the outcomes of its row are withdrawn
type Journal struct {
	path string
	file *os.File
	stop chan struct{}
	done chan struct{} // closed when syncing has ended

	mu     sync.Mutex
	line   []byte
	dirty  bool
	closed bool
	err    error
}

// ErrJournalClosed means that the journal was used after Close.
var ErrJournalClosed = errors.New("the journal is closed")

// CreateJournal creates and syncs a private journal. The error may wrap fs.ErrExist.
func CreateJournal(path string, h Header) (*Journal, error) {
	h.Version = JournalVersion
	line, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("create journal %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create journal: %s is left from an unfinished run (%w)", path, fs.ErrExist)
	}
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	err = lock(file)
	if err == nil {
		_, err = file.Write(append(line, '\n'))
	}
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(path) // nothing was sent yet
		return nil, fmt.Errorf("create journal %s: %w", path, err)
	}
	syncFolder(filepath.Dir(path))
	return newJournal(path, file), nil
}

// OpenJournal reads the journal of an interrupted run and opens it for appending. It
// removes a partial last line. Any other unreadable line is an error with its number, and
// so are an unknown version and a journal that another process is writing.
func OpenJournal(path string) (Header, *State, *Journal, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Header{}, nil, nil, fmt.Errorf("open journal: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Header{}, nil, nil, fmt.Errorf("open journal %s: it is a symbolic link, or not a regular file", path)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return Header{}, nil, nil, fmt.Errorf("open journal: %w", err)
	}
	if opened, err := file.Stat(); err != nil || !os.SameFile(info, opened) {
		_ = file.Close()
		return Header{}, nil, nil, fmt.Errorf("open journal %s: it has just been replaced", path)
	}
	h, state, err := recoverJournal(file)
	if err != nil {
		_ = file.Close()
		return Header{}, nil, nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return h, state, newJournal(path, file), nil
}

// ReadHeader reads the header of a journal, which another process may be writing.
func ReadHeader(path string) (h Header, err error) {
	file, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer file.Close()
	line, err := bufio.NewReaderSize(file, maxLine).ReadSlice('\n')
	if err != nil {
		return h, fmt.Errorf("read journal %s: %w", path, ErrBadJournal)
	}
	return h, readHeader(line, &h)
}

// Progress returns the header of a journal and how many links have an outcome. busy: another process
// is writing it.
func Progress(path string) (h Header, done int64, busy bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return h, 0, false, err
	}
	defer file.Close() // and the lock
	busy = lock(file) != nil
	h, state, _, err := readJournal(file)
	if err != nil {
		return h, 0, busy, fmt.Errorf("read journal %s: %w", path, err)
	}
	for _, links := range state.chunks {
		for i := range links {
			if ledger.DecodeRecord(links[i].record[:]).Outcome != ledger.None {
				done++
			}
		}
	}
	return h, done, busy, nil
}

// recoverJournal reads the file and removes a partial last line.
func recoverJournal(file *os.File) (Header, *State, error) {
	if err := lock(file); err != nil {
		return Header{}, nil, err
	}
	h, state, good, err := readJournal(file)
	if err != nil {
		return Header{}, nil, err
	}
	if err := file.Truncate(good); err != nil {
		return Header{}, nil, err
	}
	return h, state, file.Sync()
}

func newJournal(path string, file *os.File) *Journal {
	j := &Journal{path: path, file: file, stop: make(chan struct{}), done: make(chan struct{})}
	go j.syncEverySecond()
	return j
}

// Started notes that requests for n links of a chunk from first on are about to be sent.
func (j *Journal) Started(chunk, first, n int) error {
	if err := checkRange(chunk, first, n); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return j.write(func(b []byte) []byte {
		return fmt.Appendf(b, "s %d %d %d\n", chunk, first, n)
	})
}

// Commit notes outcomes and attempts.
func (j *Journal) Commit(entries []ledger.Entry) error {
	for _, e := range entries {
		if err := checkRange(e.Chunk, e.Position, 1); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return j.write(func(b []byte) []byte {
		for _, e := range entries {
			b = appendEntry(b, e)
		}
		return b
	})
}

// CanaryOff notes that the canary is off and the outcomes that tripped it are withdrawn.
func (j *Journal) CanaryOff() error {
	return j.write(func(b []byte) []byte { return append(b, "c\n"...) })
}

// write appends lines in one write call.
func (j *Journal) write(add func([]byte) []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed && j.err == nil {
		return fmt.Errorf("write journal %s: %w", j.path, ErrJournalClosed)
	}
	if j.err != nil {
		return j.err
	}
	j.line = add(j.line[:0])
	j.dirty = true
	if _, err := j.file.Write(j.line); err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
	}
	return j.err
}

func (j *Journal) syncEverySecond() {
	defer close(j.done)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-j.stop:
			return
		case <-ticker.C:
			j.sync()
		}
	}
}

// sync syncs the file without blocking writers.
func (j *Journal) sync() {
	j.mu.Lock()
	dirty := j.dirty && j.err == nil
	j.dirty = false
	j.mu.Unlock()
	if !dirty {
		return
	}
	if err := j.file.Sync(); err != nil {
		j.mu.Lock()
		if j.err == nil {
			j.err = fmt.Errorf("sync journal: %w", err)
		}
		j.mu.Unlock()
	}
}

// Close syncs and closes the journal and returns the first error of any call.
func (j *Journal) Close() error {
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.mu.Unlock()
	if closed {
		return nil
	}
	close(j.stop)
	<-j.done
	j.sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.file.Close(); err != nil && j.err == nil {
		j.err = fmt.Errorf("close journal: %w", err)
	}
	return j.err
}

// Remove closes and deletes the journal of a finished run. Earlier errors do not matter.
func (j *Journal) Remove() error {
	_ = j.Close()
	if err := os.Remove(j.path); err != nil {
		return fmt.Errorf("remove journal: %w", err)
	}
	syncFolder(filepath.Dir(j.path))
	return nil
}
