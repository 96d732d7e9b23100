package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
)

// Defaults of a Selection.
const (
	DefaultGrace  = 24 * time.Hour
	DefaultStatus = "active"
	DefaultMax    = 10_000
)

// clockOffMost is how far the clocks may differ before dates are judged by the earlier one.
const clockOffMost = 5 * time.Minute

// manyLeft is how many links of another status make a sweep that selects nothing suspicious.
const manyLeft = 10

// Selection is what a sweep takes. As JSON it is part of a task, with times in nanoseconds.
type Selection struct {
	// Expired takes links that expired more than Grace ago, by a readable expiry.
	Expired bool          `json:"expired"`
	Grace   time.Duration `json:"grace"`
	// OlderThan takes links that were created longer ago. 0: links of any age.
	OlderThan time.Duration `json:"older_than"`
	// Status is the status that they must have. Case does not matter.
	Status string `json:"status"`
	// Max refuses a sweep of more links.
	Max int64 `json:"max"`
}

// Validate returns what is wrong with a selection, or nil.
func (s Selection) Validate() error {
	switch {
	case !s.Expired && s.OlderThan == 0:
		return errors.New("the sweep would take every link: select by expiry or by age")
	case s.Grace < 0:
		return fmt.Errorf("the grace is negative (%v): links that are not expired yet would be taken", s.Grace)
	case s.OlderThan < 0:
		return fmt.Errorf("the age is negative (%v)", s.OlderThan)
	case strings.TrimSpace(s.Status) == "":
		return errors.New("no status is given: " + DefaultStatus + " takes the links that can still be paid")
	case s.Max < 1:
		return fmt.Errorf("at most %d links are allowed: use 1 or more", s.Max)
	}
	return nil
}

// String returns the selection in a few words, such as "active, expired for 24h".
func (s Selection) String() string {
	words := []string{s.Status}
	if s.Expired {
		words = append(words, "expired for "+ShortDuration(s.Grace))
	}
	if s.OlderThan > 0 {
		words = append(words, "older than "+ShortDuration(s.OlderThan))
	}
	return strings.Join(words, ", ")
}

