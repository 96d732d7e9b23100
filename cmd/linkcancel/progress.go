package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

const (
	pollEvery  = 200 * time.Millisecond
	plainEvery = 5 * time.Second
	// rateWindow is the time over which the shown rate is measured.
	rateWindow = 10 * time.Second
)

// progress shows how far a batch is: a bar on a terminal, else a plain line
// every few seconds.
type progress struct {
	out  io.Writer
	hold func() ratelimit.Hold

	mu      sync.Mutex
	batch   ledger.Batch
	samples []sample

	bars *mpb.Progress
	bar  *mpb.Bar
	next time.Time // of the plain line
}

type sample struct {
	at   time.Time
	done int64
}

// newProgress begins to show b. hold tells of the limiter's hold; it may be nil.
func newProgress(out io.Writer, b ledger.Batch, hold func() ratelimit.Hold) *progress {
	p := &progress{out: out, batch: b, hold: hold, next: time.Now().Add(plainEvery)}
	p.samples = []sample{{time.Now(), b.Counts.Sum()}}
	if isTerminal(out) && width(out) > 0 { // on a terminal of no width no bar is seen
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(28), mpb.WithRefreshRate(pollEvery), mpb.WithAutoRefresh())
		p.bar = p.bars.New(b.Total, mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding("─"),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.head() + " " })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.tail() })),
		)
	}
	return p
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is that of a terminal, in columns; 0 if it does not tell.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
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
	p.batch = b
	p.samples = append(p.samples, sample{now, b.Counts.Sum()})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
	p.mu.Unlock()
	switch {
	case p.bar != nil:
		p.bar.SetCurrent(min(b.Counts.Sum(), b.Total-1)) // the last one by end
	case !now.Before(p.next) && b.Pending() > 0:
		p.next = now.Add(plainEvery)
		fmt.Fprintln(p.out, p.head()+"  "+p.tail())
	}
}

// end leaves the last line standing.
func (p *progress) end() {
	if p.bar == nil {
		return
	}
	p.mu.Lock()
	done := p.batch.Counts.Sum()
	p.mu.Unlock()
	if done >= p.batch.Total {
		p.bar.SetCurrent(done)
	} else {
		p.bar.Abort(false)
	}
	p.bars.Wait()
}

func (p *progress) head() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	done, total := p.batch.Counts.Sum(), p.batch.Total
	percent := int64(100)
	if total > 0 {
		percent = 100 * done / total
	}
	whole := grouped(total)
	return fmt.Sprintf("%*s of %s links  %3d %%", len(whole), grouped(done), whole, percent)
}

func (p *progress) tail() string {
	p.mu.Lock()
	b, rate := p.batch, p.rate()
	p.mu.Unlock()
	var parts []string
	if p.hold != nil {
		if hold := p.hold(); hold.Reason != ratelimit.ReasonNone {
			parts = append(parts, holdText(hold))
		}
	}
	if len(parts) == 0 && b.Pending() > 0 {
		parts = append(parts, fmt.Sprintf("%.*f/s", decimals(rate), rate))
		if rate > 0 {
			parts = append(parts, spoken(time.Duration(float64(b.Pending())/rate*float64(time.Second)))+" left")
		}
	}
	for _, o := range ledger.Outcomes {
		if n := b.Counts[o]; n > 0 {
			parts = append(parts, o.String()+" "+grouped(n))
		}
	}
	return strings.Join(parts, "  ")
}

func holdText(hold ratelimit.Hold) string {
	text := "on hold: " + string(hold.Reason)
	if !hold.Until.IsZero() {
		if left := time.Until(hold.Until); left > 0 {
			text += " for " + spoken(left)
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

// rate is the links finished a second of late.
func (p *progress) rate() float64 {
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return float64(last.done-first.done) / seconds
}

// watch follows a batch until it needs no more watching: it is done, aborted or
// paused. It returns the last reading; the error of ctx if that ended first.
func watch(ctx context.Context, l *ledger.Ledger, p *progress, id string) (ledger.Batch, error) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		b, err := l.Get(ctx, id)
		if err != nil {
			return b, err
		}
		p.update(b)
		if b.State == ledger.Done || b.State == ledger.AbortedState || b.State == ledger.Paused {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return b, ctx.Err()
		case <-ticker.C:
		}
	}
}
