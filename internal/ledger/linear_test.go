package ledger

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"linkcancel/internal/history"
)

// linearLinks is how many links the batch of TestOutcomesAreLinearizable has.
const linearLinks = 6

// linear is the state of a batch as a sequential program would have it.
type linear struct {
	outcomes [linearLinks]Outcome
	aborted  bool
}

func (b linear) view() (pending int64, state State) {
	for _, o := range b.outcomes {
		if o == None {
			pending++
		}
	}
	switch {
	case b.aborted:
		return pending, AbortedState
	case pending == 0:
		return 0, Done
	}
	return pending, Running
}

// A linearCall is one of these, and what it returned.
type (
	linearCommit struct {
		entries []Entry
		got     Committed
	}
	linearGet struct {
		counts Counts
		state  State
	}
	linearRead struct {
		outcomes [linearLinks]Outcome
	}
	linearAbort struct {
		changed bool
	}
)

// step reports whether a call may have returned what it did, and what it leaves.
func (b linear) step(call any) (bool, linear) {
	switch c := call.(type) {
	case linearCommit:
		for i, e := range c.entries {
			was, o := b.outcomes[e.Position], e.Record.Outcome
			want := stand(o, true)
			switch {
			case was != None && (was != Aborted || o == Aborted || o == None):
				want = stand(was, false)
			case o != None:
				b.outcomes[e.Position] = o
			}
			if c.got.Results[i] != want {
				return false, b
			}
		}
		pending, state := b.view()
		return c.got.Pending == pending && c.got.State == state, b
	case linearGet:
		var want Counts
		for _, o := range b.outcomes {
			if o != None {
				want[o]++
			}
		}
		_, state := b.view()
		return c.counts == want && c.state == state, b
	case linearRead:
		return c.outcomes == b.outcomes, b
	case linearAbort:
		_, state := b.view()
		changes := state == Running
		b.aborted = b.aborted || changes
		return c.changed == changes, b
	}
	panic("unknown call")
}

// Workers, readers and an operator use a batch at the same time. Some order of their calls, one after
// another, explains every answer.
func TestOutcomesAreLinearizable(t *testing.T) {
	hold(t, []rule{{"clients", func(l *bench) {
		source := seeded(l.T)
		b := l.running(linearLinks)
		began := time.Now()
		var mu sync.Mutex
		var calls []porcupine.Operation
		var aborted atomic.Bool
		// do makes a call and records it.
		do := func(client int, call func() (any, error)) {
			sent := time.Since(began)
			got, err := call()
			received := time.Since(began)
			if err != nil {
				l.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, porcupine.Operation{ClientId: client, Input: got, Call: int64(sent), Return: int64(received)})
		}
		var wg sync.WaitGroup
		for client := range 8 {
			rng := rand.New(rand.NewPCG(source.Uint64(), 0))
			wg.Go(func() {
				for step := range 20 {
					switch kind := rng.IntN(10); {
					case client == 0 && step == 10:
						do(client, func() (any, error) {
							_, changed, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
							aborted.Store(true)
							return linearAbort{changed}, err
						})
					case kind < 6:
						c := linearCommit{entries: linearEntries(rng, aborted.Load())}
						do(client, func() (any, error) {
							c.got = l.Commit(l.Context(), []Group{{Batch: "b", Entries: slices.Clone(c.entries)}})[0]
							return c, c.got.Err
						})
					case kind < 8:
						do(client, func() (any, error) {
							got, err := l.Get(l.Context(), "b")
							return linearGet{got.Counts, got.State}, err
						})
					default:
						do(client, func() (any, error) {
							s, err := l.Snapshot(l.Context(), b)
							if err != nil {
								return nil, err
							}
							var c linearRead
							for place := range c.outcomes {
								c.outcomes[place] = s.At(place).Record.Outcome
							}
							return c, nil
						})
					}
				}
			})
		}
		wg.Wait()
		model := porcupine.Model{
			Init: func() any { return linear{} },
			Step: func(state, call, _ any) (bool, any) { return state.(linear).step(call) },
		}
		if !porcupine.CheckOperations(model, calls) {
			l.Errorf("no order of the %d calls explains what they returned: %+v", len(calls), calls)
		}
	}}})
}

// linearEntries are notes and outcomes of some links, in the order of their positions.
func linearEntries(rng *rand.Rand, aborted bool) []Entry {
	var entries []Entry
	for _, place := range rng.Perm(linearLinks)[:1+rng.IntN(3)] {
		e := Entry{Position: place, Record: Record{Attempts: 1}}
		if rng.IntN(4) == 0 {
			e.Record.Outcome, e.Record.HTTPStatus = Outcomes[rng.IntN(6)], 200
		}
		if aborted && rng.IntN(3) == 0 {
			e.Record.Outcome = Aborted
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return a.Position - b.Position })
	return entries
}
