package main

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// queueMost is how many bytes wait for a slow reader of standard error.
const queueMost = 1 << 20

// queue writes to a file that may block: a pipe without a reader, or a terminal stopped
// with Ctrl-S. Write never waits. When too much waits, it drops
// what it is given and counts the lines.
type queue struct {
	to io.Writer
	// note writes the line that says how many lines were dropped; nil: none does.
	note func(lines int64) []byte

	mu      sync.Mutex
	changed sync.Cond
	waiting []byte
	dropped int64 // lines, since the last note
	writing bool  // a goroutine writes
	stuck   bool  // a flush gave up, and nothing was written since
}

func newQueue(to io.Writer) *queue {
	q := &queue{to: to}
	q.changed.L = &q.mu
	return q
}

// Write is part of io.Writer. It takes whole lines, and always returns a nil error.
func (q *queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting)+len(p) > queueMost {
		q.dropped += max(1, int64(bytes.Count(p, []byte("\n"))))
		return len(p), nil
	}
	q.noteDropped()
	q.waiting = append(q.waiting, p...)
	if !q.writing {
		q.writing = true
		go q.write()
	}
	return len(p), nil
}

// noteDropped puts the note in the place of the dropped lines.
func (q *queue) noteDropped() {
	if q.dropped > 0 && q.note != nil {
		q.waiting = append(q.waiting, q.note(q.dropped)...)
		q.dropped = 0
	}
}

// write writes until nothing waits.
func (q *queue) write() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 {
		text := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		_, _ = q.to.Write(text)
		q.mu.Lock()
		q.stuck = false
		if len(q.waiting) == 0 {
			q.noteDropped()
		}
	}
	q.writing = false
	q.changed.Broadcast()
}

// flush waits for patience until all is written, or not at all if the last flush failed.
func (q *queue) flush(patience time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.writing || q.stuck {
		return
	}
	expired := false
	timer := time.AfterFunc(patience, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		expired = true
		q.changed.Broadcast()
	})
	defer timer.Stop()
	for q.writing && !expired {
		q.changed.Wait()
	}
	q.stuck = q.writing
}
