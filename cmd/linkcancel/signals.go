package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// signals returns a context that ends at the first SIGINT, SIGTERM or SIGHUP. A later signal quits
// at once. SIGHUP counts only if nohup has not made the process ignore it. The signals stay caught
// to the end of the process: a doubled one must not kill it while it writes its last words.
func signals() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 8)
	kinds := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		kinds = append(kinds, syscall.SIGHUP)
	}
	signal.Notify(ch, kinds...)
	go func() {
		var s stopper
		for range ch {
			switch s.next(time.Now()) {
			case stopGently:
				cancel()
			case stopAtOnce:
				os.Exit(exitInterrupted)
			}
		}
	}()
	return ctx, cancel
}

// doubled is how long a second signal counts as the first: some programs send each twice.
const doubled = time.Second

// stopper decides what a signal means.
type stopper struct{ first time.Time }

type stop int

const (
	stopAgain stop = iota // the same signal once more: nothing to do
	stopGently
	stopAtOnce
)

func (s *stopper) next(now time.Time) stop {
	switch {
	case s.first.IsZero():
		s.first = now
		return stopGently
	case now.Sub(s.first) < doubled:
		return stopAgain
	}
	return stopAtOnce
}

// outlive lets a command continue when its output is closed. Go would end it at a write.
func outlive() { signal.Ignore(syscall.SIGPIPE) }
