package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"linkcancel/internal/app"
	"linkcancel/internal/clean"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

const (
	pollEvery  = 200 * time.Millisecond
	plainEvery = 5 * time.Second
)

// progress shows a batch's progress: a line with a bar on a terminal, else a plain line every few
// seconds.
type progress struct {
	out      io.Writer
	movement func(ledger.Batch) status.Movement
	wait     func(ledger.Batch, time.Duration) time.Duration // see status.Batch.Wait; nil: nothing waits
	line     *live                                           // nil without a terminal

	mu     sync.Mutex
	batch  ledger.Batch
	pace   status.Pace
	causes status.Causes
	next   time.Time // of the plain line
}

// newProgress shows b, which an app in this process works on.
func newProgress(out io.Writer, b ledger.Batch, e *app.App) *progress {
	return startProgress(out, b, plainEvery, func(ledger.Batch) status.Movement {
		if h := e.Hold(); h.Reason != ratelimit.ReasonNone {
			return status.Movement{Stopped: status.Hold(h), Cause: h.Cause}
		}
		l := e.Load()
		beside := status.Slow(l.InFlight, l.Concurrency, l.Took)
		if beside == "" && l.Resting > 0 && l.InFlight == 0 {
			beside = humanize.Plural(int64(l.Resting), "link") + " to be tried again"
			if l.RestText != "" {
				beside += " (" + l.RestText + ")"
			}
		}
		return status.Movement{Beside: beside}
	})
}

// startProgress shows b. The first plain line is printed after a delay.
func startProgress(out io.Writer, b ledger.Batch, first time.Duration, movement func(ledger.Batch) status.Movement) *progress {
	p := &progress{out: out, batch: b, movement: movement, next: time.Now().Add(first)}
	p.pace.Add(time.Now(), b.Counts.Sum())
	p.line = startLive(out, func(t *terminal, columns int) string { return fit(t, columns, p.segments(t)) })
	return p
}

func isTerminal(w any) bool {
	f, ok := asFile(w)
	return ok && term.IsTerminal(int(f.Fd()))
}

// width is the width of a terminal in columns; 0 if it is unknown.
func width(w any) int {
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
	waits := p.movement(b).Waits
	p.mu.Lock()
	if p.batch.State != b.State || p.batch.ID != b.ID {
		p.pace = status.Pace{} // a pause is not slow
	}
	p.batch = b
	if waits {
		p.pace.Skip(now)
	} else {
		p.pace.Add(now, b.Counts.Sum())
	}
	p.mu.Unlock()
	p.sayCause(now, b)
	if p.line == nil && !now.Before(p.next) && b.Pending() > 0 {
		p.next = now.Add(plainEvery)
		fmt.Fprintln(p.out, fit(nil, maxPlain, p.segments(nil)))
	}
}

// maxPlain is more columns than a plain line ever has.
const maxPlain = 1000

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
	if p.line != nil {
		fmt.Fprintln(p.line, clean.Line(line)) // above the line
		return
	}
	fmt.Fprintln(p.out, line)
}

// end leaves the last line on the terminal. It does not wait long for a stuck one.
func (p *progress) end() {
	if p.line != nil {
		p.line.end(true)
	}
}

// barColumns are the lengths of the bar, from the longest.
var barColumns = [...]int{28, 14, 7, 0}

// segments are the parts of the line. If there is no room, the bar goes first, then words, then
// figures. The problems never go.
func (p *progress) segments(t *terminal) []segment {
	p.mu.Lock()
	b := p.batch
	rate, known := p.pace.Rate()
	p.mu.Unlock()
	done, total := b.Counts.Sum(), b.Total
	percent := int64(100)
	if total > 0 {
		percent = 100 * done / total
	}
	whole, read := humanize.Digits(total), ""
	if b.Verifies() {
		read = " read"
	}
	segments := []segment{{ranks: []int{4}, texts: []string{
		fmt.Sprintf("%*s of %s links%s  %3d%%", len(whole), humanize.Digits(done), whole, read, percent),
		fmt.Sprintf("%s/%s %d%%", humanize.Digits(done), whole, percent),
	}}}
	if t != nil {
		segments = append(segments, segment{ranks: []int{0, 1, 1}, texts: bars(done, total, t.unicode)})
	}
	if b.Pending() > 0 {
		segments = append(segments, p.motion(b, rate, known)...)
	}
	problems := b.Counts[ledger.Rejected] + b.Counts[ledger.Failed] + b.Counts[ledger.Aborted] + b.Counts[ledger.Unknown]
	gone := b.Counts[ledger.AlreadyCancelled] + b.Counts[ledger.NotFound] + b.Counts[ledger.NotCancellable] + b.Counts[ledger.NotPayable]
	return append(segments,
		counted(b.Counts[ledger.StillPayable], red, nil, "still payable %s"),
		counted(problems, red, nil, "problems %s"),
		counted(gone, "", []int{3, 6}, "no longer payable %s", "not payable %s", ""),
		counted(b.Counts[ledger.Cancelled], "", []int{8}, "cancelled %s", ""))
}

// motion is how fast the links move, or why they do not.
func (p *progress) motion(b ledger.Batch, rate float64, known bool) []segment {
	var segments []segment
	m := p.movement(b)
	if m.Stopped != "" {
		stopped := clean.Line(m.Stopped)
		parts := strings.SplitN(stopped, ": ", 3) // on hold, why, and the answer
		why := strings.Join(parts[:min(len(parts), 2)], ": ")
		segments = append(segments, segment{ranks: []int{4, 5}, color: yellow, texts: []string{stopped, why, parts[0]}})
	} else if known {
		segments = append(segments, segment{ranks: []int{7}, texts: []string{humanize.Rate(rate), ""}})
	}
	if known && rate > 0 && (m.Stopped == "" || m.Waits) {
		left := humanize.Duration(p.left(b, rate))
		segments = append(segments, segment{ranks: []int{4}, texts: []string{left + " left", left}})
	}
	if m.Beside != "" {
		segments = append(segments, segment{ranks: []int{2}, texts: []string{clean.Line(m.Beside), ""}})
	}
	return segments
}

// left is how long the pending links take at a rate.
func (p *progress) left(b ledger.Batch, rate float64) time.Duration {
	sending := status.TimeLeft(b, rate)
	if p.wait == nil {
		return sending
	}
	return p.wait(b, sending)
}

// counted is a number of links with a word, in one of several formats; nothing for none.
func counted(n int64, color string, ranks []int, formats ...string) segment {
	s := segment{ranks: ranks, color: color}
	for _, format := range formats {
		if n > 0 && format != "" {
			format = fmt.Sprintf(format, humanize.Digits(n))
		} else {
			format = ""
		}
		s.texts = append(s.texts, format)
	}
	return s
}

// bars are the bar in its lengths.
func bars(done, total int64, unicode bool) []string {
	full, empty := "=", "-"
	if unicode {
		full, empty = "━", "─"
	}
	var texts []string
	for _, columns := range barColumns {
		filled := columns
		if total > 0 {
			filled = int(int64(columns) * min(done, total) / total)
		}
		texts = append(texts, strings.Repeat(full, filled)+strings.Repeat(empty, columns-filled))
	}
	return texts
}
