package main

import (
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
	out      io.Writer
	terminal bool
	limit    func() ratelimit.Status
	stop     func() // ends the ticker

	mu      sync.Mutex
	last    sweep.ListProgress
	retryAt time.Time
	shown   bool // the terminal shows a line
}

func newListProgress(out io.Writer) *listProgress {
	p := &listProgress{out: out, stop: func() {}, last: sweep.ListProgress{Pass: 1}}
	if o, ok := out.(*output); ok && isTerminal(out) && width(out) > 0 {
		p.out, p.terminal = o.queue, true // past what takes away what a terminal obeys
	}
	return p
}

// start shows the progress, and the holds of the limiter, until end.
func (p *listProgress) start(limit func() ratelimit.Status) {
	p.limit = limit
	interval := listEvery
	if p.terminal {
		interval = pollEvery
	}
	done := make(chan struct{})
	var ticking sync.WaitGroup
	ticking.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				p.show()
			}
		}
	})
	p.stop = sync.OnceFunc(func() {
		close(done)
		ticking.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.clear()
	})
}

// Write lets a log write above the line.
func (p *listProgress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	return p.out.Write(b)
}

func (p *listProgress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// update is called by the reader of the list.
func (p *listProgress) update(now sweep.ListProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.retryAt = now, time.Now().Add(now.Wait)
}

// end removes the line. It may be called twice.
func (p *listProgress) end() { p.stop() }

func (p *listProgress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.line()
	if !p.terminal {
		fmt.Fprintln(p.out, line)
		return
	}
	runes := []rune(line)
	if most := width(p.out) - 1; len(runes) > most {
		runes = runes[:max(0, most)]
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", string(runes))
	p.shown = true
}

func (p *listProgress) line() string {
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