// ShortDuration returns whole days from 2 on as "30d", else a duration without zeros.
func ShortDuration(d time.Duration) string {
	if days := d / (24 * time.Hour); days > 1 && d%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(days), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Config configures a sweep. Selection, API, Limiter and Log are required.
type Config struct {
	Selection Selection
	API       Lister
	Limiter   Limiter
	Log       *slog.Logger

	// BatchID is the id of the batch. "": FreeID chooses it. A sealed sweep of this id is returned.
	BatchID string
	// Timezone is the time zone of the day in a chosen id. nil: UTC.
	Timezone *time.Location
	Name     string // of the batch; "": the selection in words
	By       history.By
	Canary   bool
	Terms    ledger.Terms

	// Exclude, if not nil, reports whether a link must not be selected.
	Exclude func(id string) bool
	// Keep is how many of the selected links the plan shows, the oldest first. < 0: all.
	Keep int
	// DryRun ends the sweep after the plan. Nothing is written.
	DryRun bool

	// Progress, if not nil, is called after each page and before a repetition. It must be quick.
	Progress func(ListProgress)
	// Confirm, if not nil, is called before a batch is written. Its error ends the sweep.
	Confirm func(Plan) error
	// Observe, if not nil, is called after each request, for metrics. Status 0: no answer.
	Observe func(method string, status int, took time.Duration)
	// Now is this machine's clock. nil: time.Now.
	Now func() time.Time
}

func (c *Config) setDefaults() {
	c.Timezone = cmp.Or(c.Timezone, time.UTC)
	c.Name = cmp.Or(c.Name, c.Selection.String())
	if c.Now == nil {
		c.Now = time.Now
	}
}

func (c *Config) validate() error {
	if c.API == nil || c.Limiter == nil || c.Log == nil {
		return errors.New("a sweep needs the API, a limiter and a logger")
	}
	if c.BatchID != "" {
		if err := ledger.CheckBatchID(c.BatchID); err != nil {
			return err
		}
	}
	return c.Selection.Validate()
}

// Plan is what a sweep found. Listed is Dropped.Sum() + Waiting + Settled + Selected.
type Plan struct {
	Listed   int64         // distinct links
	ByStatus []StatusCount // the largest first
	Unusable int64         // entries of the list without a usable id, which are not in Listed
	Dropped  Dropped
	Dates    Dates
	Waiting  int64 // left out: they wait in an unfinished batch
	Settled  int64 // left out: a batch finished them after the reading of the list began
	Selected int64

	// PastExpiry counts the links past their grace that are neither cancelled nor paid.
	PastExpiry int64
	// Suspicious: nothing was selected, but many links that are neither cancelled nor paid
	// meet everything but the status. Perhaps the API spells it differently.
	Suspicious bool
	// ClockOff is how far the API's clock is ahead, 0 unless they differ by more than 5 minutes.
	ClockOff time.Duration

	Requests, Passes int    // of reading the list
	Links            []Link // the first Config.Keep of the selected
}

// StatusCount is the number of links with a status, in the spelling of the API. "" means that they have none.
type StatusCount struct {
	Status string `json:"status"`
	Links  int64  `json:"links"`
}

// Dropped counts links by the first condition of the selection that they do not meet.
type Dropped struct {
	Status            int64 `json:"status"` // another one
	NoExpiry          int64 `json:"no_expiry"`
	UnreadableExpiry  int64 `json:"unreadable_expiry"`
	NotExpired        int64 `json:"not_expired"` // or not for longer than the grace
	NoCreated         int64 `json:"no_created"`
	UnreadableCreated int64 `json:"unreadable_created"`
	NotOld            int64 `json:"not_old"`  // created too recently
	Excluded          int64 `json:"excluded"` // by Config.Exclude
}

// Sum is the number of links left out.
func (d Dropped) Sum() int64 {
	return d.Status + d.NoExpiry + d.UnreadableExpiry + d.NotExpired + d.NoCreated + d.UnreadableCreated + d.NotOld + d.Excluded
}

// Dates counts links by a date that the selection uses. All but Other have the wanted status.
type Dates struct {
	Links           int64     // of the wanted status
	Expiry, Created DateCount // zero if the selection does not use it
	// Other counts links with another status that can be paid. Its Known is not counted.
	Other         DateCount
	NoZone        int64  // links with a date without a time zone
	NoZoneExample string // one of these dates, as plexy.DateNote.Text
	InGrace       int64  // links that have expired, but not for longer than the grace
}

// DateCount counts links by one of their dates.
type DateCount struct {
	Known      int64
	Unreadable int64
	Example    string // an unreadable date, as plexy.DateNote.Text
}

// Link is a selected link.
type Link struct {
	ID, Status           string
	CreatedAt, ExpiresAt time.Time // zero: unknown
	Amount               int64     // minor units of Currency; 0: unknown
	Currency             string
}

// Result is the result of a sweep.
type Result struct {
	Plan
	// Batch is the sealed batch. Its ID is "" if nothing was selected, or in a dry run.
	Batch ledger.Batch
	// Existed: a sealed sweep had the given id already, and nothing was listed.
	Existed bool
}

// TooManyError is the error of a sweep that found more links than Selection.Max. It did nothing.
type TooManyError struct{ Found, Max int64 }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("the sweep found %d links, and %d are allowed: nothing was done", e.Found, e.Max)
}

// UnreadableDatesError is the error of a sweep that could not read most of the dates that it
// selects by. It did nothing, because the selection would be a matter of chance.
type UnreadableDatesError struct {
	Date                string // DateExpiry or DateCreated
	Unreadable, Present int64  // links of the wanted status; Present are those with such a date
	Example             string // a date that cannot be read
}

// Dates of an UnreadableDatesError.
const (
	DateExpiry  = "expiry"
	DateCreated = "date of creation"
)

func (e *UnreadableDatesError) Error() string {
	return fmt.Sprintf("the sweep cannot read the %s of %d of %d links, such as %q: nothing was done", e.Date, e.Unreadable, e.Present, e.Example)
}

