package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
	"golang.org/x/text/currency"

	"linkcancel/internal/app"
	"linkcancel/internal/broker"
	"linkcancel/internal/humanize"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
	"linkcancel/producer/sweep"
)

type sweepCmd struct {
	Action  string `arg:"" optional:"" name:"status" help:"status shows the last and the next sweep instead."`
	Exclude string `help:"Do not select the links of this CSV file." placeholder:"FILE"`
	selectionFlags
	Timezone string         `default:"UTC" help:"Time zone in which the day of the batch's id begins." placeholder:"ZONE"`
	Rate     ratelimit.Rate `default:"10/s" env:"LINKCANCEL_RATE" help:"Maximum rate: N/s, N/m or N/h; by default ${default}. It limits this command only; the fleet's limit applies, too." placeholder:"N/s"`
	NoCanary bool           `help:"Continue even if 50 links in a row are not_found, or rejected."`
	queueFlags
	termFlags
	reasonFlag
	redisFlags
	apiFlags
}

// selectionFlags say which links a sweep takes.
type selectionFlags struct {
	Expired   bool   `help:"Select expired links (the default unless --older-than is given). With both, links must meet both conditions."`
	Grace     *span  `help:"Only links that expired longer ago than this; by default 24h." placeholder:"TIME"`
	OlderThan *span  `help:"Select links that were created longer ago than this, such as 30d, expired or not." placeholder:"TIME"`
	Status    string `default:"active" help:"Only links with this status, in upper or lower case; by default ${default}." placeholder:"STATUS"`
	Max       int64  `default:"10000" help:"Refuse to select more links than this; by default ${default}." placeholder:"N"`
}

// selection reads the flags. They are named with a prefix in errors.
func (f selectionFlags) selection(prefix string) (sweep.Selection, error) {
	s := sweep.Selection{
		Expired: f.Expired || f.OlderThan == nil, Grace: sweep.DefaultGrace,
		Status: strings.TrimSpace(f.Status), Max: f.Max,
	}
	if f.OlderThan != nil {
		if s.OlderThan = time.Duration(*f.OlderThan); s.OlderThan == 0 {
			return s, usagef("--%solder-than 0 would take every link: use a time such as 30d", prefix)
		}
	}
	if f.Grace != nil {
		if s.Grace = time.Duration(*f.Grace); !s.Expired {
			return s, hint(usagef("--%[1]sgrace is about the expiry, which --%[1]solder-than alone does not look at", prefix), "add --%[1]sexpired to take links that are both old and expired", prefix)
		}
	}
	switch {
	case s.Status == "":
		return s, usagef("--%sstatus is empty: active takes the links that can still be paid", prefix)
	case s.Max < 1:
		return s, usagef("--%smax %d: use 1 or more", prefix, s.Max)
	}
	return s, nil
}

// sweepShown is how many links a dry run shows as a table.
const sweepShown = 20

