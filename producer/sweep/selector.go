package sweep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
	"linkcancel/producer"
)

// verdict is what a sweep makes of a link.
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
	verdicts
)

// selector selects links as they are listed. A link that is listed again counts
// as it was shown last.
//
// It keeps about 30 bytes a link, and the ids of those that were selected.
type selector struct {
	sel   Selection
	began time.Time // when the list was begun, by Redis' clock, rounded down
	now   time.Time // when links are judged
	keep  int       // as in Config

	clockOff time.Duration

	index    *linkcsv.Index
	links    []listed // by their place in index
	statuses map[string]uint16
	names    []string // of statuses
	settled  []bool   // by status: cancelled or paid
	wanted   []bool   // by status: the selected one

	byStatus  []int64
	byVerdict [verdicts]int64
	byFlag    [flags]int64
	only      []int64 // by status: unsettled links that nothing else left out

	examples [flags]string // of values that were flagged; the first of each kind

	ids    idList
	places []uint32 // of ids, in links
	shown  []Link
}

// listed is what is known of one listed link.
type listed struct {
	status  uint16
	flags   uint16 // a bit for each
	verdict verdict
	pass    uint8 // the latest that showed it
}

// Flags of a listed link. Those of dates are about the dates that the selection
// looks at. They are set for links of the wanted status, unless they say
// otherwise.
const (
	flagPast       = iota // as in Plan.PastExpiry, whatever the status
	flagOnly              // it counts in choice.only
	flagStored            // its id is kept
	flagGrace             // it has expired, but not for longer than the grace
	flagExpiry            // its expiry is known
	flagBadExpiry         // its expiry cannot be read
	flagCreated           // its creation is known
	flagBadCreated        // its creation cannot be read
	flagBadOther          // a date cannot be read, of a link of another status that is not settled
	flagNoZone            // a date names no zone
	flags
)

func (l *listed) set(flag int)      { l.flags |= 1 << flag }
func (l *listed) has(flag int) bool { return l.flags&(1<<flag) != 0 }

// statusMost bounds the statuses that are told apart; the rest is otherStatus.
const (
	statusMost  = 1000
	otherStatus = "(other)"
)

func newSelector(sel Selection, keep int) *selector {
	return &selector{sel: sel, keep: keep, index: linkcsv.NewIndex(0), statuses: map[string]uint16{}}
}

// see takes in a link that the list shows. isNew: no pass showed it before;
// inPass: this one did not.
func (c *selector) see(link plexy.Link, pass int) (isNew, inPass bool) {
	place, isNew := c.index.Add(link.ID)
	if isNew {
		c.links = append(c.links, listed{})
	} else {
		c.count(c.links[place], -1)
	}
	l := &c.links[place]
	inPass = l.pass != uint8(pass)
	l.pass = uint8(pass)
	l.status = c.status(link.Status)
	l.flags &= 1 << flagStored
	c.judge(l, link)
	c.count(*l, 1)
	if l.verdict == verdictSelected && !l.has(flagStored) {
		l.set(flagStored)
		c.ids.add(link.ID)
		c.places = append(c.places, uint32(place))
		if c.keep != 0 {
			c.shown = append(c.shown, Link{
				ID: link.ID, Status: link.Status, CreatedAt: link.CreatedAt, ExpiresAt: link.ExpiresAt,
				Amount: link.Amount, Currency: link.Currency,
			})
		}
	}
	return isNew, inPass
}

// judge decides about a link: the first condition that it does not meet drops
// it.
func (c *selector) judge(l *listed, link plexy.Link) {
	created, expires := knownTime(link.CreatedAt), knownTime(link.ExpiresAt)
	past := !expires.IsZero() && expires.Add(c.sel.Grace).Before(c.now)
	settled := c.settled[l.status]
	if past && !settled {
		l.set(flagPast)
	}
	switch {
	case c.sel.Expired && link.ExpiresNote.Unreadable:
		l.verdict = verdictBadExpiry
	case c.sel.Expired && expires.IsZero():
		l.verdict = verdictNoExpiry
	case c.sel.Expired && !past:
		l.verdict = verdictNotExpired
	case c.sel.OlderThan > 0 && link.CreatedNote.Unreadable:
		l.verdict = verdictBadCreated
	case c.sel.OlderThan > 0 && created.IsZero():
		l.verdict = verdictNoCreated
	case c.sel.OlderThan > 0 && !created.Add(c.sel.OlderThan).Before(c.now):
		l.verdict = verdictNotOld
	default:
		l.verdict = verdictSelected
	}
	if c.wanted[l.status] {
		if c.sel.Expired {
			c.flagDate(l, expires, link.ExpiresNote, flagExpiry, flagBadExpiry)
			if !past && !expires.IsZero() && expires.Before(c.now) {
				l.set(flagGrace)
			}
		}
		if c.sel.OlderThan > 0 {
			c.flagDate(l, created, link.CreatedNote, flagCreated, flagBadCreated)
		}
		return
	}
	switch {
	case settled:
	case l.verdict == verdictSelected:
		l.set(flagOnly)
	case l.verdict == verdictBadExpiry:
		c.example(l, flagBadOther, link.ExpiresNote)
	case l.verdict == verdictBadCreated:
		c.example(l, flagBadOther, link.CreatedNote)
	}
	l.verdict = verdictStatus
}

