package sweep

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
)

// verdict is what a sweep decides about a link.
type verdict uint8

const (
	verdictSelected verdict = iota
	verdictWaiting
	verdictSettled
	verdictStatus
	verdictNoExpiry
	verdictBadExpiry
	verdictNotExpired
	verdictNoCreated
	verdictBadCreated
	verdictNotOld
	verdictExcluded
	verdicts
)

// selector judges links by the latest that the list shows. It takes about 110 bytes a link.
type selector struct {
	sel   Selection
	began time.Time // when the reading began, by Redis' clock, rounded down
	now   time.Time // the time by which links are judged
	keep  int       // Config.Keep

	clockOff time.Duration        // Plan.ClockOff
	exclude  func(id string) bool // may be nil

	index    *linkcsv.Index
	links    []listedLink // in the order in which they were first listed
	statuses map[string]*status

	// The first example of each kind of date.
	badExpiry, badCreated, badOther, noZone string
}

// listedLink is the latest that the list showed of a link.
type listedLink struct {
	id      string
	shown   *Link // for the plan; nil unless it is selected and the plan shows links
	status  *status
	verdict verdict // with verdictStatus, byDates has the rest
	byDates verdict // what the dates alone decide
	pass    uint8   // the latest pass that showed it
	past    bool    // expired for longer than the grace, and not known to be settled
	// Only of links with the wanted status, about the dates that the selection uses:
	inGrace         bool // expired, but not for longer than the grace
	expiry, created dateState
	noZone          bool // a date has no time zone
}

// dateState says whether a date can be used.
type dateState uint8

const (
	dateMissing dateState = iota // or it is not used
	dateKnown
	dateUnreadable
)

// status is a status, as the API spells it.
type status struct {
	name    string
	settled bool // cancelled or paid
	wanted  bool // the selected one
}

// statusMost bounds the statuses that are counted separately. The others count as otherStatus.
const (
	statusMost  = 1000
	otherStatus = "(other)"
)

func newSelector(sel Selection, keep int) *selector {
	return &selector{sel: sel, keep: keep, index: linkcsv.NewIndex(0), statuses: map[string]*status{}}
}

// see adds a link that the list shows. isNew: no pass showed it before. inPass: this pass did not.
func (c *selector) see(link plexy.Link, pass int) (isNew, inPass bool) {
	n, isNew := c.index.Add(link.ID)
	if isNew {
		c.links = append(c.links, listedLink{id: link.ID})
	}
	l := &c.links[n]
	inPass = l.pass != uint8(pass)
	*l = listedLink{id: l.id, pass: uint8(pass), status: c.status(link.Status)}
	c.judge(l, link)
	if l.verdict == verdictSelected && c.exclude != nil && c.exclude(link.ID) {
		l.verdict = verdictExcluded
	}
	if l.verdict == verdictSelected && c.keep != 0 {
		l.shown = &Link{
			ID: l.id, Status: link.Status, CreatedAt: link.CreatedAt, ExpiresAt: link.ExpiresAt,
			Amount: link.Amount, Currency: link.Currency,
		}
	}
	return isNew, inPass
}

// judge decides about a link. The first condition that it does not meet drops it.
func (c *selector) judge(l *listedLink, link plexy.Link) {
	created, expires := knownTime(link.CreatedAt), knownTime(link.ExpiresAt)
	past := !expires.IsZero() && expires.Add(c.sel.Grace).Before(c.now)
	l.past = past && !l.status.settled
	switch {
	case c.sel.Expired && link.ExpiresNote.Unreadable:
		l.byDates = verdictBadExpiry
	case c.sel.Expired && expires.IsZero():
		l.byDates = verdictNoExpiry
	case c.sel.Expired && !past:
		l.byDates = verdictNotExpired
	case c.sel.OlderThan > 0 && link.CreatedNote.Unreadable:
		l.byDates = verdictBadCreated
	case c.sel.OlderThan > 0 && created.IsZero():
		l.byDates = verdictNoCreated
	case c.sel.OlderThan > 0 && !created.Add(c.sel.OlderThan).Before(c.now):
		l.byDates = verdictNotOld
	default:
		l.byDates = verdictSelected
	}
	l.verdict = l.byDates
	if !l.status.wanted {
		l.verdict = verdictStatus
		switch {
		case l.status.settled:
		case l.byDates == verdictBadExpiry:
			c.badOther = cmp.Or(c.badOther, link.ExpiresNote.Text)
		case l.byDates == verdictBadCreated:
			c.badOther = cmp.Or(c.badOther, link.CreatedNote.Text)
		}
		return
	}
	if c.sel.Expired {
		l.expiry = c.dateState(l, expires, link.ExpiresNote, &c.badExpiry)
		l.inGrace = !past && l.expiry == dateKnown && expires.Before(c.now)
	}
	if c.sel.OlderThan > 0 {
		l.created = c.dateState(l, created, link.CreatedNote, &c.badCreated)
	}
}

