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

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/producer"
)

// Defaults of a Selection.
const (
	DefaultGrace  = 24 * time.Hour
	DefaultStatus = "active"
	DefaultMax    = 10_000
)

// clockOffMost is how far the API's clock may be from this machine's before
// it matters to dates.
const clockOffMost = 5 * time.Minute

// manyLeft is how many links must meet all but the status before a sweep that
// selects nothing is suspicious.
const manyLeft = 10

// Selection says which links a sweep takes: those that meet all of it. As JSON
// it travels in the payload of a sweep task; durations are in nanoseconds there.
type Selection struct {
	// Expired takes links whose expiry is past by more than Grace. A link
	// without a readable expiry never counts as expired.
	Expired bool          `json:"expired"`
	Grace   time.Duration `json:"grace"`
	// OlderThan takes links that were created longer ago; 0: of any age.
	OlderThan time.Duration `json:"older_than"`
	// Status is the status that they must have, in whatever case.
	Status string `json:"status"`
	// Max refuses a sweep of more links.
	Max int64 `json:"max"`
}

// Validate says what is wrong with a selection.
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

// String is the selection in a few words: "active, expired for 24h".
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

// ShortDuration writes whole days from two on as 30d, and else leaves out the
// zeros of time.Duration's form.
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

// Config says what a sweep does. Selection, API, Limiter and Log are
// required.
type Config struct {
	Selection Selection
	API       Lister
	Limiter   Limiter
	Log       *slog.Logger

	// BatchID is the id of the batch; "": the first free one of the day, as
	// FreeID finds it. A sealed sweep of a given id is returned as it
	// stands, and nothing is listed.
	BatchID string
	// Timezone is where the day of a made-up id begins; nil: UTC.
	Timezone *time.Location
	Name     string // of the batch; "": the selection in words
	Canary   bool

	// Attempts is how often one page is asked for before the sweep fails, with a
	// growing delay between; 0: DefaultListAttempts.
	Attempts int
	// Keep is how many of the selected links the plan shows; < 0: all.
	Keep int
	// DryRun ends the sweep after its plan: nothing is written.
	DryRun bool

	// Progress, if not nil, is told of each page, and of each that is to be
	// asked for again. It must be quick.
	Progress func(ListProgress)
	// Confirm, if not nil, is asked before anything is written, unless nothing
	// was selected. Its error ends the sweep.
	Confirm func(Plan) error
	// Observe, if not nil, is told of each request, for metrics; status 0: no
	// answer.
	Observe func(method string, status int, took time.Duration)
	// Now is this machine's clock; nil: time.Now.
	Now func() time.Time
}

