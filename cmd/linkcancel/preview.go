package main

import (
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
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

// preview is what the user sees before links are cancelled.
type preview struct {
	files []string
	about func() importer.About // nil if the links are not from files
	api   string                // base URL; "" if none is known
	key   string                // its fingerprint and where it is from; "" if unknown
	rate  float64               // requests per second
	// ahead is how many links of other batches share the rate.
	ahead int64
	// elsewhere counts the links that wait in other batches too, by batch.
	elsewhere map[string]int64
	unchecked bool // there were too many pending links to look at all
	// wait is how long it takes to send for so long, with a window; nil: without.
	wait      func(sending time.Duration) time.Duration
	notBefore time.Time // zero: at once
	reads     bool      // the links are only read, so each takes one request
}

// print shows what is about to happen and how long it takes.
func (p preview) print(w io.Writer, stats importer.Stats) {
	links := humanize.Plural(stats.Links, "link")
	if p.about != nil {
		about := p.about()
		fmt.Fprintf(w, "%s: %s in %s, such as %s\n", p.input(), links, about.Column, clean.Line(about.Sample))
		if skipped := skippedText(stats, about.Skipped); skipped != "" {
			fmt.Fprintf(w, "Skipped: %s\n", skipped)
		}
	} else {
		fmt.Fprintln(w, links)
	}
	p.printAPI(w, stats.Links)
	if !p.notBefore.IsZero() {
		fmt.Fprintf(w, "Begins: not before %s\n", second(p.notBefore))
	}
	if text := p.elsewhereText(); text != "" {
		fmt.Fprintln(w, text)
	}
}

// printAPI shows where the links are cancelled, with which key, and how long it takes.
func (p preview) printAPI(w io.Writer, links int64) {
	line := "API: " + p.api
	switch {
	case p.api == "":
		line = "API: that of the workers (none has started yet)"
	case p.api == plexy.DefaultBaseURL:
		line += " (production)"
	}
	if p.key != "" {
		line += ", key fingerprint " + p.key
	}
	fmt.Fprintf(w, "%s, at most %s: %s", line, requests(p.rate), roughly(p.takes(links), p.reads))
	if p.ahead > 0 {
		fmt.Fprintf(w, ", including %s that other batches have queued", humanize.Plural(p.ahead, "link"))
	}
	fmt.Fprintln(w)
}

// takes is how long the links take, if each needs one request.
func (p preview) takes(links int64) time.Duration {
	sending := time.Duration(float64(links+p.ahead) / p.rate * float64(time.Second))
	if p.wait != nil {
		return p.wait(sending)
	}
	return sending
}

func roughly(d time.Duration, reads bool) string {
	text := humanize.Duration(d)
	switch {
	case strings.HasPrefix(text, "under "):
		return text
	case d >= time.Minute && !reads:
		return "about " + text + ", up to twice that (links that are no longer payable take two requests)"
	}
	return "about " + text
}

// requests is a rate in words: 10 requests/s.
func requests(rate float64) string {
	number, unit, _ := strings.Cut(ratelimit.Rate(rate).String(), "/")
	if number == "1" {
		return "1 request/" + unit
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		number = humanize.Digits(n)
	}
	return number + " requests/" + unit
}

func (p preview) input() string {
	name := "standard input"
	if p.files[0] != "-" {
		name = clean.Line(p.files[0])
	}
	if n := len(p.files); n > 1 {
		name += fmt.Sprintf(" and %s", pluralOf(int64(n-1), "more file", "more files"))
	}
	return name
}

func skippedText(stats importer.Stats, rows string) string {
	var parts []string
	if stats.Duplicates > 0 {
		parts = append(parts, humanize.Plural(stats.Duplicates, "duplicate"))
	}
	if stats.Invalid > 0 {
		part := humanize.Plural(stats.Invalid, "bad row")
		if rows != "" {
			part += " (" + rows + ")"
		}
		parts = append(parts, part)
	}
	if stats.Headers > 0 {
		parts = append(parts, humanize.Plural(stats.Headers, "repeated header"))
	}
	return strings.Join(parts, ", ")
}

func (p preview) elsewhereText() string {
	var links int64
	for _, n := range p.elsewhere {
		links += n
	}
	if links == 0 && p.unchecked {
		return "Already queued: unknown, because too many links are pending"
	}
	if links == 0 {
		return ""
	}
	ids := slices.Sorted(maps.Keys(p.elsewhere))
	where := "batch " + ids[0]
	if len(ids) > 1 {
		where += fmt.Sprintf(" and %s", pluralOf(int64(len(ids)-1), "other batch", "other batches"))
	}
	count := humanize.Digits(links)
	if p.unchecked {
		count = "at least " + count
	}
	return fmt.Sprintf("Already queued: %s of these links, in %s", count, where)
}

// ask prints the preview and asks before the links are cancelled.
func (a *cliApp) ask(ctx context.Context, p preview, stats importer.Stats, q question) error {
	w := a.notes
	if !a.Yes {
		w = a.stderr // --quiet does not hide a question
	}
	p.print(w, stats)
	return a.confirm(ctx, q.about(stats.Links))
}

// about makes the question that of cancelling links.
func (q question) about(links int64) question {
	q.text = fmt.Sprintf("Cancel %s? This cannot be undone.", these(links))
	if links >= typedFrom {
		q.links = links
	}
	return q
}

func these(links int64) string {
	if links == 1 {
		return "this payment link"
	}
	return "these " + humanize.Plural(links, "payment link")
}

// fleetPreview is the preview of a batch for the workers: with their API, their limit and what they
// have to do already.
func fleetPreview(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger, notBefore time.Time) (p preview, alive bool, err error) {
	fleet, err := status.ReadFleet(ctx, rdb, l)
	if err != nil {
		return p, false, err
	}
	if alive = len(fleet.Workers) > 0; alive || fleet.Override {
		p.rate = float64(fleet.Ceiling)
	} else {
		p.rate = defaultRate
	}
	b := status.Batch{Batch: ledger.Batch{Terms: ledger.Terms{NotBefore: notBefore}}, Fleet: fleet}
	p.notBefore, p.wait = notBefore, func(sending time.Duration) time.Duration {
		return b.Wait(sending) - max(0, notBefore.Sub(fleet.Now)) // it is shown when the batch begins
	}
	api, err := l.API(ctx)
	if err != nil {
		return p, alive, err
	}
	p.api = api.URL
	open, err := l.Unfinished(ctx)
	for _, b := range open {
		if b.Open() {
			p.ahead += b.Pending()
		}
	}
	return p, alive, err
}