func (c *selector) dateState(l *listedLink, t time.Time, note plexy.DateNote, example *string) dateState {
	switch {
	case note.Unreadable:
		*example = cmp.Or(*example, note.Text)
		return dateUnreadable
	case t.IsZero():
		return dateMissing
	case note.NoZone:
		l.noZone = true
		c.noZone = cmp.Or(c.noZone, note.Text)
	}
	return dateKnown
}

// knownTime drops the years 1 and 1970, with which many APIs say "no time".
func knownTime(t time.Time) time.Time {
	if t.Year() < 2000 {
		return time.Time{}
	}
	return t
}

// status returns the status of a name.
func (c *selector) status(name string) *status {
	if s := c.statuses[name]; s != nil {
		return s
	}
	// The wanted one is counted separately however late it comes.
	if len(c.statuses) >= statusMost && name != otherStatus && !sameStatus(name, c.sel.Status) {
		return c.status(otherStatus)
	}
	s := &status{name: strings.Clone(name), settled: settledStatus(name), wanted: sameStatus(name, c.sel.Status)}
	c.statuses[s.name] = s
	return s
}

// sameStatus compares without regard to case; canceled and cancelled are one.
func sameStatus(a, b string) bool {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	return strings.EqualFold(a, b) || plexy.Cancelled(a) && plexy.Cancelled(b)
}

// settledStatus reports whether a link is cancelled or paid.
func settledStatus(name string) bool {
	return plexy.Ended(name) && !strings.EqualFold(name, "expired")
}

