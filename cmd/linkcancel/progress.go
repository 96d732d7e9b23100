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
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

const (
	pollEvery  = 200 * time.Millisecond
	plainEvery = 5 * time.Second
	// The shown rate is measured over rateWindow, and, where that saw fewer than
	// rateLinks links end, over a longer time, up to rateWindowMost.
	rateWindow, rateWindowMost = 10 * time.Second, 10 * time.Minute
	rateLinks                  = 10
)

// progress shows how far a batch is: a bar on a terminal, else a plain line
// every few seconds.
type progress struct {
	out    io.Writer
	status func(ledger.Batch) status

	mu    sync.Mutex
	batch ledger.Batch
	pace  pace

	told app.CauseLog

	bars *mpb.Progress
	bar  *mpb.Bar
	draw chan func() // to be done on the bar by a goroutine of its own; closed by end
	done chan struct{}
	next time.Time // of the plain line
}

const (
	// drawAhead is how many changes of the bar wait for the terminal. Those above are
	// dropped: the terminal may have been stopped with Ctrl-S.
	drawAhead = 16
	// drawLast is how long the end waits for the terminal.
	drawLast = 2 * time.Second
)

// status is what a progress line says beside the counts.
type status struct {
	instead string // of the rate: why links do not move
	beside  string // the rate
	cause   string // what the API answered, in a hold
}

// newProgress begins to show b, which an app in this process works on.
func newProgress(out io.Writer, b ledger.Batch, e *app.App) *progress {
	return startProgress(out, b, plainEvery, func(ledger.Batch) status {
		if h := e.Hold(); h.Reason != ratelimit.ReasonNone {
			return status{instead: holdText(h), cause: h.Cause}
		}
		l := e.Load()
		beside := slowText(l.InFlight, l.Concurrency, l.Took)
		if beside == "" && l.Resting > 0 && l.InFlight == 0 {
			beside = fmt.Sprintf("%s to be tried again (%s)", plural(int64(l.Resting), "link"), l.RestText)
		}
		return status{beside: beside}
	})
}

// slowCalls is how long calls must take to be what slows sending down.
const slowCalls = 500 * time.Millisecond

// slowText says that sending is slow because calls are; "" if it is not.
func slowText(inFlight, concurrency int, took time.Duration) string {
	if concurrency == 0 || inFlight < concurrency || took < slowCalls {
		return ""
	}
	return fmt.Sprintf("slow API: %d requests in flight, %.1f s each", inFlight, took.Seconds())
}

// startProgress begins to show b; the first plain line comes after a time.
func startProgress(out io.Writer, b ledger.Batch, first time.Duration, status func(ledger.Batch) status) *progress {
	p := &progress{out: out, batch: b, status: status, next: time.Now().Add(first)}
	p.pace.add(time.Now(), b.Counts.Sum())
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

// onBar does something with the bar, without waiting for the terminal.
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

// width is that of a terminal, in columns; 0 if it does not tell.
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
		p.pace = pace{} // a pause is not slow
	}
	p.batch = b
	p.pace.add(now, b.Counts.Sum())
	p.mu.Unlock()
	p.tellCause(now, b)
	switch {
	case p.bar != nil:
		p.onBar(func() { p.bar.SetCurrent(min(b.Counts.Sum(), b.Total-1)) }) // the last one by end
	case !now.Before(p.next) && b.Pending() > 0:
		p.next = now.Add(plainEvery)
		fmt.Fprintln(p.out, p.head()+"  "+p.tail())
	}
}

// tellCause says why sending is on hold: once for each cause, and again each
// minute.
func (p *progress) tellCause(now time.Time, b ledger.Batch) {
	if b.Pending() == 0 {
		return
	}
	if cause := p.status(b).cause; p.told.Due(cause, now) {
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

// end leaves the last line standing. It waits for the terminal, but not for long.
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
	whole := groupDigits(total)
	return fmt.Sprintf("%*s of %s links  %3d %%", len(whole), groupDigits(done), whole, percent)
}

func (p *progress) tail() string {
	p.mu.Lock()
	b := p.batch
	rate, known := p.pace.rate()
	p.mu.Unlock()
	var parts []string
	if b.Pending() > 0 {
		s := p.status(b)
		if s.instead != "" {
			parts = append(parts, s.instead)
		} else if known {
			parts = append(parts, rateText(rate))
			if rate > 0 {
				parts = append(parts, humanDuration(timeLeft(b, rate))+" left")
			}
		}
		if s.beside != "" {
			parts = append(parts, s.beside)
		}
	}
	for _, o := range ledger.Outcomes {
		if n := b.Counts[o]; n > 0 {
			parts = append(parts, o.String()+" "+groupDigits(n))
		}
	}
	return strings.Join(parts, "  ")
}

func holdText(hold ratelimit.Hold) string {
	text := "on hold: " + string(hold.Reason)
	if !hold.Until.IsZero() {
		if left := time.Until(hold.Until); left > 0 {
			text += " for " + humanDuration(left)
		}
	}
	return text
}

func decimals(rate float64) int {
	if rate < 10 {
		return 1
	}
	return 0
}

// rateText writes a rate, in links a second.
func rateText(rate float64) string {
	switch {
	case rate > 0 && rate < 1.0/60:
		return fmt.Sprintf("%.1f/h", rate*3600)
	case rate > 0 && rate < 1:
		return fmt.Sprintf("%.1f/min", rate*60)
	}
	return fmt.Sprintf("%.*f/s", decimals(rate), rate)
}

// timeLeft is how long the pending links of b take at a rate above 0.
func timeLeft(b ledger.Batch, rate float64) time.Duration {
	return time.Duration(min(float64(b.Pending())/rate, maxLeft.Seconds()) * float64(time.Second))
}

// maxLeft is shown for any longer time, which a Duration could not hold.
const maxLeft = 10 * 365 * 24 * time.Hour

// pace measures how many links end a second, from the first add on.
type pace struct{ samples []sample }

type sample struct {
	at   time.Time
	done int64
}

// add tells that so many links have ended by now.
func (p *pace) add(now time.Time, done int64) {
	p.samples = append(p.samples, sample{now, done})
	for len(p.samples) > 2 {
		age := now.Sub(p.samples[0].at)
		if age <= rateWindow || age <= rateWindowMost && done-p.samples[1].done < rateLinks {
			return
		}
		p.samples = p.samples[1:]
	}
}

// rate is the links that ended a second of late; known is false as long as there
// is too little to tell.
func (p *pace) rate() (rate float64, known bool) {
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	took := last.at.Sub(first.at)
	if took < 2*pollEvery {
		return 0, false
	}
	return float64(last.done-first.done) / took.Seconds(), true
}
