package web

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/report"
	"linkcancel/internal/status"
)

// outcomeView is an outcome with its number of links.
type outcomeView struct {
	Name    string // as in reports; pending for links without one
	Links   int64
	Percent float64 // of the batch
	Upto    float64 // the sum of the percents up to here, for a bar
	Payable string  // whether these links may still take payments
}

// payable says for each outcome whether its links may still take payments.
var payable = map[ledger.Outcome]string{
	ledger.None: "yes, until it is sent", ledger.Cancelled: "no", ledger.AlreadyCancelled: "no", ledger.NotFound: "no",
	ledger.NotCancellable: "only if active or unknown", ledger.Rejected: "perhaps", ledger.Failed: "perhaps", ledger.Aborted: "as before",
	ledger.NotPayable: "no", ledger.StillPayable: "yes", ledger.Unknown: "perhaps",
}

// outcomesOf are the outcomes of a batch in the order of display, pending last.
func outcomesOf(b ledger.Batch) []outcomeView {
	counts := b.Counts
	counts[ledger.None] = b.Pending()
	var views []outcomeView
	sum := 0.0
	for _, o := range append(slices.Clone(b.Outcomes()), ledger.None) {
		v := outcomeView{Name: o.String(), Links: counts[o], Payable: payable[o]}
		if b.Verifies() && o == ledger.None {
			v.Payable = "perhaps"
		}
		if b.Total > 0 {
			v.Percent = 100 * float64(counts[o]) / float64(b.Total)
		}
		sum += v.Percent
		v.Upto = sum
		views = append(views, v)
	}
	return views
}

// bar are the parts of a bar, the widest first, since each is drawn over the one before.
func bar(views []outcomeView) []outcomeView {
	parts := slices.Clone(views[:len(views)-1]) // pending is what stays empty
	slices.Reverse(parts)
	return parts
}

// batchRow is a batch in the list.
type batchRow struct {
	ledger.Batch
	Bar     []outcomeView
	Percent string
	Failing int64
	Left    string
}

func (s *Server) rowOf(b ledger.Batch, fleet status.Fleet) batchRow {
	row := batchRow{Batch: b, Bar: bar(outcomesOf(b)), Percent: percent(b), Failing: b.Counts[ledger.Rejected] + b.Counts[ledger.Failed] + b.Counts[ledger.StillPayable]}
	if b.Open() {
		row.Left = s.left(status.Batch{Batch: b, Fleet: fleet})
	}
	return row
}

// percent is how much of a batch has ended. It is 100% only if nothing is pending.
func percent(b ledger.Batch) string {
	switch {
	case b.Total == 0 || b.Pending() == 0:
		return "100%"
	}
	return fmt.Sprintf("%.0f%%", math.Floor(100*float64(b.Total-b.Pending())/float64(b.Total)))
}

// left is the time left, or why nothing moves.
func (s *Server) left(b status.Batch) string {
	m, text := b.Movement(), ""
	if m.Stopped != "" && !m.Waits {
		return m.Stopped
	}
	if rate, known := s.reader.rate(b.ID); known {
		if left := b.TimeLeft(rate); left >= 0 {
			text = humanize.Duration(left) + " left"
		}
	}
	if m.Stopped != "" && text != "" {
		return m.Stopped + "; " + text
	}
	return m.Stopped + text
}

// fleetView is the summary of the fleet.
type fleetView struct {
	Workers int
	Limit   string
	Hold    string
	Cause   string
}

func fleetOf(f status.Fleet) fleetView {
	v := fleetView{Workers: len(f.Workers)}
	if len(f.Workers) > 0 || f.Override {
		v.Limit = f.Limit()
	}
	if f.Hold.Reason != ratelimit.ReasonNone {
		v.Hold = status.Hold(f.Hold)
		if f.Hold.Reason != ratelimit.ReasonManual && f.Hold.Reason != ratelimit.ReasonWindow {
			v.Cause = f.Hold.Cause
		}
	} else {
		v.Hold = f.OwnHoldsText()
	}
	return v
}

// batchesPage is the list of batches.
type batchesPage struct {
	layout
	Summary fleetView
	Rows    []batchRow
	State   string
	Source  string
	States  []string
	Sources []string
	More    int // batches that are not shown
	None    bool
}

// shownBatches is how many batches a page lists.
const shownBatches = 100