// leaveOut leaves out the selected links that wait in an unfinished batch, and those that a batch
// has settled since the list was begun. It reads a chunk at a time.
func (c *selector) leaveOut(ctx context.Context, l *ledger.Ledger, log *slog.Logger) error {
	if !slices.ContainsFunc(c.links, func(l listedLink) bool { return l.verdict == verdictSelected }) {
		return nil
	}
	batches, err := l.List(ctx)
	if err != nil {
		return err
	}
	for _, b := range batches {
		switch {
		case b.State == ledger.Newer:
			log.Warn("links that wait in a batch of a newer release cannot be left out", "batch", b.ID)
			continue
		case b.State == ledger.Importing, b.Verifies(), !b.Open() && b.Finished.Before(c.began):
			continue
		}
		for n := range b.Chunks {
			err := c.leaveOutChunk(ctx, l, b, n)
			if errors.Is(err, ledger.ErrNoBatch) {
				break // deleted meanwhile
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *selector) leaveOutChunk(ctx context.Context, l *ledger.Ledger, b ledger.Batch, n int) error {
	records, err := l.Records(ctx, b.ID, n, 0, b.ChunkLen(n))
	if err != nil {
		return err
	}
	// Most chunks of a large batch are done for long, or all but a few are.
	if !slices.ContainsFunc(records, func(r ledger.Record) bool { return c.known(b, r) != verdictSelected }) {
		return nil
	}
	links, err := l.Links(ctx, b.ID, n)
	if err != nil {
		return err
	}
	for i, link := range links[:min(len(links), len(records))] {
		verdict := c.known(b, records[i])
		n, ok := c.index.Find(link)
		if verdict != verdictSelected && ok && c.links[n].verdict == verdictSelected {
			c.links[n].verdict = verdict
		}
	}
	return nil
}

// known is what a batch's record of a link means to a selected one.
func (c *selector) known(b ledger.Batch, r ledger.Record) verdict {
	switch r.Outcome {
	case ledger.None:
		if b.Open() {
			return verdictWaiting
		}
	case ledger.Cancelled, ledger.AlreadyCancelled, ledger.NotFound, ledger.NotCancellable:
		if !r.Time(b.Created).Before(c.began) {
			return verdictSettled
		}
	}
	return verdictSelected
}

// plan is what the sweep found.
func (c *selector) plan(w *listReader) Plan {
	p := Plan{
		Listed: int64(len(c.links)), Unusable: w.unusable, ClockOff: c.clockOff, Requests: w.requests, Passes: w.pass,
		Dates: Dates{
			Expiry: DateCount{Example: c.badExpiry}, Created: DateCount{Example: c.badCreated}, Other: DateCount{Example: c.badOther},
			NoZoneExample: c.noZone,
		},
	}
	var byVerdict [verdicts]int64
	byStatus, misspelt := map[*status]int64{}, map[*status]int64{}
	for i := range c.links {
		l := &c.links[i]
		byVerdict[l.verdict]++
		byStatus[l.status]++
		if l.past {
			p.PastExpiry++
		}
		if l.shown != nil && l.verdict == verdictSelected {
			p.Links = append(p.Links, *l.shown)
		}
		if l.verdict == verdictStatus && !l.status.settled && l.byDates == verdictSelected {
			misspelt[l.status]++
		}
		p.Dates.count(l)
	}
	slices.SortStableFunc(p.Links, func(a, b Link) int { return a.CreatedAt.Compare(b.CreatedAt) })
	if c.keep > 0 {
		p.Links = p.Links[:min(len(p.Links), c.keep)]
	}
	p.Dropped = Dropped{
		Status: byVerdict[verdictStatus], NoExpiry: byVerdict[verdictNoExpiry], UnreadableExpiry: byVerdict[verdictBadExpiry],
		NotExpired: byVerdict[verdictNotExpired], NoCreated: byVerdict[verdictNoCreated], UnreadableCreated: byVerdict[verdictBadCreated],
		NotOld: byVerdict[verdictNotOld], Excluded: byVerdict[verdictExcluded],
	}
	p.Waiting, p.Settled, p.Selected = byVerdict[verdictWaiting], byVerdict[verdictSettled], byVerdict[verdictSelected]
	for s, n := range byStatus {
		p.ByStatus = append(p.ByStatus, StatusCount{Status: s.name, Links: n})
	}
	slices.SortFunc(p.ByStatus, func(a, b StatusCount) int {
		return cmp.Or(cmp.Compare(b.Links, a.Links), cmp.Compare(a.Status, b.Status))
	})
	// Beside the wanted status, "expired" is a state of its own, not another name for it.
	var otherwise int64
	for s, n := range misspelt {
		if p.Dates.Links == 0 || !strings.EqualFold(s.name, "expired") {
			otherwise += n
		}
	}
	p.Suspicious = p.Selected+p.Waiting+p.Settled == 0 && p.Dates.InGrace == 0 && otherwise >= manyLeft
	return p
}

// count counts the dates of a link.
func (d *Dates) count(l *listedLink) {
	add := func(n *int64, ok bool) {
		if ok {
			*n++
		}
	}
	if !l.status.wanted {
		add(&d.Other.Unreadable, !l.status.settled && (l.byDates == verdictBadExpiry || l.byDates == verdictBadCreated))
		return
	}
	d.Links++
	add(&d.InGrace, l.inGrace)
	add(&d.NoZone, l.noZone)
	add(&d.Expiry.Known, l.expiry == dateKnown)
	add(&d.Expiry.Unreadable, l.expiry == dateUnreadable)
	add(&d.Created.Known, l.created == dateKnown)
	add(&d.Created.Unreadable, l.created == dateUnreadable)
}

// source returns the selected links in the order of the list.
func (c *selector) source(unusable int64) *importer.Links {
	var ids []string
	for i := range c.links {
		if c.links[i].verdict == verdictSelected {
			ids = append(ids, c.links[i].id)
		}
	}
	n := int64(len(ids))
	return &importer.Links{IDs: ids, Counts: importer.Stats{Rows: n + unusable, Links: n, Invalid: unusable}}
}
