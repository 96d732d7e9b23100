package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"linkcancel/internal/clean"
)

// output is standard output or standard error. Nothing that a terminal obeys
// gets through to where a person reads: file names, cells of the user's file and
// answers of servers are shown there. The error of a write is kept, since few
// who print look at it.
type output struct {
	to      io.Writer
	secrets *clean.Secrets // to be hidden; nil: none
	queue   *queue         // of standard error; a write to standard output waits for it
	bounded bool           // no write waits for longer than boundedWrite

	mu    sync.Mutex
	clean io.Writer // nil: data, which goes out as it is
	err   error
}

const (
	// boundedWrite is how long a bounded output waits for its reader.
	boundedWrite = 2 * time.Second
	// orderFlush is how long standard output waits for standard error, so that both
	// stand in order on a terminal, and lastFlush how long the end of the process does.
	orderFlush = 500 * time.Millisecond
	lastFlush  = 2 * time.Second
)

var errNotRead = errors.New("write standard output: nobody reads it")

// newOutputs wraps standard output and standard error. What goes to a file or a
// pipe by standard output is data.
func newOutputs(stdout, stderr io.Writer, secrets *clean.Secrets) (out, errs *output) {
	q := newQueue(stderr)
	out = &output{to: stdout, queue: q}
	if isTerminal(stdout) {
		out.clean = &clean.Writer{To: stdout}
	}
	return out, &output{to: q, queue: q, secrets: secrets, clean: &clean.Writer{To: q}}
}

// bound keeps a reader that does not read from holding the process.
func (o *output) bound() { o.bounded = true }

// noteWith lets standard error tell in the log's form how many lines it dropped.
func (o *output) noteWith(a *cliApp) {
	o.queue.note = func(lines int64) []byte {
		var b bytes.Buffer
		a.logger(&b, "warn").Warn("log lines were dropped: standard error is read too slowly", "lines", lines)
		return b.Bytes()
	}
}

// flush waits until standard error is written, but no longer than patience.
func (o *output) flush(patience time.Duration) { o.queue.flush(patience) }

// Write is part of io.Writer.
func (o *output) Write(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = len(p)
	if o.to != io.Writer(o.queue) {
		o.flush(orderFlush)
	}
	if o.secrets != nil {
		p = []byte(o.secrets.Hide(string(p)))
	}
	to := o.to
	if o.clean != nil {
		to = o.clean
	}
	switch {
	case o.bounded && o.err != nil:
		err = o.err
	case o.bounded:
		err = writeBounded(to, p)
	default:
		_, err = to.Write(p)
	}
	if err != nil {
		if o.err == nil {
			o.err = err
		}
		return 0, err
	}
	return n, nil
}

// writeBounded writes p, and gives up on a reader that does not read.
func writeBounded(to io.Writer, p []byte) error {
	p = slices.Clone(p) // the write may go on after its time
	written := make(chan error, 1)
	go func() {
		_, err := to.Write(p)
		written <- err
	}()
	select {
	case err := <-written:
		return err
	case <-time.After(boundedWrite):
		return errNotRead
	}
}

// lost is the first error that a write had.
func (o *output) lost() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// unwrapWriter is what is behind an output: for what draws on a terminal, and for
// questions about it.
func unwrapWriter(w any) any {
	if o, ok := w.(*output); ok {
		w = o.to
	}
	if q, ok := w.(*queue); ok {
		w = q.to
	}
	return w
}

func asFile(w any) (*os.File, bool) {
	f, ok := unwrapWriter(w).(*os.File)
	return f, ok
}

// logger logs to w. No secret and no character that a terminal obeys gets into
// its lines, whoever wrote the text.
func (a *cliApp) logger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // checked by the flag's enum
	options := &slog.HandlerOptions{Level: l}
	if a.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(logWriter{w, a.secrets}, options))
	}
	return slog.New(slog.NewTextHandler(logWriter{w, a.secrets}, options)) // it quotes such characters
}

// logWriter gets a line at a time.
type logWriter struct {
	to      io.Writer
	secrets *clean.Secrets
}

func (w logWriter) Write(p []byte) (int, error) {
	if _, err := w.to.Write(clean.JSON([]byte(w.secrets.Hide(string(p))))); err != nil {
		return 0, err
	}
	return len(p), nil
}
