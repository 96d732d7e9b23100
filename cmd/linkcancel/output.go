package main

import (
	"io"
	"log/slog"
	"os"
	"sync"

	"linkcancel/internal/clean"
)

// output is standard output or standard error. Nothing that a terminal obeys
// gets through to where a person reads: file names, cells of the user's file and
// answers of servers are shown there. The error of a write is kept, since few
// who print look at it.
type output struct {
	to      io.Writer
	secrets *clean.Secrets // to be hidden; nil: none

	mu    sync.Mutex
	clean io.Writer // nil: data, which goes out as it is
	err   error
}

// newOutputs wraps standard output and standard error. What goes to a file or a
// pipe by standard output is data.
func newOutputs(stdout, stderr io.Writer, secrets *clean.Secrets) (out, errs *output) {
	out = &output{to: stdout}
	if isTerminal(stdout) {
		out.clean = &clean.Writer{To: stdout}
	}
	return out, &output{to: stderr, secrets: secrets, clean: &clean.Writer{To: stderr}}
}

// Write is part of io.Writer.
func (o *output) Write(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = len(p)
	if o.secrets != nil {
		p = []byte(o.secrets.Hide(string(p)))
	}
	if o.clean != nil {
		_, err = o.clean.Write(p)
	} else {
		_, err = o.to.Write(p)
	}
	if err != nil {
		if o.err == nil {
			o.err = err
		}
		return 0, err
	}
	return n, nil
}

// lost is the first error that a write had.
func (o *output) lost() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// bare is what is behind an output: for what draws on a terminal, and for
// questions about it.
func bare(w any) any {
	if o, ok := w.(*output); ok {
		return o.to
	}
	return w
}

func asFile(w any) (*os.File, bool) {
	f, ok := bare(w).(*os.File)
	return f, ok
}

// logger logs to w. No secret and no character that a terminal obeys gets into
// its lines, whoever wrote the text.
func (a *app) logger(w io.Writer, level string) *slog.Logger {
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
