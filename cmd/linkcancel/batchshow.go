package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/clean"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

type batchShowCmd struct{ batchArg }

// Help is shown by batch show --help.
func (batchShowCmd) Help() string {
	return `Counts by outcome; how many links ended a second of late (over the last minute, or a longer time where few did), and the time left at that rate; the fleet's hold, if nothing is sent; how many attempts links took; and the last errors by kind. It takes one look: batch watch follows.

    linkcancel batch show latest
    linkcancel batch show march --json | jq .outcomes.failed`
}

func (c batchShowCmd) Run(ctx context.Context, a *cliApp) error {
	return c.withRedis(ctx, a, func(rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) error {
		if b.State == ledger.Importing && !a.JSON {
			fmt.Fprintf(a.stdout, "Batch %s is being imported\n", b.ID)
			return nil
		}
		s, err := readDetails(ctx, rdb, l, b)
		if err != nil {
			return err
		}
		if a.JSON {
			return printJSON(a.stdout, s.json())
		}
		printSummary(a.stdout, b, s.tally)
		s.print(a.stdout)
		if next := nextStep(b); next != "" {
			fmt.Fprintf(a.stderr, "\nNext: %s\n", next)
		}
		return nil
	})
}

// batchDetails is all that one batchDetails at a batch finds.
type batchDetails struct {
	batchStatus
	now time.Time // Redis' time

	tally    statusCounts
	attempts map[int]int64 // links by attempts, from 1
	doubtful int64         // pending links that may have been cancelled by an unanswered attempt
	kinds    []errorKind   // the most first
	rate     float64       // links that ended a second, over the time span
	span     time.Duration // 0: not measured
}

// errorKind is one kind of error and the links that have it.
type errorKind struct {
	outcome ledger.Outcome // None: they are tried again
	status  int            // HTTP status of the last answer; 0: no answer
	links   int64
	place   int // of the link that had it last
	latest  time.Time
	link    string
	text    string
}

// rateSpans are the times over which show measures the rate: the first in which
// enough links ended.
var rateSpans = [...]time.Duration{time.Minute, 15 * time.Minute, time.Hour}

// readDetails reads every record of b, 8 bytes a link, and what the fleet does.
func readDetails(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger, b ledger.Batch) (batchDetails, error) {
	s := batchDetails{batchStatus: batchStatus{batch: b}}
	var err error
	if s.fleet, err = ratelimit.ShowFleet(ctx, rdb); err != nil {
		return s, err
	}
	if s.beats, _, err = workerBeats(ctx, l); err != nil {
		return s, err
	}
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return s, err
	}
	if s.now, err = l.Now(ctx); err != nil {
		return s, fmt.Errorf("ask Redis for the time: %w", err)
	}
	s.collect(found)
	return s, s.name(ctx, l, found)
}

// name finds a link for each kind of error, and its text.
func (s *batchDetails) name(ctx context.Context, l *ledger.Ledger, found *ledger.Snapshot) error {
	for i := range s.kinds {
		k := &s.kinds[i]
		links, err := l.Links(ctx, s.batch.ID, k.place/ledger.ChunkLinks)
		if err != nil {
			return err
		}
		k.link, k.text = links[k.place%ledger.ChunkLinks], found.At(k.place).Error
	}
	return nil
}

// kindsMost is how many kinds of errors are shown.
const kindsMost = 10