// Run reads the API's whole list, selects links from it, leaves out those that wait in an
// unfinished batch or that a batch has finished meanwhile, and seals the rest as a batch. If
// nothing is selected, it makes no batch and returns no error.
//
// The plan is valid with a *TooManyError, an *UnreadableDatesError and an error of Confirm.
// An early retry does not solve ErrKeyRefused, ErrNoList, ErrPageIgnored, a *TooManyError or
// an *UnreadableDatesError.
func Run(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return Result{}, fmt.Errorf("sweep: %w", err)
	}
	if cfg.BatchID != "" {
		b, err := sealedSweep(ctx, l, cfg.BatchID)
		if err != nil || b.ID != "" {
			return Result{Batch: b, Existed: err == nil}, err
		}
	}
	now, err := l.Now(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("ask Redis for the time: %w", err)
	}
	c := newSelector(cfg.Selection, cfg.Keep)
	c.exclude = cfg.Exclude
	c.began = now.Truncate(time.Second) // outcomes are recorded to the second
	w := &listReader{
		pageReader: pageReader{api: cfg.API, limiter: cfg.Limiter, log: cfg.Log, attempts: listAttempts, observe: cfg.Observe},
		most:       listMost, progress: cfg.Progress, see: c.see,
	}
	w.first = func(p plexy.Page) { c.now, c.clockOff = judgingTime(cfg.Now(), p.Date) }
	if err := w.read(ctx); err != nil {
		return Result{}, err
	}
	if err := c.leaveOut(ctx, l, cfg.Log); err != nil {
		return Result{}, err
	}
	r := Result{Plan: c.plan(w)}
	cfg.warn(r.Plan)
	if err := cfg.Selection.refuse(r.Plan); err != nil {
		return r, err
	}
	if r.Selected == 0 || cfg.DryRun {
		return r, nil
	}
	if cfg.Confirm != nil {
		if err := cfg.Confirm(r.Plan); err != nil {
			return r, err
		}
	}
	// Another sweep may have made its batch meanwhile. From here on, no other can.
	release, err := l.SealSweep(ctx)
	if err != nil {
		return r, err
	}
	defer release()
	if err := c.leaveOut(ctx, l, cfg.Log); err != nil {
		return r, err
	}
	if r.Plan = c.plan(w); r.Selected == 0 {
		return r, nil
	}
	r.Batch, err = seal(ctx, l, c, cfg, r.Unusable)
	return r, err
}

// warn logs what is odd about a plan.
func (c *Config) warn(p Plan) {
	sel, d := c.Selection, p.Dates
	if p.ClockOff != 0 {
		c.Log.Warn("this machine's clock differs from the API's: the earlier of the two counts for dates; set it by NTP",
			"api_ahead_by", p.ClockOff.Round(time.Second).String())
	}
	if n := d.Expiry.Unreadable + d.Created.Unreadable + d.Other.Unreadable; n > 0 {
		c.Log.Warn("dates of links cannot be read: these links are not selected", "unreadable", n, "readable", d.Expiry.Known+d.Created.Known,
			"example", cmp.Or(d.Expiry.Example, d.Created.Example, d.Other.Example))
	}
	if d.NoZone > 0 {
		c.Log.Warn("dates of links name no time zone: each counts as the latest instant that it can mean", "links", d.NoZone, "example", d.NoZoneExample)
	}
	if sel.Expired && d.Links > 0 && d.Expiry.present() == 0 {
		c.Log.Warn("the sweep selects by expiry, and no link of the wanted status has one", "status", sel.Status, "links", d.Links)
	}
	if sel.OlderThan > 0 && d.Links > 0 && d.Created.present() == 0 {
		c.Log.Warn("the sweep selects by age, and no link of the wanted status has a date of creation", "status", sel.Status, "links", d.Links)
	}
	switch {
	case p.Suspicious:
		c.Log.Warn("the sweep selected nothing, though many links meet all but the status: is that its spelling?",
			"status", sel.Status, "past_expiry", p.PastExpiry)
	case p.Selected+p.Waiting+p.Settled == 0 && d.InGrace == 0 && p.PastExpiry >= manyLeft && sel.OlderThan == 0:
		c.Log.Warn("the sweep selected nothing, though links are past their expiry", "selection", sel.String(), "past_expiry", p.PastExpiry)
	}
}