// flagDate flags how a date of a link can be used.
func (c *selector) flagDate(l *listed, t time.Time, note plexy.DateNote, known, bad int) {
	switch {
	case note.Unreadable:
		c.example(l, bad, note)
		return
	case t.IsZero():
		return
	case note.NoZone:
		c.example(l, flagNoZone, note)
	}
	l.set(known)
}

// example flags a link for one of its dates.
func (c *selector) example(l *listed, flag int, note plexy.DateNote) {
	l.set(flag)
	c.examples[flag] = cmp.Or(c.examples[flag], note.Text)
}

// knownTime takes what stands for "no time" in many an API, the year 1 or 1970,
// as none.
func knownTime(t time.Time) time.Time {
	if t.Year() < 2000 {
		return time.Time{}
	}
	return t
}

func (c *selector) count(l listed, n int64) {
	c.byStatus[l.status] += n
	c.byVerdict[l.verdict] += n
	for rest := l.flags; rest != 0; rest &= rest - 1 {
		c.byFlag[bits.TrailingZeros16(rest)] += n
	}
	if l.has(flagOnly) {
		c.only[l.status] += n
	}
}

// status is the number of a status.
func (c *selector) status(name string) uint16 {
	n, ok := c.statuses[name]
	if ok {
		return n
	}
	if len(c.names) >= statusMost {
		// The wanted one is told apart, however late it comes.
		if name != otherStatus && !sameStatus(name, c.sel.Status) {
			return c.status(otherStatus)
		}
	}
	n = uint16(len(c.names))
	name = strings.Clone(name)
	c.statuses[name] = n
	c.names = append(c.names, name)
	c.byStatus = append(c.byStatus, 0)
	c.only = append(c.only, 0)
	c.settled = append(c.settled, settledStatus(name))
	c.wanted = append(c.wanted, sameStatus(name, c.sel.Status))
	return n
}

// sameStatus compares without regard to case; canceled and cancelled are one.
func sameStatus(a, b string) bool {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	return strings.EqualFold(a, b) || plexy.Cancelled(a) && plexy.Cancelled(b)
}

// settledStatus tells whether nobody can pay a link any more: it is cancelled,
// or paid. The names of paid ones are those that public callers of the API use.
func settledStatus(name string) bool {
	for _, paid := range [...]string{"paid", "charged", "authorized", "success", "completed"} {
		if strings.EqualFold(name, paid) {
			return true
		}
	}
	return plexy.Cancelled(name)
}

