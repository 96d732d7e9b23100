package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"linkcancel/internal/ledger"
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
	// linger is how long the first of a group waits for others.
	linger = 3 * time.Millisecond
	// groupMost is how many links are written at once at most.
	groupMost = 2000
	// pauses between attempts to write while Redis is away.
	commitPause, commitPauseMost = 50 * time.Millisecond, time.Second
)

// errNotWritten: the process had to end before Redis took the outcomes.
var errNotWritten = errors.New("the outcome could not be written before the end")

// recorder writes outcomes and notes to the ledger in groups: what is finished
// within a few milliseconds goes out in one call. It repeats a call until Redis
// takes it.
type recorder struct {
	ledger  *ledger.Ledger
	journal Journal
	states  *states
	observe Observer
	log     *slog.Logger

	in   chan recordCall
	done chan struct{} // closed when run has returned
	gone string        // the batch last found deleted
}

type recordCall struct {
	ledger.Entry
	ambiguous int  // attempts behind it that may have been applied
	settled   bool // it took a GET to find out the outcome
	// finish is called when it is in the ledger, or with the error that kept it
	// out.
	finish func(error)
}

func newRecorder(l *ledger.Ledger, j Journal, s *states, o Observer, log *slog.Logger) *recorder {
	return &recorder{
		ledger: l, journal: j, states: s, observe: o, log: log,
		in: make(chan recordCall, groupMost), done: make(chan struct{}),
	}
}

// write hands a record over and returns at once.
func (r *recorder) write(c recordCall) {
	select {
	case r.in <- c:
	case <-r.done:
		c.finish(errNotWritten)
	}
}

// run commits groups until ctx ends, and then those that wait already.
func (r *recorder) run(ctx context.Context) {
	defer func() {
		close(r.done)
		for { // whoever wrote into the channel at the last moment
			select {
			case c := <-r.in:
				c.finish(errNotWritten)
			default:
				return
			}
		}
	}()
	var group []recordCall
	for {
		group = group[:0]
		select {
		case c := <-r.in:
			group = append(group, c)
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(linger)
	gather:
		for len(group) < groupMost {
			select {
			case c := <-r.in:
				group = append(group, c)
			case <-timer.C:
				break gather
			}
		}
		timer.Stop()
		r.commit(ctx, group)
	}
}

// commit writes a group, and repeats what Redis did not take.
func (r *recorder) commit(ctx context.Context, calls []recordCall) {
	// Those of a chunk are one group, in the order that Commit answers in; the
	// journal has the same order, which tells what stands one after another.
	slices.SortStableFunc(calls, func(a, b recordCall) int {
		return cmp.Or(cmp.Compare(a.Batch, b.Batch), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(a.Position, b.Position))
	})
	if r.journal != nil {
		now := time.Now()
		for i := range calls {
			calls[i].At = now
		}
		if err := r.journal.Commit(entriesOf(calls)); err != nil {
			for _, c := range calls {
				c.finish(err)
			}
			return
		}
	}
	for pause := commitPause; ; pause = min(2*pause, commitPauseMost) {
		var err error
		if calls, err = r.try(ctx, calls); len(calls) == 0 {
			return
		}
		if pause == commitPause {
			r.log.Warn("cannot write outcomes, trying until it works", "links", len(calls), "error", err)
		}
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

func entriesOf(calls []recordCall) []ledger.Entry {
	entries := make([]ledger.Entry, len(calls))
	for i := range calls {
		entries[i] = calls[i].Entry
	}
	return entries
}

// try writes calls once and returns those that Redis did not take, and why.
func (r *recorder) try(ctx context.Context, calls []recordCall) (left []recordCall, why error) {
	entries := entriesOf(calls)
	var groups []ledger.Group
	var members [][]recordCall
	for first, i := 0, 0; i < len(calls); i++ {
		c := &calls[i]
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
			if r.gone != groups[i].Batch {
				r.gone = groups[i].Batch
				r.log.Warn("outcomes of a deleted batch are dropped", "batch", r.gone)
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
					r.tell(c, s.Outcome, origin)
				}
				c.finish(nil)
			}
		}
	}
	return left, why
}

// tell tells of a record that this process wrote.
func (r *recorder) tell(c recordCall, o ledger.Outcome, origin ledger.Head) {
	if c.ambiguous > 0 {
		r.observe.Ambiguous(c.ambiguous)
	}
	if o == ledger.None {
		return
	}
	var after time.Duration
	if !origin.Created.IsZero() {
		after = max(0, time.Since(origin.Created)) // Redis' clock may be ahead
	}
	r.observe.Outcome(origin.Source, o, int(c.Record.Attempts), after)
	if c.settled {
		r.observe.Settled(o)
	}
	// Asked first: the fields of a line cost more than all else here.
	if !r.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	r.log.Debug("outcome", "batch", c.Batch, "link", c.Link, "outcome", o.String(), "status", c.Record.HTTPStatus)
}