// collect counts the records.
func (s *batchDetails) collect(found *ledger.Snapshot) {
	b := s.batch
	s.tally, s.attempts = countStatuses(found, b), map[int]int64{}
	type kind struct {
		outcome ledger.Outcome
		status  int
	}
	kinds := map[kind]*errorKind{}
	var ended [len(rateSpans)]int64
	for place := range int(b.Total) {
		r := found.Record(place)
		if r.Attempts > 0 {
			s.attempts[int(r.Attempts)]++
		}
		if r.Outcome == ledger.None && r.Ambiguous && r.Attempts > 0 {
			s.doubtful++
		}
		at := r.Time(b.Created)
		if r.Outcome != ledger.None && r.Outcome != ledger.Aborted {
			for i, span := range rateSpans {
				if s.now.Sub(at) < span {
					ended[i]++
				}
			}
		}
		tried := r.Outcome == ledger.None && (r.Attempts > 0 || r.HTTPStatus > 0)
		if !tried && r.Outcome != ledger.Rejected && r.Outcome != ledger.Failed {
			continue
		}
		k := kinds[kind{r.Outcome, r.HTTPStatus}]
		if k == nil {
			k = &errorKind{outcome: r.Outcome, status: r.HTTPStatus}
			kinds[kind{r.Outcome, r.HTTPStatus}] = k
		}
		k.links++
		if !at.Before(k.latest) {
			k.place, k.latest = place, at
		}
	}
	s.kinds = slices.Collect(func(yield func(errorKind) bool) {
		for _, k := range kinds {
			if !yield(*k) {
				return
			}
		}
	})
	slices.SortFunc(s.kinds, func(a, b errorKind) int {
		return cmp.Or(cmp.Compare(b.links, a.links), cmp.Compare(a.outcome, b.outcome), cmp.Compare(a.status, b.status))
	})
	s.kinds = s.kinds[:min(len(s.kinds), kindsMost)]
	s.measure(ended)
}

// measure chooses the time over which the rate is told: not from before the
// batch began or was resumed.
func (s *batchDetails) measure(ended [len(rateSpans)]int64) {
	b := s.batch
	if b.Started.IsZero() {
		return
	}
	if !b.Finished.IsZero() { // the mean of the whole
		if s.span = b.Finished.Sub(b.Started); s.span >= time.Second {
			s.rate = float64(b.Counts.Sum()-b.Counts[ledger.Aborted]) / s.span.Seconds()
		}
		return
	}
	running := s.now.Sub(b.Started)
	if b.Resumed.After(b.Started) {
		running = s.now.Sub(b.Resumed)
	}
	for i, span := range rateSpans {
		s.span = max(time.Second, min(span, running))
		s.rate = float64(ended[i]) / s.span.Seconds()
		if ended[i] >= rateLinks || span >= running {
			return
		}
	}
}

func (s batchDetails) left() time.Duration { return s.timeLeft(s.rate) }

// print writes what stands below the counts.
func (s batchDetails) print(w io.Writer) {
	var rows [][2]string
	row := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	if s.batch.Open() {
		f := fleetStatus(s.batch, s.fleet, s.beats)
		switch {
		case f.instead != "":
			row("now", "%s", f.instead)
		case s.span > 0:
			row("rate", "%s over the last %s", rateText(s.rate), lastText(s.span))
		}
		if f.cause != "" {
			row("cause", "%s", clean.Line(f.cause))
		}
		if slow := fleetSlow(s.beats); slow != "" {
			row("slow", "%s", slow)
		}
		if left := s.left(); left >= 0 {
			row("left", "%s at that rate", humanDuration(left))
		} else if f.instead == "" && s.fleet.Rate > 0 {
			row("left", "%s at the fleet's limit", humanDuration(timeLeft(s.batch, float64(s.fleet.Rate))))
		}
		if len(s.fleet.Workers) > 0 {
			row("fleet", "%s, limit %s", plural(int64(len(s.fleet.Workers)), "worker"), limitText(s.fleet))
		}
		if own := ownHoldsText(s.fleet); own != "" && f.instead == "" {
			row("hold", "%s", own)
		}
	} else if s.rate > 0 {
		row("rate", "%s on average", rateText(s.rate))
	}
	if len(s.attempts) > 0 {
		row("attempts", "%s", s.spread())
	}
	if s.doubtful > 0 {
		row("in doubt", "%s, which an attempt without a clear answer may have cancelled", plural(s.doubtful, "pending link"))
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
	}
	for _, r := range rows {
		fmt.Fprintf(w, "  %-9s %s\n", r[0], r[1])
	}
	s.printErrors(w)
}

func lastText(span time.Duration) string {
	switch span {
	case time.Minute:
		return "minute"
	case 15 * time.Minute:
		return "15 minutes"
	case time.Hour:
		return "hour"
	}
	return humanDuration(span)
}