func (s *Server) batchesPage(ctx context.Context, r *http.Request) (string, view, error) {
	query := r.URL.Query()
	p := &batchesPage{
		layout: layout{Title: "Batches", Nav: "batches"}, State: query.Get("state"), Source: query.Get("source"),
		States: []string{"importing", "ready", "running", "paused", "done", "aborted"}, Sources: []string{"import", "sweep", "run", "verify"},
	}
	if p.State != "" && !slices.Contains(p.States, p.State) || p.Source != "" && !slices.Contains(p.Sources, p.Source) {
		return "", nil, &notFoundError{"There is no such state or source of a batch."}
	}
	fleet, at, err := s.reader.readFleet(ctx)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	all, at, err := s.reader.readBatches(ctx, fleetFor)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	p.Summary, p.None = fleetOf(fleet), len(all) == 0
	for _, b := range all {
		if p.State != "" && p.State != string(b.State) || p.Source != "" && p.Source != b.Source {
			continue
		}
		if len(p.Rows) == shownBatches {
			p.More++
			continue
		}
		p.Rows = append(p.Rows, s.rowOf(*b, fleet))
	}
	return "batches", p, nil
}

// downSince notes that Redis is away. The page then shows the last reading, if there is one. Other
// errors it returns.
func (l *layout) downSince(at time.Time, err error) error {
	if _, away := broker.Away(err); !away || at.IsZero() {
		return err
	}
	if l.Down.IsZero() || at.Before(l.Down) {
		l.Down = at
	}
	return nil
}

// batchPage is one batch.
type batchPage struct {
	layout
	Batch     ledger.Batch
	Percent   string
	Bar       []outcomeView
	Outcomes  []outcomeView
	Now       string // why nothing moves, or the time left
	Rate      string
	Fleet     fleetView
	Origin    string
	Reason    string
	Records   status.Details
	Attempts  []attemptsView
	Chart     chart
	Entries   []entryView
	Commands  []command
	Retries   []ledger.Batch
	Retryable []outcomeView // the outcomes whose links can be retried
	Typed     string        // what to type to abort it
	Payable   string
	Verified  []verifiedView // its verifications, the newest first
	Concludes string         // what it shows, as a verification
	Findings  int64          // links that its latest verification found payable
	CanVerify bool
	Threshold bool // too many links that ended badly have paused it
}

// verifiedView is a verification of a batch.
type verifiedView struct {
	ledger.Batch
	Text    string
	Payable bool
}

type attemptsView struct {
	Attempts int
	Links    int64
}

type entryView struct {
	Time  time.Time
	Batch string
	Actor string
	Did   string
	Auto  bool
}

func entryOf(e history.Entry) entryView {
	return entryView{e.Time, e.Batch(), e.Actor, status.Did(e), e.Auto}
}

// command is what does the same on the command line.
type command struct{ What, Text string }

func (s *Server) batchPage(ctx context.Context, r *http.Request) (string, view, error) {
	p := &batchPage{layout: layout{Nav: "batches"}}
	b, at, err := s.reader.readBatch(ctx, r.PathValue("id"))
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	fleet, at, err := s.reader.readFleet(ctx)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	now := status.Batch{Batch: b, Fleet: fleet}
	p.Batch, p.Percent, p.Outcomes, p.Fleet = b, percent(b), outcomesOf(b), fleetOf(fleet)
	p.Bar = bar(p.Outcomes)
	p.Title = cmp.Or(clean.Line(b.Name), b.ID)
	if b.Open() {
		p.Title = p.Percent + " · " + p.Title
		p.Now = s.left(now)
		if rate, known := s.reader.rate(b.ID); known && now.Movement().Stopped == "" {
			p.Rate = humanize.Rate(rate)
		}
	}
	p.Reason, p.Typed = status.Reason(b), nameOf(b)
	p.Threshold = b.State == ledger.Paused && strings.HasPrefix(b.Reason, "threshold:")
	all, at, err := s.reader.readBatches(ctx, recordsEvery)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	for _, other := range all {
		if other.Parent == b.ID && !other.Verifies() && !other.Created.Before(b.Created) {
			p.Retries = append(p.Retries, *other)
		}
	}
	if b.State == ledger.Importing {
		return "batch", p, nil
	}
	if p.Records, err = s.reader.readRecords(ctx, now); p.downSince(at, err) != nil {
		return "", nil, err
	}
	p.details(b)
	return "batch", p, nil
}