func (c sweepCmd) Run(ctx context.Context, a *cliApp) error {
	if c.Action != "" && c.Action != "status" {
		return usagef("unexpected argument %s", c.Action)
	}
	if c.Action == "status" {
		return c.openLedger(ctx, a, func(_ redis.UniversalClient, l *ledger.Ledger) error { return a.sweepStatus(ctx, l) })
	}
	outlive()
	terms, err := c.terms()
	if err == nil {
		terms, err = c.add(terms)
	}
	if err != nil {
		return err
	}
	exclude, err := excluded(c.Exclude)
	if err != nil {
		return err
	}
	selection, err := c.selection("")
	if err != nil {
		return err
	}
	zone, err := time.LoadLocation(c.Timezone)
	if err != nil || c.Timezone == "Local" {
		return usagef("--timezone %q is not known: use UTC, or a name such as Asia/Almaty", c.Timezone)
	}
	key, api, err := c.connect(a, 1)
	if err != nil {
		return err
	}
	defer api.CloseIdle()
	if !a.DryRun && !a.Yes { // before the list is read, which may take minutes
		if _, _, err := a.terminal(question{}); err != nil {
			return err
		}
	}
	b, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer b.Close()
	l := ledger.New(b.Client())
	if err := a.claimAPI(ctx, l, api.BaseURL()); err != nil {
		return err
	}
	about, alive, err := fleetPreview(ctx, b.Client(), l, terms.NotBefore)
	if err != nil {
		return err
	}
	progress := newListProgress(a.notes)
	if !a.Quiet {
		a.log = a.logger(progress, a.LogLevel)
	}
	limiter, stop, err := c.limiter(ctx, a, b, key)
	if err != nil {
		return err
	}
	defer stop()
	progress.start(limiter.Status)
	defer progress.end()

	keep := 0
	switch {
	case a.DryRun && a.JSON:
		keep = -1
	case a.DryRun:
		keep = sweepShown
	}
	shown, began := false, time.Now()
	r, err := sweep.Run(ctx, l, sweep.Config{
		Selection: selection, API: app.Observe(api, api.BaseURL(), a.tracer, func(int) {}), Limiter: limiter, Log: a.log, Timezone: zone, By: c.by(), Canary: !c.NoCanary, Terms: terms,
		Exclude: exclude, Keep: keep, DryRun: a.DryRun, Progress: progress.update,
		Confirm: func(p sweep.Plan) error {
			progress.end()
			stop() // no more requests
			shown = true
			w := a.notes
			if !a.Yes {
				w = a.stderr
			}
			printPlan(w, selection, p)
			fmt.Fprintln(w)
			stats := importer.Stats{Links: p.Selected}
			about.print(w, stats)
			return a.confirm(ctx, question{links: p.Selected}.about(p.Selected))
		},
	})
	progress.end()
	c.note(ctx, a, l, began, r, err)
	if err = c.explain(a, err); err != nil && (r.Listed == 0 || shown) {
		return err
	}
	if !shown {
		out := a.notes
		if a.DryRun && !a.JSON {
			out = a.stdout
		}
		printPlan(out, selection, r.Plan)
	}
	if a.DryRun {
		return errors.Join(a.sweepDryRun(r, selection, about), err)
	}
	switch {
	case err != nil:
		return err
	case a.JSON:
		return printJSON(a.stdout, sweepToJSON(a, r, selection))
	case r.Batch.ID == "":
		fmt.Fprintln(a.notes, "There is nothing to cancel: no batch was made.")
		return nil
	}
	return a.printNew(r.Batch, alive, r.Existed)
}

// sweepDryRun shows the links that would be cancelled.
func (a *cliApp) sweepDryRun(r sweep.Result, s sweep.Selection, about preview) error {
	if a.JSON {
		return printJSON(a.stdout, sweepToJSON(a, r, s))
	}
	printLinks(a.stdout, r.Plan)
	if r.Selected > 0 && r.Selected <= s.Max {
		fmt.Fprintln(a.stdout)
		about.print(a.stdout, importer.Stats{Links: r.Selected})
	}
	fmt.Fprintln(a.stdout, dryRunNote)
	return nil
}

