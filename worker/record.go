package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/tick"
)

// Journal gets everything before it is written to the ledger. An error of its methods
// stops the worker, because what is not in the journal must not happen.
type Journal interface {
	// Started notes that requests for n links of a chunk are about to be sent.
	Started(chunk, first, n int) error
	// Commit notes outcomes and attempts.
	Commit([]ledger.Entry) error
}

const (
	// linger is how long an outcome waits for others at most while the worker sends more links. A crash
	// leaves so much unrecorded: those links are sent again.
	linger = time.Second
	// lingerShown is the same for a caller that shows the progress.
	lingerShown = 100 * time.Millisecond
	// lingerBad is the same for an outcome that may stop the batch, and for an attempt to note.
	lingerBad = 20 * time.Millisecond
	// lingerLast is the same when nothing else is in hand.
	lingerLast = 3 * time.Millisecond
	// fullGroup is a group that waits for no more.
	fullGroup = 400
	// The delay between attempts to write grows from commitPause to commitPauseMost.
	commitPause, commitPauseMost = 50 * time.Millisecond, time.Second
)

// errNotWritten means that the process had to end before Redis accepted outcomes.
var errNotWritten = errors.New("the outcome could not be written before the end")

// recorder writes outcomes and attempts in groups, and repeats a call until Redis accepts it. Each write
// costs both sides much more than a link in it, so that at low rates groups are worth some waiting.
type recorder struct {
	ledger  *ledger.Ledger
	journal Journal
	states  *states
	observe Observer
	log     *slog.Logger

	linger  time.Duration
	working func() bool // says whether the worker has links in hand that were not answered

	mu    sync.Mutex
	group []recordCall
	spare []recordCall  // the array of the group before, to use again
	due   time.Time     // when the group is written; zero: it is empty
	timer *time.Timer   // rings then
	full  chan struct{} // receives when it is to be written at once
	ended bool          // run has returned

	lost string // the last batch that was found deleted

	failures failures
	trouble  broker.Trouble
}

type recordCall struct {
	ledger.Entry
	ambiguous int  // attempts that may have been applied
	settled   bool // it took a GET to find out the outcome
	verify    bool // the link is only read
	// finish is called with nil when the entry is in the ledger, or with an error.
	finish func(error)
}

func newRecorder(l *ledger.Ledger, j Journal, s *states, o Observer, log *slog.Logger, working func() bool) *recorder {
	return &recorder{
		ledger: l, journal: j, states: s, observe: o, log: log, linger: linger, working: working,
		timer: time.NewTimer(linger), full: make(chan struct{}, 1),
		failures: failures{log: log, level: slog.LevelWarn}, trouble: broker.Trouble{Log: log},
	}
}

// write queues a call and returns.
func (r *recorder) write(c recordCall) {
	wait := min(r.linger, tick.Next())
	switch {
	case !r.working():
		wait = lingerLast
	case !harmless(c.Record.Outcome):
		wait = lingerBad
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		c.finish(errNotWritten)
		return
	}
	r.group = append(r.group, c)
	at := time.Now().Add(wait)
	switch {
	case len(r.group) == fullGroup:
		r.due = time.Now()
		select {
		case r.full <- struct{}{}:
		default:
		}
	case r.due.IsZero() || at.Before(r.due):
		r.due = at
		r.timer.Reset(wait)
	}
}

// harmless says whether an outcome can stop no batch.
func harmless(o ledger.Outcome) bool {
	return o == ledger.Cancelled || o == ledger.AlreadyCancelled || o == ledger.NotPayable
}

// run commits groups until ctx ends.
func (r *recorder) run(ctx context.Context) {
	defer r.failures.flush()
	defer r.timer.Stop()
	for {
		select {
		case <-r.full:
		case <-r.timer.C:
		case <-ctx.Done():
			r.mu.Lock()
			r.ended = true
			r.mu.Unlock()
			for _, c := range r.take() { // calls that arrived at the last moment
				c.finish(errNotWritten)
			}
			return
		}
		if group := r.take(); len(group) > 0 {
			r.commit(ctx, sorted(group))
			r.reuse(group)
		}
	}
}

// take takes the group.
func (r *recorder) take() []recordCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	group := r.group
	r.group, r.spare, r.due = r.spare, nil, time.Time{}
	return group
}

// reuse makes the array of a group that is written the next one's.
func (r *recorder) reuse(group []recordCall) {
	clear(group) // what it refers to
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare = group[:0]
}

