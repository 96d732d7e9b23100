package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"linkcancel/internal/clean"
)

// output is standard output or standard error. It removes control characters, because it shows file
// names, cells and answers of servers. It keeps write errors, which most callers ignore.
type output struct {
	to      io.Writer
	secrets *clean.Secrets // to be hidden; nil: none
	queue   *queue         // of standard error; a write to standard output waits for it
	ascii   bool           // a terminal without Unicode
	bounded bool           // no write waits for longer than boundedWrite

	mu    sync.Mutex
	clean io.Writer // nil: data, which goes out as it is
	err   error
}

const (
	// boundedWrite is how long a bounded output waits for its reader.
	boundedWrite = 2 * time.Second
	// orderFlush is how long standard output waits for standard error, to keep both in
	// order on a terminal. lastFlush is how long the end of the process waits.
	orderFlush = 500 * time.Millisecond
	lastFlush  = 2 * time.Second
)

var errNotRead = errors.New("write standard output: nobody reads it")

// newOutputs wraps standard output and standard error. Piped standard output is data.
func newOutputs(stdout, stderr io.Writer, secrets *clean.Secrets) (out, errs *output) {
	q := newQueue(stderr)
	out = &output{to: stdout, queue: q, ascii: isTerminal(stdout) && !unicodeLocale()}
	if isTerminal(stdout) {
		out.clean = &clean.Writer{To: stdout}
	}
	return out, &output{to: q, queue: q, secrets: secrets, clean: &clean.Writer{To: q}, ascii: isTerminal(stderr) && !unicodeLocale()}
}

// inASCII replaces our own characters beyond ASCII. File names and cells stay as they are.
var inASCII = strings.NewReplacer("…", "...", "→", "->", "–", "-", "─", "-", "“", `"`, "”", `"`)

// bound keeps a stuck reader from blocking the process.
func (o *output) bound() { o.bounded = true }

// noteWith makes standard error log how many lines it dropped.
func (o *output) noteWith(a *cliApp) {
	o.queue.note = func(lines int64) []byte {
		var b bytes.Buffer
		a.logger(&b, "warn").Warn("log lines were dropped: standard error is read too slowly", "lines", lines)
		return b.Bytes()
	}
}

// flush waits until standard error is written, at most for patience.
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
	if o.ascii {
		p = []byte(inASCII.Replace(string(p)))
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

// control writes a control sequence to a terminal, past what removes them from texts.
func (o *output) control(sequence string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != io.Writer(o.queue) {
		o.flush(orderFlush)
	}
	if o.bounded {
		_ = writeBounded(o.to, []byte(sequence))
		return
	}
	_, _ = o.to.Write([]byte(sequence))
}

// writeBounded writes p. It gives up on a stuck reader.
func writeBounded(to io.Writer, p []byte) error {
	p = slices.Clone(p) // the write may continue after the timeout
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

// lost returns the first error of a write.
func (o *output) lost() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// unwrapWriter returns the writer behind an output, which may be a terminal.
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

// logger logs to w, without secrets and control characters.
func (a *cliApp) logger(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // checked by the flag's enum
	options := &slog.HandlerOptions{Level: l}
	if a.sentences {
		return slog.New(sentences{to: logWriter{w, a.secrets}, level: l})
	}
	if a.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(logWriter{w, a.secrets}, options))
	}
	return slog.New(slog.NewTextHandler(logWriter{w, a.secrets}, options)) // it quotes such characters
}

// logWriter gets one line per Write.
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
