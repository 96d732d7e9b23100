package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"linkcancel/internal/app"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

const (
	pollEvery  = 200 * time.Millisecond
	plainEvery = 5 * time.Second
)

// progress shows a batch's progress: a bar on a terminal, else a plain line every few seconds.
type progress struct {
	out      io.Writer
	movement func(ledger.Batch) status.Movement

	mu    sync.Mutex
	batch ledger.Batch
	pace  status.Pace

	causes status.Causes

	bars *mpb.Progress
	bar  *mpb.Bar
	draw chan func() // changes of the bar, applied by a goroutine; closed by end
	done chan struct{}
	next time.Time // of the plain line
}

const (
	// drawAhead is how many changes wait for a terminal that Ctrl-S may have stopped.
	drawAhead = 16
	// drawLast is how long end waits for the terminal.
	drawLast = 2 * time.Second
)

// newProgress shows b, which an app in this process works on.
func newProgress(out io.Writer, b ledger.Batch, e *app.App) *progress {
	return startProgress(out, b, plainEvery, func(ledger.Batch) status.Movement {
		if h := e.Hold(); h.Reason != ratelimit.ReasonNone {
			return status.Movement{Stopped: status.Hold(h), Cause: h.Cause}
		}
		l := e.Load()
		beside := status.Slow(l.InFlight, l.Concurrency, l.Took)
		if beside == "" && l.Resting > 0 && l.InFlight == 0 {
			beside = fmt.Sprintf("%s to be tried again (%s)", humanize.Plural(int64(l.Resting), "link"), l.RestText)
		}
		return status.Movement{Beside: beside}
	})
}

// startProgress shows b. The first plain line is printed after a delay.
func startProgress(out io.Writer, b ledger.Batch, first time.Duration, movement func(ledger.Batch) status.Movement) *progress {
	p := &progress{out: out, batch: b, movement: movement, next: time.Now().Add(first)}
	p.pace.Add(time.Now(), b.Counts.Sum())
	if isTerminal(out) && width(out) > 0 { // on a terminal of no width no bar is seen
		p.bars = mpb.New(mpb.WithOutput(unwrapWriter(out).(*os.File)), mpb.WithWidth(28), mpb.WithRefreshRate(pollEvery), mpb.WithAutoRefresh())
		p.bar = p.bars.New(b.Total, mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding("─"),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.head() + " " })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.tail() })),
		)
		p.draw, p.done = make(chan func(), drawAhead), make(chan struct{})
		go func() {
			defer close(p.done)
			for do := range p.draw {
				do()
			}
		}()
	}
	return p
}

// onBar changes the bar, without waiting for the terminal.
func (p *progress) onBar(do func()) {
	select {
	case p.draw <- do:
	default:
	}
}

func isTerminal(w any) bool {
	f, ok := asFile(w)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is the width of a terminal in columns; 0 if it is unknown.
func width(w io.Writer) int {
	f, ok := asFile(w)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// update shows a newer reading.
func (p *progress) update(b ledger.Batch) {
	now := time.Now()
	p.mu.Lock()
	if p.batch.State != b.State {
		p.pace = status.Pace{} // a pause is not slow
	}
	p.batch = b
	p.pace.Add(now, b.Counts.Sum())
	p.mu.Unlock()
	p.sayCause(now, b)
	switch {
	case p.bar != nil:
		p.onBar(func() { p.bar.SetCurrent(min(b.Counts.Sum(), b.Total-1)) }) // the last one by end
	case !now.Before(p.next) && b.Pending() > 0:
		p.next = now.Add(plainEvery)
		fmt.Fprintln(p.out, p.head()+"  "+p.tail())
	}
}

// sayCause says why sending is on hold: once for each cause, and again each minute.
func (p *progress) sayCause(now time.Time, b ledger.Batch) {
	if b.Pending() == 0 {
		return
	}
	if cause := p.movement(b).Cause; p.causes.Due(cause, now) {
		p.say("On hold: " + cause)
	}
}

// say writes a line of its own.
func (p *progress) say(line string) {
	if p.bar != nil {
		p.onBar(func() { _, _ = p.bars.Write([]byte(line + "\n")) }) // above the bar
		return
	}
	fmt.Fprintln(p.out, line)
}

// end leaves the last line on the terminal. It does not wait long for a stuck one.
func (p *progress) end() {
	if p.bar == nil {
		return
	}
	p.mu.Lock()
	done := p.batch.Counts.Sum()
	p.mu.Unlock()
	p.onBar(func() {
		if done >= p.batch.Total {
			p.bar.SetCurrent(done)
		} else {
			p.bar.Abort(false)
		}
		p.bars.Wait()
	})
	close(p.draw)
	select {
	case <-p.done:
	case <-time.After(drawLast):
	}
}

func (p *progress) head() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, total := p.batch.Counts.Sum(), p.batch.Total
	percent := int64(100)
	if total > 0 {
		percent = 100 * done / total
	}
	whole := humanize.Digits(total)
	return fmt.Sprintf("%*s of %s links  %3d%%", len(whole), humanize.Digits(done), whole, percent)
}

func (p *progress) tail() string {
	p.mu.Lock()
	b := p.batch
	rate, known := p.pace.Rate()
	p.mu.Unlock()
	var parts []string
	if b.Pending() > 0 {
		s := p.movement(b)
		if s.Stopped != "" {
			parts = append(parts, s.Stopped)
		} else if known {
			parts = append(parts, humanize.Rate(rate))
			if rate > 0 {
				parts = append(parts, humanize.Duration(status.TimeLeft(b, rate))+" left")
			}
		}
		if s.Beside != "" {
			parts = append(parts, s.Beside)
		}
	}
	for _, o := range ledger.Outcomes {
		if n := b.Counts[o]; n > 0 {
			parts = append(parts, o.String()+" "+humanize.Digits(n))
		}
	}
	return strings.Join(parts, "  ")
}