// details are those that the records tell.
func (p *batchPage) details(b ledger.Batch) {
	d := p.Records
	if p.Rate == "" && d.Rate > 0 && !b.Open() {
		p.Rate = humanize.Rate(d.Rate) + " on average"
	}
	p.verifications(b, d.Verifications)
	for _, o := range retryable {
		if n := b.Counts[o]; n > 0 {
			p.Retryable = append(p.Retryable, outcomeView{Name: o.String(), Links: n})
		}
	}
	for n, links := range d.Attempts {
		p.Attempts = append(p.Attempts, attemptsView{n, links})
	}
	slices.SortFunc(p.Attempts, func(a, b attemptsView) int { return cmp.Compare(a.Attempts, b.Attempts) })
	p.Chart = chartOf(p.Records.Intervals)
	for _, e := range slices.Backward(p.Records.History) {
		p.Entries = append(p.Entries, entryOf(e))
	}
	if b.Ended() {
		p.Payable = "none"
		if d.Payable > 0 {
			p.Payable = humanize.Digits(d.Payable) + " of " + humanize.Digits(b.Total)
		}
	}
	switch {
	case b.State == ledger.Paused:
		p.Commands = append(p.Commands, command{"Resume", "linkcancel batch resume " + b.ID}, command{"Abort", "linkcancel batch abort " + b.ID})
	case b.Open():
		p.Commands = append(p.Commands, command{"Pause", "linkcancel batch pause " + b.ID}, command{"Abort", "linkcancel batch abort " + b.ID})
	case p.Findings > 0:
		p.Commands = append(p.Commands, command{"Retry", "linkcancel batch retry " + b.ID + " --still-payable"})
	case b.Counts[ledger.Failed]+b.Counts[ledger.Rejected] > 0:
		p.Commands = append(p.Commands, command{"Retry", "linkcancel batch retry " + b.ID + " --outcome failed,rejected"})
	}
}

// verifications are what has been verified of the batch, or what it shows as a verification.
func (p *batchPage) verifications(b ledger.Batch, made []ledger.Batch) {
	p.Concludes = status.Conclusion(b)
	p.CanVerify = b.Ended() && !b.Verifies()
	if p.CanVerify {
		defer func() { p.Commands = append(p.Commands, command{"Verify", "linkcancel batch verify " + b.ID}) }()
	}
	if b.Verifies() {
		p.Findings = b.Counts[ledger.StillPayable]
	}
	for _, v := range slices.Backward(made) {
		text := status.Conclusion(v)
		if text == "" {
			text = fmt.Sprintf("%s of %s read", humanize.Digits(status.LinksRead(v)), humanize.Plural(v.Total, "link"))
		}
		if len(p.Verified) == 0 {
			p.Findings = v.Counts[ledger.StillPayable]
		}
		p.Verified = append(p.Verified, verifiedView{Batch: v, Text: text, Payable: v.Counts[ledger.StillPayable] > 0})
	}
}

// linksPage is a page of a batch's links.
type linksPage struct {
	layout
	Batch    ledger.Batch
	Outcome  string
	Outcomes []string
	Links    []report.Result
	Page     int
	Previous string
	Next     string
}

// linksPerPage is how many links a page has.
const linksPerPage = 100

func (s *Server) linksPage(ctx context.Context, r *http.Request) (string, view, error) {
	query := r.URL.Query()
	p := &linksPage{layout: layout{Nav: "batches"}, Outcome: query.Get("outcome"), Page: 1}
	if text := query.Get("page"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1_000_000 {
			return "", nil, &notFoundError{"There is no such page of links."}
		}
		p.Page = n
	}
	b, at, err := s.reader.readBatch(ctx, r.PathValue("id"))
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	for _, o := range append(slices.Clone(b.Outcomes()), ledger.None) {
		p.Outcomes = append(p.Outcomes, o.String())
	}
	if p.Outcome != "" && !slices.Contains(p.Outcomes, p.Outcome) {
		return "", nil, &notFoundError{"There is no such outcome."}
	}
	p.Batch, p.Title = b, "Links of "+b.ID
	if b.State == ledger.Importing {
		return "links", p, nil
	}
	found, err := s.reader.readLinks(ctx, *p, s.findLinks)
	if err != nil {
		return "", nil, err
	}
	p.Links, p.Previous, p.Next = found.Links, found.Previous, found.Next
	return "links", p, nil
}