// limiter joins the fleet's limit until stop, which may be called twice.
func (c sweepCmd) limiter(ctx context.Context, a *cliApp, b *broker.Broker, key *plexy.Key) (fleet *ratelimit.Fleet, stop func(), err error) {
	fleet, err = ratelimit.NewFleet(ratelimit.FleetConfig{
		Config: ratelimit.Config{Rate: c.Rate}, Redis: b.Client(), Process: a.id, Observer: true, Log: a.log,
		Demand: func() int { return 0 }, // one request at a time, and that one waits in Acquire
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // to report the last answer to Redis
	var pump sync.WaitGroup
	pump.Go(func() { fleet.Run(ctx) })
	pump.Go(func() { app.WatchKey(ctx, key, fleet, a.log) })
	return fleet, func() { cancel(); pump.Wait() }, nil
}

// explain adds what the user can do.
func (c sweepCmd) explain(a *cliApp, err error) error {
	var many *sweep.TooManyError
	var unreadable *sweep.UnreadableDatesError
	switch {
	case errors.As(err, &unreadable):
		return hint(err, "%s; links from a file can be cancelled with linkcancel import", otherDate(unreadable))
	case errors.As(err, &many) && a.DryRun:
		return hint(usagef("%w", err), "--max %d allows them", many.Found)
	case errors.As(err, &many):
		return hint(usagef("%w", err), "--max %d allows them; --dry-run shows some of them", many.Found)
	case errors.Is(err, sweep.ErrKeyRefused):
		return hint(err, "check PLEXY_API_KEY or --api-key-file, and --base-url (%s)", c.BaseURL)
	case errors.Is(err, sweep.ErrNoList):
		return hint(err, "check --base-url (%s)", c.BaseURL)
	case errors.Is(err, sweep.ErrPageIgnored):
		return hint(err, "nothing was done; links from a file or a database can be cancelled with linkcancel import")
	case errors.Is(err, ratelimit.ErrHeld):
		return hint(err, "linkcancel rate show says why nothing is sent")
	}
	return err
}

// otherDate says how to select without the date that is unreadable.
func otherDate(e *sweep.UnreadableDatesError) string {
	if e.Date == sweep.DateExpiry {
		return "--older-than TIME, without --expired, selects by the date of creation"
	}
	return "without --older-than the expiry alone selects"
}

// printPlan prints the contents of the list and what was selected.
func printPlan(w io.Writer, s sweep.Selection, p sweep.Plan) {
	rows, statuses := planRows(s, p)
	names, numbers := 0, 0
	for _, r := range rows {
		names, numbers = max(names, utf8.RuneCountInString(r[0])), max(numbers, len(r[1]))
	}
	head := fmt.Sprintf("Listed %s", humanize.Plural(p.Listed, "link"))
	if p.Unusable > 0 {
		head += fmt.Sprintf(", and %s without a usable id", pluralOf(p.Unusable, "entry", "entries"))
	}
	pages := humanize.Plural(int64(p.Requests), "page")
	if p.Passes > 1 {
		pages += fmt.Sprintf(" in %d readings", p.Passes)
	}
	fmt.Fprintf(w, "%s (%s)\n", head, pages)
	for i, r := range rows {
		if i == statuses {
			fmt.Fprintln(w, "Left out")
		}
		fmt.Fprintf(w, "%-*s  %*s\n", names, r[0], numbers, r[1])
	}
}

// planRows are the names and numbers of a plan. The first statuses of them are by status.
func planRows(s sweep.Selection, p sweep.Plan) (rows [][2]string, statuses int) {
	row := func(name string, n int64) { rows = append(rows, [2]string{name, humanize.Digits(n)}) }
	some := func(name string, n int64) {
		if n > 0 {
			row(name, n)
		}
	}
	const most = 20
	for i, status := range p.ByStatus {
		if i == most {
			var rest int64
			for _, more := range p.ByStatus[most:] {
				rest += more.Links
			}
			row(fmt.Sprintf("  %d other statuses", len(p.ByStatus)-most), rest)
			break
		}
		row("  "+cmp.Or(status.Status, "(no status)"), status.Links)
	}
	statuses = len(rows)
	row("  not "+s.Status, p.Dropped.Status)
	if s.Expired {
		row("  without an expiry", p.Dropped.NoExpiry)
		some("  with an expiry that cannot be read", p.Dropped.UnreadableExpiry)
		row("  not expired for "+sweep.ShortDuration(s.Grace), p.Dropped.NotExpired)
	}
	if s.OlderThan > 0 {
		row("  without a date of creation", p.Dropped.NoCreated)
		some("  with a date of creation that cannot be read", p.Dropped.UnreadableCreated)
		row("  not older than "+sweep.ShortDuration(s.OlderThan), p.Dropped.NotOld)
	}
	some("  excluded by --exclude", p.Dropped.Excluded)
	row("  waiting in an unfinished batch", p.Waiting)
	some("  finished in another batch meanwhile", p.Settled)
	row("Selected", p.Selected)
	return rows, statuses
}

// pluralOf writes a count with its noun, whose plural is not regular.
func pluralOf(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Digits(n) + " " + many
}

// printLinks shows the first links as a table.
func printLinks(w io.Writer, p sweep.Plan) {
	if len(p.Links) == 0 {
		return
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LINK\tSTATUS\tCREATED (UTC)\tEXPIRES (UTC)\tAMOUNT")
	for _, link := range p.Links {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", link.ID, link.Status, minute(link.CreatedAt), minute(link.ExpiresAt), money(link))
	}
	_ = table.Flush() // output keeps the error
	if more := p.Selected - int64(len(p.Links)); more > 0 {
		fmt.Fprintf(w, "… and %s more; --json shows all\n", humanize.Digits(more))
	}
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// money writes an amount. The API has it in minor units: ISO 4217 says how many make a major one.
func money(link sweep.Link) string {
	if link.Amount == 0 {
		return "-"
	}
	unit, err := currency.ParseISO(link.Currency)
	if err != nil {
		return strings.TrimSpace(humanize.Digits(link.Amount) + " minor units " + link.Currency)
	}
	places, _ := currency.Standard.Rounding(unit)
	if places == 0 {
		return fmt.Sprintf("%s %s", humanize.Digits(link.Amount), unit)
	}
	one := int64(math.Pow10(places))
	return fmt.Sprintf("%s.%0*d %s", humanize.Digits(link.Amount/one), places, link.Amount%one, unit)
}

// sweepJSON is a sweep for --json. Without a batch the id is "", the state dry-run or empty.
type sweepJSON struct {
	status.BatchView
	Sweep sweepCountsJSON  `json:"sweep"`
	Links *[]sweepLinkJSON `json:"links,omitempty"` // of a dry run
}

type sweepCountsJSON struct {
	Listed     int64               `json:"listed"`
	ByStatus   []sweep.StatusCount `json:"by_status"`
	Unusable   int64               `json:"unusable"`
	Dropped    sweep.Dropped       `json:"dropped"`
	NoZone     int64               `json:"without_zone"` // links with a date that names no time zone
	Waiting    int64               `json:"waiting"`
	Settled    int64               `json:"settled"`
	Selected   int64               `json:"selected"`
	PastExpiry int64               `json:"past_expiry"`
	Suspicious bool                `json:"suspicious"`
	Pages      int                 `json:"pages"`
}

type sweepLinkJSON struct {
	ID        string     `json:"id"`
	Status    string     `json:"status"`
	CreatedAt *time.Time `json:"created_at"` // null: unknown
	ExpiresAt *time.Time `json:"expires_at"`
	Amount    int64      `json:"amount"` // minor units; 0: unknown
	Currency  string     `json:"currency"`
}

func sweepToJSON(a *cliApp, r sweep.Result, s sweep.Selection) sweepJSON {
	b := r.Batch
	if b.ID == "" {
		b = ledger.Batch{State: "empty", Source: importer.SourceSweep, Name: s.String(), Total: r.Selected, Invalid: r.Unusable}
		if a.DryRun {
			b.State = "dry-run"
		}
	}
	j := sweepJSON{BatchView: status.ViewOf(b), Sweep: sweepCountsJSON{
		Listed: r.Listed, ByStatus: r.ByStatus, Unusable: r.Unusable, Dropped: r.Dropped, NoZone: r.Dates.NoZone, Waiting: r.Waiting, Settled: r.Settled,
		Selected: r.Selected, PastExpiry: r.PastExpiry, Suspicious: r.Suspicious, Pages: r.Requests,
	}}
	if j.Sweep.ByStatus == nil {
		j.Sweep.ByStatus = []sweep.StatusCount{}
	}
	if !a.DryRun {
		return j
	}
	links := make([]sweepLinkJSON, len(r.Links))
	for i, link := range r.Links {
		links[i] = sweepLinkJSON{
			ID: link.ID, Status: link.Status, CreatedAt: status.Time(link.CreatedAt), ExpiresAt: status.Time(link.ExpiresAt),
			Amount: link.Amount, Currency: link.Currency,
		}
	}
	j.Links = &links
	return j
}