// refuse returns the error of a sweep that must not make a batch, or nil.
func (s Selection) refuse(p Plan) error {
	for _, date := range [...]struct {
		name  string
		count DateCount
	}{{DateExpiry, p.Dates.Expiry}, {DateCreated, p.Dates.Created}} {
		if n := date.count; 2*n.Unreadable > n.present() {
			return &UnreadableDatesError{Date: date.name, Unreadable: n.Unreadable, Present: n.present(), Example: n.Example}
		}
	}
	if p.Selected > s.Max {
		return &TooManyError{Found: p.Selected, Max: s.Max}
	}
	return nil
}

// present counts the links that have the date, readable or not.
func (c DateCount) present() int64 { return c.Known + c.Unreadable }

// sealedSweep returns the sealed sweep with an id, or a zero Batch.
func sealedSweep(ctx context.Context, l *ledger.Ledger, id string) (ledger.Batch, error) {
	b, err := l.Get(ctx, id)
	switch {
	case errors.Is(err, ledger.ErrNoBatch), err == nil && b.State == ledger.Importing:
		return ledger.Batch{}, nil
	case err == nil && b.Source != importer.SourceSweep:
		return ledger.Batch{}, fmt.Errorf("batch %s: %w: it is from another source (%s)", id, importer.ErrOtherLinks, b.Source)
	}
	return b, err
}

// judgingTime returns the time by which links are judged, and Plan.ClockOff. If the clocks
// differ, a link counts as expired when both say so. date is the API's time, or zero.
func judgingTime(now, date time.Time) (at time.Time, off time.Duration) {
	if date.IsZero() {
		return now, 0
	}
	off = date.Sub(now)
	switch {
	case off.Abs() <= clockOffMost:
		return now, 0
	case off < 0:
		return date, off
	}
	return now, off
}

// sealTries is how often another sweep may take the chosen id first.
const sealTries = 10

// seal makes the batch of the selected links.
func seal(ctx context.Context, l *ledger.Ledger, c *selector, cfg Config, unusable int64) (ledger.Batch, error) {
	for try := 1; ; try++ {
		id := cfg.BatchID
		if id == "" {
			now, err := l.Now(ctx)
			if err != nil {
				return ledger.Batch{}, fmt.Errorf("ask Redis for the time: %w", err)
			}
			if id, err = FreeID(ctx, l, now.In(cfg.Timezone)); err != nil {
				return ledger.Batch{}, err
			}
		}
		b, err := importer.MakeBatch(ctx, l, c.source(unusable), importer.BatchConfig{
			ID: id, Source: importer.SourceSweep, Name: cfg.Name, By: cfg.By, Canary: cfg.Canary, Terms: cfg.Terms,
		})
		taken := errors.Is(err, importer.ErrOtherLinks) || errors.Is(err, ledger.ErrBusy)
		if cfg.BatchID == "" && taken && try < sealTries {
			continue
		}
		return b, err
	}
}

// FreeID returns the first free id of sweep-YYYY-MM-DD, sweep-YYYY-MM-DD-2, … for the date.
func FreeID(ctx context.Context, l *ledger.Ledger, date time.Time) (string, error) {
	day := "sweep-" + date.Format(time.DateOnly)
	id := day
	for n := 2; ; n++ {
		b, err := l.Get(ctx, id)
		switch {
		case errors.Is(err, ledger.ErrNoBatch):
			if deleted, err := l.Deleted(ctx, id); err != nil || !deleted {
				return id, err
			}
		case err != nil && b.State != ledger.Newer:
			return "", fmt.Errorf("find a free batch id: %w", err)
		}
		id = day + "-" + strconv.Itoa(n)
	}
}