// findLinks fills the page in the order of the manifest.
func (s *Server) findLinks(ctx context.Context, p *linksPage) error {
	l, b := s.cfg.Ledger, p.Batch
	address := func(page int) string {
		q := url.Values{"page": {strconv.Itoa(page)}}
		if p.Outcome != "" {
			q.Set("outcome", p.Outcome)
		}
		return batchAddress(b.ID) + "/links?" + q.Encode()
	}
	if p.Page > 1 {
		p.Previous = address(p.Page - 1)
	}
	first := (p.Page - 1) * linksPerPage
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return err
	}
	var chunk []string
	at, seen := -1, 0
	for position := range int(b.Total) {
		record := found.Record(position)
		if p.Outcome != "" && record.Outcome.String() != p.Outcome {
			continue
		}
		if seen++; seen <= first {
			continue
		}
		if len(p.Links) == linksPerPage {
			p.Next = address(p.Page + 1)
			break
		}
		if n := position / ledger.ChunkLinks; n != at {
			if chunk, err = l.Links(ctx, b.ID, n); err != nil {
				return err
			}
			at = n
		}
		lr := found.At(position)
		lr.Link = chunk[position%ledger.ChunkLinks]
		p.Links = append(p.Links, report.ResultOf(b, lr))
	}
	return nil
}

// linkPage is what became of one link, or of a few.
type linkPage struct {
	layout
	Query   string
	Problem string // why nothing was looked for
	Links   []*linkView
}

type linkView struct {
	Link    string
	Batches []status.LinkInView
}

// mostLinks is how many links are looked for at once.
const mostLinks = 10

func (s *Server) linkPage(ctx context.Context, r *http.Request) (string, view, error) {
	p := &linkPage{layout: layout{Title: "Link", Nav: "link", Still: true}, Query: strings.TrimSpace(r.URL.Query().Get("q"))}
	words := strings.Fields(p.Query)
	if len(words) > mostLinks {
		p.Problem = fmt.Sprintf("These are %d links: look for at most %d at once.", len(words), mostLinks)
		return "link", p, nil
	}
	views := map[string]*linkView{}
	var ids []string
	for _, word := range words {
		id, err := linkcsv.LinkID(word)
		if err != nil {
			p.Problem = fmt.Sprintf("%q is not the id or the URL of a link: %v.", clean.Line(word), err)
			return "link", p, nil
		}
		if views[id] == nil {
			views[id] = &linkView{Link: id}
			ids, p.Links = append(ids, id), append(p.Links, views[id])
		}
	}
	if len(ids) == 0 {
		return "link", p, nil
	}
	found, err := s.findLink(ctx, ids)
	for id, batches := range found {
		for _, in := range batches {
			views[id].Batches = append(views[id].Batches, in.View())
		}
	}
	return "link", p, err
}

// findLink finds links in all batches. Redis looks through them, so there is one search at a time.
func (s *Server) findLink(ctx context.Context, ids []string) (map[string][]status.LinkIn, error) {
	select {
	case s.search <- struct{}{}:
		defer func() { <-s.search }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another search: %w", ctx.Err())
	}
	return status.FindLinks(ctx, s.cfg.Redis, s.cfg.Ledger, ids)
}

// ratePage is the limit and the workers.
type ratePage struct {
	layout
	Summary  fleetView
	Ceiling  string
	Rate     string
	Override bool
	Since    time.Time
	Until    time.Time
	Held     bool
	Window   string // when the fleet sends; "" without a window
	Closed   bool   // the window
	Workers  []workerRow
	Entries  []entryView
}

// shownChanges is how many changes of the limit a page has.
const shownChanges = 20

type workerRow struct {
	ID, Rate, Hold, API, Version, Key string
	InFlight                          int
	Took                              time.Duration
}

func (s *Server) ratePage(ctx context.Context, _ *http.Request) (string, view, error) {
	p := &ratePage{layout: layout{Title: "Rate", Nav: "rate"}}
	f, at, err := s.reader.readFleet(ctx)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	p.Summary, p.Override, p.Since, p.Until = fleetOf(f), f.Override, f.Hold.Since, f.Hold.Until
	p.Held = f.Hold.Reason != ratelimit.ReasonNone && f.Hold.Reason != ratelimit.ReasonWindow
	if v := f.View().Window; v != nil {
		p.Window, p.Closed = v.Window, !v.Open
		if v.Until != nil {
			p.Window += map[bool]string{true: ", open until ", false: ", closed until "}[v.Open] + v.Until.Format("2006-01-02 15:04 UTC")
		}
	}
	entries, at, err := s.reader.readLimitHistory(ctx)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	for _, e := range slices.Backward(entries) {
		if len(p.Entries) == shownChanges {
			break
		}
		p.Entries = append(p.Entries, entryOf(e))
	}
	if f.Ceiling > 0 {
		p.Ceiling, p.Rate = f.Ceiling.String(), humanize.PerSecond(float64(f.Rate))
	}
	for _, w := range f.Workers {
		beat := f.Heartbeats[w.ID]
		row := workerRow{ID: w.ID, Rate: w.Rate.String(), API: beat.API, Version: beat.Version, Key: beat.Key, InFlight: beat.InFlight}
		row.Took = time.Duration(beat.TookMillis) * time.Millisecond
		if hold := f.OwnHold(w); hold.Reason != ratelimit.ReasonNone {
			row.Hold = strings.TrimSpace(status.Hold(hold) + " " + hold.Cause)
		}
		p.Workers = append(p.Workers, row)
	}
	return "rate", p, nil
}