func (c *Config) setDefaults() {
	if c.Timezone == nil {
		c.Timezone = time.UTC
	}
	if c.Name == "" {
		c.Name = c.Selection.String()
	}
	if c.Attempts == 0 {
		c.Attempts = DefaultListAttempts
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

func (c *Config) validate() error {
	switch {
	case c.API == nil || c.Limiter == nil || c.Log == nil:
		return errors.New("a sweep needs the API, a limiter and a logger")
	case c.Attempts < 1:
		return fmt.Errorf("attempts %d: use 1 or more", c.Attempts)
	}
	if c.BatchID != "" {
		if err := ledger.CheckBatchID(c.BatchID); err != nil {
			return err
		}
	}
	return c.Selection.Validate()
}

// Plan is what a sweep found. Listed is Dropped.Sum() + Waiting + Settled +
// Selected.
type Plan struct {
	Listed   int64         // distinct links
	ByStatus []StatusCount // the most first
	Unusable int64         // entries of the list without a usable id: left out, and not in Listed
	Dropped  Dropped
	Dates    Dates
	Waiting  int64 // left out, as they wait in an unfinished batch already
	Settled  int64 // left out, as a batch has settled them since the list was begun
	Selected int64

	// PastExpiry counts the links whose expiry is past by more than the grace,
	// whether that was asked for or not, and that are not known to be settled:
	// neither cancelled nor paid.
	PastExpiry int64
	// Suspicious: nothing was selected, though many links that are not known to be
	// settled meet all but the status. Perhaps the API spells it in another way.
	Suspicious bool
	// ClockOff is how far the API's clock is ahead of this machine's, if they
	// differ by more than 5 minutes; else 0.
	ClockOff time.Duration

	Requests, Passes int    // of reading the list
	Links            []Link // the first Config.Keep of the selected
}

// StatusCount is how many links have a status, as the API spells it; "" is none.
type StatusCount struct {
	Status string `json:"status"`
	Links  int64  `json:"links"`
}

// Dropped counts the links that each condition of the selection left out, each
// link at the first one that it did not meet.
type Dropped struct {
	Status            int64 `json:"status"`             // it is another
	NoExpiry          int64 `json:"no_expiry"`          // there is none
	UnreadableExpiry  int64 `json:"unreadable_expiry"`  // there is one that cannot be read
	NotExpired        int64 `json:"not_expired"`        // or not for long enough
	NoCreated         int64 `json:"no_created"`         // there is none
	UnreadableCreated int64 `json:"unreadable_created"` // there is one that cannot be read
	NotOld            int64 `json:"not_old"`            // created too lately
}

// Sum is the number of links left out.
func (d Dropped) Sum() int64 {
	return d.Status + d.NoExpiry + d.UnreadableExpiry + d.NotExpired + d.NoCreated + d.UnreadableCreated + d.NotOld
}

// Dates says how many links have a date that the selection looks at, and
// whether it can be used. All but Other is about links of the wanted status.
type Dates struct {
	Links           int64     // of the wanted status
	Expiry, Created DateCount // zero where the selection does not look at it
	// Other counts the links of another status that are not known to be settled.
	// Of these Known is not counted.
	Other         DateCount
	NoZone        int64  // links with a date that names no zone
	NoZoneExample string // one of these dates, as plexy.DateNote.Text
	InGrace       int64  // links that have expired, but not for longer than the grace
}

// DateCount counts links by one of their dates.
type DateCount struct {
	Known      int64
	Unreadable int64
	Example    string // one that cannot be read, as plexy.DateNote.Text
}

// Link is a selected link.
type Link struct {
	ID, Status           string
	CreatedAt, ExpiresAt time.Time // zero: unknown
	Amount               int64     // minor units of Currency; 0: unknown
	Currency             string
}

// Result is what came of a sweep.
type Result struct {
	Plan
	// Batch is the sealed batch; its ID is "" if there is none: nothing was
	// selected, or it was a dry run.
	Batch ledger.Batch
	// Stood: the batch of the given id was there already, sealed, and nothing
	// was listed.
	Stood bool
}

// TooManyError says that a sweep found more links than Selection.Max, and did
// nothing.
type TooManyError struct{ Found, Max int64 }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("the sweep found %d links, and %d are allowed: nothing was done", e.Found, e.Max)
}

// UnreadableDatesError says that a sweep could not read most of the dates that
// it selects by, and did nothing: what it selects would be a matter of chance.
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

// Sweep reads the API's whole list, selects links from it, leaves out those
// that wait in an unfinished batch already or have been settled by one
// meanwhile, and seals the rest as a batch. If
// nothing is selected it makes no batch, which is no error.
//
// With a *TooManyError, an *UnreadableDatesError, and an error of Confirm comes
// the plan. Trying again soon does not mend ErrKeyRefused, ErrNoList,
// ErrPageIgnored, a *TooManyError or an *UnreadableDatesError.
func Run(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return Result{}, fmt.Errorf("sweep: %w", err)
	}
	if cfg.BatchID != "" {
		b, err := standing(ctx, l, cfg.BatchID)
		if err != nil || b.ID != "" {
			return Result{Batch: b, Stood: err == nil}, err
		}
	}
	now, err := l.Now(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("ask Redis for the time: %w", err)
	}
	c := newSelector(cfg.Selection, cfg.Keep)
	c.began = now.Truncate(time.Second) // outcomes are recorded to the second
	w := &listReader{
		pageReader: pageReader{api: cfg.API, limiter: cfg.Limiter, log: cfg.Log, attempts: cfg.Attempts, observe: cfg.Observe},
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
	// The answer may have taken its time, and another sweep may have made its
	// batch meanwhile: from here on no other can.
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

// warn tells what is odd about a plan.
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

// refuse is the error of a sweep that must not go on.
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

// present counts the links that have the date, whether it can be read or not.
func (c DateCount) present() int64 { return c.Known + c.Unreadable }

// standing returns the sealed sweep of an id; a zero Batch if there is none.
func standing(ctx context.Context, l *ledger.Ledger, id string) (ledger.Batch, error) {
	b, err := l.Get(ctx, id)
	switch {
	case errors.Is(err, ledger.ErrNoBatch), err == nil && b.State == ledger.Importing:
		return ledger.Batch{}, nil
	case err == nil && b.Source != producer.SourceSweep:
		return ledger.Batch{}, fmt.Errorf("batch %s: %w: it is from another source (%s)", id, producer.ErrOtherLinks, b.Source)
	}
	return b, err
}

// judgingTime is when links are judged, and how far the API's clock is ahead if
// that matters. With clocks that differ, a link counts as expired when both
// say so. date is zero if the API tells no time.
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

// sealTries is how many other sweeps may take the id of a day away from this
// one at the same moment.
const sealTries = 10

// seal makes the batch.
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
		b, err := producer.MakeBatch(ctx, l, c.source(unusable), producer.BatchConfig{
			ID: id, Source: producer.SourceSweep, Name: cfg.Name, Canary: cfg.Canary,
		})
		taken := errors.Is(err, producer.ErrOtherLinks) || errors.Is(err, ledger.ErrBusy)
		if cfg.BatchID == "" && taken && try < sealTries {
			continue
		}
		return b, err
	}
}

// FreeID returns the first id of sweep-YYYY-MM-DD, sweep-YYYY-MM-DD-2, …
// that no batch has, sealed or not. The day is that of date, in its location.
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