// sorted returns the calls of a group by batch, chunk and position: those of a chunk become one group, in
// the order of Commit's results. The journal has the same order, which the canary of a resumed run depends on.
func sorted(group []recordCall) []*recordCall {
	calls := make([]*recordCall, len(group))
	for i := range group {
		calls[i] = &group[i]
	}
	slices.SortStableFunc(calls, func(a, b *recordCall) int {
		return cmp.Or(cmp.Compare(a.Batch, b.Batch), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(a.Position, b.Position))
	})
	return calls
}

// commit writes the calls of a group, and repeats what Redis did not accept.
func (r *recorder) commit(ctx context.Context, calls []*recordCall) {
	if r.journal != nil {
		now := time.Now()
		for _, c := range calls {
			c.At = now
		}
		// The journal is for what may cancel links.
		cancels := slices.DeleteFunc(slices.Clone(calls), func(c *recordCall) bool { return c.verify })
		if err := r.journal.Commit(entriesOf(cancels)); err != nil {
			for _, c := range calls {
				c.finish(err)
			}
			return
		}
	}
	for pause := commitPause; ; pause = min(2*pause, commitPauseMost) {
		var err error
		if calls, err = r.try(ctx, calls); len(calls) == 0 {
			r.trouble.End("outcomes are written again")
			return
		}
		r.trouble.Begin("cannot write outcomes, trying until it works", err, "links", len(calls))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			for _, c := range calls {
				c.finish(errNotWritten)
			}
			return
		}
	}
}

func entriesOf(calls []*recordCall) []ledger.Entry {
	entries := make([]ledger.Entry, len(calls))
	for i := range calls {
		entries[i] = calls[i].Entry
	}
	return entries
}

// try writes calls once. It returns those that Redis did not accept, and why.
func (r *recorder) try(ctx context.Context, calls []*recordCall) (left []*recordCall, why error) {
	entries := entriesOf(calls)
	var groups []ledger.Group
	var members [][]*recordCall
	for first, i := 0, 0; i < len(calls); i++ {
		c := calls[i]
		if i+1 == len(calls) || calls[i+1].Batch != c.Batch || calls[i+1].Chunk != c.Chunk {
			groups = append(groups, ledger.Group{Batch: c.Batch, Chunk: c.Chunk, Entries: entries[first : i+1]})
			members = append(members, calls[first:i+1])
			first = i + 1
		}
	}
	began := time.Now()
	for i, result := range r.ledger.Commit(ctx, groups) {
		switch {
		case errors.Is(result.Err, ledger.ErrNoBatch):
			if r.lost != groups[i].Batch {
				r.lost = groups[i].Batch
				r.log.Warn("outcomes of a deleted batch are dropped", "batch", r.lost)
			}
			for _, c := range members[i] {
				c.finish(ledger.ErrNoBatch)
			}
		case errors.Is(result.Err, ledger.ErrNewer):
			r.log.Error("outcomes of a batch are not written: a newer release has changed it", "batch", groups[i].Batch)
			for _, c := range members[i] {
				c.finish(errNotWritten)
			}
		case result.Err != nil:
			left, why = append(left, members[i]...), result.Err
		default:
			r.states.set(groups[i].Batch, result.State, began)
			origin := r.states.origin(ctx, groups[i].Batch)
			for k, c := range members[i] {
				if s := result.Results[k]; s.Wrote {
					r.publish(c, s.Outcome, origin)
				}
				c.finish(nil)
			}
		}
	}
	return left, why
}

// publish reports an entry that this process wrote to metrics and log.
func (r *recorder) publish(c *recordCall, o ledger.Outcome, origin ledger.Head) {
	if c.ambiguous > 0 {
		r.observe.Ambiguous(c.ambiguous)
	}
	r.failures.add(c.Entry)
	if o == ledger.None || c.verify { // the fleet's metrics have the results of verifications
		return
	}
	var after time.Duration
	if !origin.Created.IsZero() {
		after = max(0, time.Since(origin.Created)) // Redis' clock may be ahead of ours
	}
	r.observe.Outcome(origin.Source, o, int(c.Record.Attempts), after)
	if c.settled {
		r.observe.Settled(o)
	}
	// The check comes first because the fields of a line are expensive.
	if !r.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	r.log.Debug("outcome", "batch", c.Batch, "link", c.Link, "outcome", o.String(), "status", c.Record.HTTPStatus)
}