// leaveOut leaves out the selected links that wait in an unfinished batch, and
// those that a batch has settled since the list was begun: the ledger knows
// better of them. It reads the batches a chunk at a time.
func (c *selector) leaveOut(ctx context.Context, l *ledger.Ledger, log *slog.Logger) error {
	if c.byVerdict[verdictSelected] == 0 {
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
		case b.State == ledger.Importing, !b.Open() && b.Finished.Before(c.began):
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
		place, ok := c.index.Find(link)
		if verdict == verdictSelected || !ok || c.links[place].verdict != verdictSelected {
			continue
		}
		c.count(c.links[place], -1)
		c.links[place].verdict = verdict
		c.count(c.links[place], 1)
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

// plan is what was found.
func (c *selector) plan(w *listReader) Plan {
	p := Plan{
		Listed: int64(len(c.links)), Unusable: w.unusable,
		Dropped: Dropped{
			Status: c.byVerdict[verdictStatus], NoExpiry: c.byVerdict[verdictNoExpiry], UnreadableExpiry: c.byVerdict[verdictBadExpiry],
			NotExpired: c.byVerdict[verdictNotExpired], NoCreated: c.byVerdict[verdictNoCreated], UnreadableCreated: c.byVerdict[verdictBadCreated],
			NotOld: c.byVerdict[verdictNotOld],
		},
		Dates:   c.dates(),
		Waiting: c.byVerdict[verdictWaiting], Settled: c.byVerdict[verdictSettled], Selected: c.byVerdict[verdictSelected],
		PastExpiry: c.byFlag[flagPast], ClockOff: c.clockOff,
		Requests: w.requests, Passes: w.pass,
	}
	p.Suspicious = p.Selected+p.Waiting+p.Settled == 0 && p.Dates.InGrace == 0 && c.misspelt() >= manyLeft
	for i, n := range c.byStatus {
		if n > 0 {
			p.ByStatus = append(p.ByStatus, StatusCount{Status: c.names[i], Links: n})
		}
	}
	slices.SortFunc(p.ByStatus, func(a, b StatusCount) int {
		return cmp.Or(cmp.Compare(b.Links, a.Links), cmp.Compare(a.Status, b.Status))
	})
	for i, link := range c.shown {
		if c.keep > 0 && len(p.Links) == c.keep {
			break
		}
		if c.links[c.places[i]].verdict == verdictSelected {
			p.Links = append(p.Links, link)
		}
	}
	return p
}

// dates is how the dates that the selection looks at can be used.
func (c *selector) dates() Dates {
	count := func(known, bad int) DateCount {
		return DateCount{Known: c.byFlag[known], Unreadable: c.byFlag[bad], Example: c.examples[bad]}
	}
	d := Dates{
		Expiry: count(flagExpiry, flagBadExpiry), Created: count(flagCreated, flagBadCreated), Other: DateCount{Unreadable: c.byFlag[flagBadOther], Example: c.examples[flagBadOther]},
		NoZone: c.byFlag[flagNoZone], NoZoneExample: c.examples[flagNoZone], InGrace: c.byFlag[flagGrace],
	}
	for i, n := range c.byStatus {
		if c.wanted[i] {
			d.Links += n
		}
	}
	return d
}

// misspelt counts the links that may be meant although their status is another
// than the wanted one. Where some have that one, "expired" is not another name
// for it, but a state of its own, in which a link cannot be paid.
func (c *selector) misspelt() (links int64) {
	seen := false
	for i, n := range c.byStatus {
		seen = seen || c.wanted[i] && n > 0
	}
	for i, n := range c.only {
		if !seen || !strings.EqualFold(c.names[i], "expired") {
			links += n
		}
	}
	return links
}

// chosenLinks are the selected links as a Source, in the order of the list.
type chosenLinks struct {
	c       *selector
	invalid int64
	next    int // in choice.places
	at      idPlace
}

// Next returns the next selected link, io.EOF at the end.
func (s *chosenLinks) Next() (string, error) {
	for s.next < len(s.c.places) {
		id := s.c.ids.next(&s.at)
		place := s.c.places[s.next]
		s.next++
		if s.c.links[place].verdict == verdictSelected {
			return string(id), nil
		}
	}
	return "", io.EOF
}

// producer.Stats counts all of them, whatever was read so far.
func (s *chosenLinks) Stats() producer.Stats {
	n := s.c.byVerdict[verdictSelected]
	return producer.Stats{Rows: n + s.invalid, Links: n, Invalid: s.invalid}
}

// idList keeps ids in the order in which they were added, each behind its line
// end in blocks: a string of its own for each would take twice the memory.
type idList struct{ blocks [][]byte }

// idBlock is the size of a block; an id has at most 128 bytes.
const idBlock = 64 << 10

func (l *idList) add(id string) {
	n := len(l.blocks)
	if n == 0 || len(l.blocks[n-1])+len(id)+1 > idBlock {
		l.blocks = append(l.blocks, make([]byte, 0, idBlock))
		n++
	}
	l.blocks[n-1] = append(append(l.blocks[n-1], id...), '\n')
}

// idPlace is where the next id stands.
type idPlace struct{ block, offset int }

// next returns the id at a place, which must be there, and moves on.
func (l *idList) next(at *idPlace) []byte {
	if at.offset == len(l.blocks[at.block]) {
		at.block, at.offset = at.block+1, 0
	}
	rest := l.blocks[at.block][at.offset:]
	n := bytes.IndexByte(rest, '\n')
	at.offset += n + 1
	return rest[:n]
}