// sweepsPage is the schedule and the last sweeps.
type sweepsPage struct {
	layout
	Schedule string
	Next     time.Time
	Overdue  bool
	Runs     []sweepView
}

type sweepView struct {
	Name string
	ledger.SweepRun
	LeftOut []leftOutView
}

type leftOutView struct {
	Why   string
	Links int64
}

func (s *Server) sweepsPage(ctx context.Context, _ *http.Request) (string, view, error) {
	p := &sweepsPage{layout: layout{Title: "Sweeps", Nav: "sweeps"}}
	found, at, err := s.reader.readSweeps(ctx)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	p.Schedule, p.Next = found.Schedule, found.Next
	p.Overdue = !found.Next.IsZero() && time.Since(found.Next) > time.Minute
	for _, run := range []struct {
		name string
		run  *ledger.SweepRun
	}{{"Running now", found.Running}, {"Last scheduled", found.Last}, {"Last by a command", found.Command}} {
		if run.run == nil {
			continue
		}
		v := sweepView{Name: run.name, SweepRun: *run.run}
		for name, links := range run.run.Counts.LeftOut {
			v.LeftOut = append(v.LeftOut, leftOutView{status.LeftOut(name), links})
		}
		slices.SortFunc(v.LeftOut, func(a, b leftOutView) int { return cmp.Or(cmp.Compare(b.Links, a.Links), cmp.Compare(a.Why, b.Why)) })
		p.Runs = append(p.Runs, v)
	}
	return "sweeps", p, nil
}

// activityPage is who changed what.
type activityPage struct {
	layout
	Entries []entryView
}

// shownEntries is how many entries a page has.
const shownEntries = 200

func (s *Server) activityPage(ctx context.Context, _ *http.Request) (string, view, error) {
	p := &activityPage{layout: layout{Title: "Activity", Nav: "activity"}}
	entries, at, err := s.reader.readActivity(ctx)
	if err = p.downSince(at, err); err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		p.Entries = append(p.Entries, entryOf(e))
	}
	return "activity", p, nil
}

// report streams the report of a batch.
func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	if err := s.writeReport(w, r); err != nil {
		s.problem(w, r, err)
	}
}

// writeReport returns an error if nothing is written yet.
func (s *Server) writeReport(w http.ResponseWriter, r *http.Request) error {
	opt := report.Options{Format: cmp.Or(r.URL.Query().Get("format"), report.FormatCSV)}
	kinds := map[string]string{report.FormatCSV: "text/csv; charset=utf-8", report.FormatJSONL: "application/jsonl"}
	if kinds[opt.Format] == "" {
		return &notFoundError{"A report is csv or jsonl."}
	}
	for _, name := range strings.FieldsFunc(r.URL.Query().Get("outcome"), func(c rune) bool { return c == ',' }) {
		o, err := ledger.ParseOutcome(name)
		if err != nil {
			return &notFoundError{"There is no such outcome."}
		}
		opt.Outcomes = append(opt.Outcomes, o)
	}
	b, err := s.cfg.Ledger.Get(r.Context(), r.PathValue("id"))
	if err == nil && b.State == ledger.Importing {
		err = &notFoundError{"The batch is still being imported: it has no report yet."}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", kinds[opt.Format])
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.%s"`, b.ID, opt.Format))
	if err := report.WriteBatch(r.Context(), patient{w}, s.cfg.Ledger, b, opt); err != nil {
		panic(http.ErrAbortHandler) // so that the download does not look complete
	}
	return nil
}

// patient gives each part of a long answer its time.
type patient struct{ http.ResponseWriter }

func (p patient) Write(b []byte) (int, error) {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(pageTimeout))
	return p.ResponseWriter.Write(b)
}