// spread writes how many links took how many attempts.
func (s batchDetails) spread() string {
	var parts []string
	for _, from := range [...]struct{ least, most int }{{1, 1}, {2, 2}, {3, 3}, {4, 6}, {7, 12}, {13, 255}} {
		var links int64
		for n := from.least; n <= from.most; n++ {
			links += s.attempts[n]
		}
		name := strconv.Itoa(from.least)
		switch {
		case from.most == 255:
			name += " or more"
		case from.most > from.least:
			name += " to " + strconv.Itoa(from.most)
		}
		if links > 0 {
			parts = append(parts, name+": "+groupDigits(links))
		}
	}
	return strings.Join(parts, "   ")
}

// name is what the links of a kind have in common.
func (k errorKind) name() string {
	name := k.outcome.String()
	if k.outcome == ledger.None {
		name = "tried again"
	}
	if k.status == 0 {
		return name + ", no answer"
	}
	return fmt.Sprintf("%s, %d", name, k.status)
}

func (s batchDetails) printErrors(w io.Writer) {
	if len(s.kinds) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  last errors by kind\n")
	names, counts := 0, 0
	for _, k := range s.kinds {
		names, counts = max(names, len(k.name())), max(counts, len(groupDigits(k.links)))
	}
	for _, k := range s.kinds {
		fmt.Fprintf(w, "    %-*s  %*s   %s", names, k.name(), counts, groupDigits(k.links), k.link)
		if !k.latest.IsZero() {
			fmt.Fprintf(w, ", %s ago", humanDuration(max(0, s.now.Sub(k.latest))))
		}
		if k.text != "" {
			fmt.Fprintf(w, ": %s", k.text)
		}
		fmt.Fprintln(w)
	}
}

// liveJSON is a batch with what goes on: what batch watch prints, and the
// beginning of what batch show prints.
type liveJSON struct {
	batchJSON
	Rate    *float64  `json:"rate"`         // links that ended a second, of late; null: not known yet
	Left    *int64    `json:"left_seconds"` // null: not known, or nothing is left
	Hold    *holdJSON `json:"hold"`         // of the fleet; null: none
	Workers int       `json:"workers"`
}

type detailsJSON struct {
	liveJSON
	Attempts map[string]int64 `json:"attempts"` // links by attempts
	Errors   []errorJSON      `json:"errors"`
}

type errorJSON struct {
	Outcome    string     `json:"outcome"` // pending: they are tried again
	HTTPStatus int        `json:"http_status"`
	Links      int64      `json:"links"`
	Latest     *time.Time `json:"latest"` // null for pending ones
	Link       string     `json:"link"`
	Error      string     `json:"error"`
}

// toLiveJSON makes it of a rate and of a time left, which are negative where
// they are not known.
func toLiveJSON(s batchStatus, rate float64, left time.Duration) liveJSON {
	j := liveJSON{batchJSON: toJSON(s.batch), Hold: toHoldJSON(s.fleet.Hold), Workers: len(s.fleet.Workers)}
	if rate >= 0 {
		rate = rounded(rate)
		j.Rate = &rate
	}
	if left >= 0 {
		seconds := int64(left.Round(time.Second) / time.Second)
		j.Left = &seconds
	}
	return j
}

// rounded cuts digits that mean nothing.
func rounded(rate float64) float64 {
	r, _ := strconv.ParseFloat(strconv.FormatFloat(rate, 'g', 4, 64), 64)
	return r
}

func (s batchDetails) json() detailsJSON {
	rate, left := s.rate, s.left()
	if s.span == 0 {
		rate = -1
	}
	j := detailsJSON{
		liveJSON: toLiveJSON(s.batchStatus, rate, left),
		Attempts: map[string]int64{}, Errors: []errorJSON{},
	}
	for n := range maps.Keys(s.attempts) {
		j.Attempts[strconv.Itoa(n)] = s.attempts[n]
	}
	for _, k := range s.kinds {
		e := errorJSON{Outcome: k.outcome.String(), HTTPStatus: k.status, Links: k.links, Link: k.link, Error: k.text}
		if !k.latest.IsZero() {
			e.Latest = &k.latest
		}
		j.Errors = append(j.Errors, e)
	}
	return j
}
