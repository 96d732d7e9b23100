package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
	"linkcancel/producer/sweep"
)

// listEvery is the time between plain lines. A long list takes minutes, often in cron mail.
const listEvery = 30 * time.Second

// listProgress shows how far the reading of the list is, on one line or as plain lines.
type listProgress struct {
	out   io.Writer
	limit func() ratelimit.Status
	live  *live  // nil without a terminal, or before start
	stop  func() // ends the plain lines

	mu      sync.Mutex
	last    sweep.ListProgress
	retryAt time.Time
}

func newListProgress(out io.Writer) *listProgress {
	return &listProgress{out: out, stop: func() {}, last: sweep.ListProgress{Pass: 1}}
}

// start shows the progress, and the holds of the limiter, until end.
func (p *listProgress) start(limit func() ratelimit.Status) {
	p.limit = limit
	live := startLive(p.out, func(_ *terminal, columns int) string {
		line := []rune(p.line())
		return string(line[:min(len(line), columns)])
	})
	p.mu.Lock()
	p.live = live
	p.mu.Unlock()
	if live != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ticking sync.WaitGroup
	ticking.Go(func() {
		ticker := time.NewTicker(listEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				fmt.Fprintln(p.out, p.line())
			}
		}
	})
	p.stop = func() { cancel(); ticking.Wait() }
}

// Write lets a log write above the line.
func (p *listProgress) Write(b []byte) (int, error) {
	p.mu.Lock()
	live := p.live
	p.mu.Unlock()
	if live != nil {
		return live.Write(b)
	}
	return p.out.Write(b)
}

// update is called by the reader of the list.
func (p *listProgress) update(now sweep.ListProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.retryAt = now, time.Now().Add(now.Wait)
}

// end removes the line. It may be called twice.
func (p *listProgress) end() {
	p.stop()
	if p.live != nil {
		p.live.end(false)
	}
}

func (p *listProgress) line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, links := "Reading the list: ", p.last.Links
	if p.last.Pass > 1 {
		line, links = "Reading the list again, for links that moved: ", p.last.InPass
	}
	line += humanize.Plural(links, "link")
	if p.last.Total > links {
		line += " of " + humanize.Digits(p.last.Total)
	}
	line += ", " + humanize.Plural(int64(p.last.Requests), "page")
	hold := p.limit().Hold
	switch left := time.Until(p.retryAt); {
	case hold.Reason != ratelimit.ReasonNone:
		line += "  " + status.Hold(hold)
	case p.last.Err != nil && left > 0:
		line += fmt.Sprintf("  again in %s: %v", humanize.Duration(left), p.last.Err)
	case p.last.Err != nil:
		line += fmt.Sprintf("  again: %v", p.last.Err)
	}
	return line
}
