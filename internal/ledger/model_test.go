package ledger

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"linkcancel/internal/history"
)

// seeded makes a source of random numbers, and says which.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// modelTotal makes three chunks; only the first modelLinks links of each are
// touched at random, so that they are touched often.
const (
	modelLinks = 40
	modelTotal = 2*ChunkLinks + modelLinks
)

// randomGroups are some groups of outcomes and notes, with repeated links.
func randomGroups(rng *rand.Rand, abort bool) []Group {
	groups := make([]Group, 1+rng.IntN(3))
	for i := range groups {
		groups[i] = Group{Batch: "b", Chunk: rng.IntN(3)}
		for range 1 + rng.IntN(6) {
			e := Entry{Position: rng.IntN(modelLinks), Record: Record{
				Ambiguous: rng.IntN(4) == 0, Settling: rng.IntN(3) == 0, Attempts: uint8(rng.IntN(13)),
				HTTPStatus: rng.IntN(600), Plain: rng.IntN(3) == 0, Plains: uint8(rng.IntN(4)),
			}, Proven: rng.IntN(6) == 0}
			if rng.IntN(2) == 0 {
				e.Kind = fmt.Sprintf("404 %d", rng.IntN(70))
			}
			if rng.IntN(3) == 0 {
				e.Wait = time.Duration(rng.IntN(3)) * time.Minute
			}
			if rng.IntN(8) == 0 {
				e.Record.Outcome = Outcomes[rng.IntN(6)]
			}
			if abort && rng.IntN(4) == 0 {
				e.Record.Outcome = Aborted
			}
			if rng.IntN(2) == 0 {
				e.Error = fmt.Sprintf("text %d", rng.Uint32())
			}
			if rng.IntN(2) == 0 {
				e.LinkStatus = fmt.Sprintf("status %d", rng.IntN(70))
			}
			groups[i].Entries = append(groups[i].Entries, e)
		}
	}
	return groups
}

// model is what record.lua does, in Go. A Due of 1 is any that is not 0.
type model struct {
	records  [modelTotal]Record
	texts    map[string]string
	statuses map[string]int
	kinds    map[string]Kind
	indexes  map[string]int // of kinds
	seen     map[string]map[int]bool
	counts   Counts
	aborted  bool
}

func newModel() *model {
	return &model{
		texts: map[string]string{}, statuses: map[string]int{}, kinds: map[string]Kind{}, indexes: map[string]int{},
		seen: map[string]map[int]bool{},
	}
}

// index finds or makes the place of a text in a table of 62.
func index(table map[string]int, text string) int {
	if at, ok := table[text]; ok {
		return at
	}
	if len(table) == 62 {
		return 63
	}
	table[text] = len(table) + 1
	return table[text]
}

// kind is that of a link's last answers, by its index and name.
func (m *model) kind(r Record) (int, string) {
	if r.Outcome != None || r.Plains == 0 {
		return 0, ""
	}
	for name, at := range m.indexes {
		if at == r.LinkStatus {
			return at, name
		}
	}
	return 63, ""
}

// plains counts a note's answer.
func (m *model) plains(place int, e Entry) (plains uint8, kind int) {
	was := m.records[place]
	before, _ := m.kind(was)
	if e.Kind == "" {
		if e.Record.Plains == 0 || before == 0 {
			return 0, 0
		}
		return e.Record.Plains, before
	}
	now := index(m.indexes, e.Kind)
	if now < 63 && now != before {
		k := m.kinds[e.Kind]
		k.Text = e.Kind
		if m.seen[e.Kind] == nil {
			m.seen[e.Kind] = map[int]bool{}
		}
		if !m.seen[e.Kind][place] {
			m.seen[e.Kind][place] = k.Links < 20
			k.Links++
		}
		m.kinds[e.Kind] = k
	}
	if before != 0 && before != now {
		return 1, now
	}
	return max(1, e.Record.Plains), now
}

// note is a link's record after a note.
func (m *model) note(place int, e Entry) Record {
	was := m.records[place]
	r := Record{
		Ambiguous: e.Record.Ambiguous || was.Ambiguous, Settling: e.Record.Settling,
		Attempts: max(e.Record.Attempts, was.Attempts), HTTPStatus: e.Record.HTTPStatus,
	}
	r.Plains, r.LinkStatus = m.plains(place, e)
	if was.Settling && r.Settling {
		r.HTTPStatus = was.HTTPStatus
	}
	if e.Wait > 0 || r == (Record{}) && e.Error != "" {
		r.Due = 1
	}
	return r
}

// end is a link's record after an outcome.
func (m *model) end(place int, e Entry) Record {
	was := m.records[place]
	r := Record{
		Outcome: e.Record.Outcome, Ambiguous: e.Record.Ambiguous || was.Ambiguous, Plain: e.Record.Plain,
		Attempts: max(e.Record.Attempts, was.Attempts), HTTPStatus: e.Record.HTTPStatus,
	}
	if r.Outcome == Aborted {
		r.HTTPStatus = was.HTTPStatus
	}
	if e.LinkStatus != "" {
		r.LinkStatus = index(m.statuses, e.LinkStatus)
		r.HTTPStatus = e.Record.HTTPStatus
	}
	m.counts[r.Outcome]++
	if was.Outcome == Aborted {
		m.counts[Aborted]--
	}
	return r
}

func (m *model) commit(g Group) Committed {
	entries := slices.Clone(g.Entries)
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Position, b.Position) })
	c := Committed{State: Running}
	for _, e := range entries {
		place := g.Chunk*ChunkLinks + e.Position
		key, was, o := strconv.Itoa(place), m.records[place], e.Record.Outcome
		if _, name := m.kind(was); e.Proven && name != "" {
			k := m.kinds[name]
			k.Contradicted = true
			m.kinds[name] = k
		}
		switch {
		case was.Outcome != None && (was.Outcome != Aborted || o == Aborted || o == None):
			c.Results = append(c.Results, stand(was.Outcome, false))
			continue
		case o != None:
			m.records[place] = m.end(place, e)
			delete(m.texts, key)
		default:
			m.records[place] = m.note(place, e)
			if was.Settling && e.Record.Settling {
				e.Error = "" // that of the DELETE stays
			} else if was.Settling {
				delete(m.texts, key)
			}
		}
		if e.Error != "" {
			m.texts[key] = e.Error
		}
		c.Results = append(c.Results, stand(o, true))
	}
	c.Pending = modelTotal - m.counts.Sum()
	if m.aborted {
		c.State = AbortedState
	}
	return c
}

func TestCommitDoesWhatTheModelDoes(t *testing.T) {
	hold(t, []rule{{"model", func(l *bench) {
		rng := seeded(l.T)
		b := l.running(modelTotal)
		m := newModel()
		for step := range 300 {
			if step == 200 {
				_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
				l.must(err)
				m.aborted = true
			}
			groups := randomGroups(rng, m.aborted)
			var want []Committed
			for _, g := range groups {
				want = append(want, m.commit(g))
			}
			l.equal("the answers", want, l.Commit(l.Context(), groups))
			if l.Failed() {
				l.Fatalf("at step %d: %+v", step, groups)
			}
		}
		s, err := l.Snapshot(l.Context(), b)
		l.must(err)
		for place, want := range m.records {
			got := s.At(place).Record
			got.Due = min(got.Due, 1)
			l.equal("record", want, got, cmpopts.IgnoreFields(Record{}, "After"))
		}
		l.equal("texts", m.texts, l.hash("lc:{b}:e"))
		l.equal("counts", m.counts, l.get("b").Counts)
		kinds := map[string]Kind{}
		for _, k := range l.kindTable() {
			kinds[k.Text] = k
		}
		l.equal("kinds", m.kinds, kinds)
	}}})
}

// witness is what the callers of Commit saw of one link.
type witness struct {
	answer, aborted int // calls that wrote a real outcome, or "aborted"
	outcome         Outcome
	status          int // of the call that wrote the real outcome
	seen            map[Outcome]bool
	attempts        uint8 // the most of all calls that wrote
	ambiguous       bool  // of any call that wrote
}

// With any number of concurrent and repeated calls in any order, each link gets one outcome
// and the counters add up.
func TestManyWritersKeepTheInvariants(t *testing.T) {
	write := func(l *bench, withAbort bool) {
		source := seeded(l.T)
		b := l.running(modelTotal)
		var mu sync.Mutex
		witnesses := map[int]*witness{}
		dones := 0
		see := func(g Group, c Committed) {
			mu.Lock()
			defer mu.Unlock()
			if c.Err != nil {
				l.Errorf("commit: %v", c.Err)
				return
			}
			if c.Pending < 0 || c.Pending > modelTotal || (c.State == Done) != (c.Pending == 0 && !withAbort) {
				l.Errorf("%s with %d pending", c.State, c.Pending)
			}
			for i, s := range c.Results {
				e := g.Entries[i]
				w := witnesses[g.Chunk*ChunkLinks+e.Position]
				if w == nil {
					w = &witness{seen: map[Outcome]bool{}}
					witnesses[g.Chunk*ChunkLinks+e.Position] = w
				}
				w.seen[s.Outcome] = true
				if !s.Wrote {
					continue
				}
				if s.Outcome != e.Record.Outcome {
					l.Errorf("wrote %v, %v stands", e.Record.Outcome, s.Outcome)
				}
				w.attempts = max(w.attempts, e.Record.Attempts)
				w.ambiguous = w.ambiguous || e.Record.Ambiguous
				switch s.Outcome {
				case None:
				case Aborted:
					w.aborted++
				default:
					w.answer++
					w.outcome, w.status = s.Outcome, e.Record.HTTPStatus
				}
			}
			if c.State == Done {
				dones++
			}
		}
		var wg sync.WaitGroup
		for range 8 {
			rng := rand.New(rand.NewPCG(source.Uint64(), 0))
			wg.Go(func() {
				for step := range 30 {
					if withAbort && step == 15 {
						if _, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"}); err != nil {
							l.Error(err)
						}
					}
					groups := randomGroups(rng, withAbort && step > 15)
					repeat := 1 + rng.IntN(2) // a lost answer
					for range repeat {
						for i, c := range l.Commit(l.Context(), groups) {
							see(groups[i], c)
						}
					}
				}
			})
		}
		wg.Wait()
		// The rest, by all of them at once.
		for range 8 {
			wg.Go(func() {
				if withAbort {
					if err := l.FillAborted(l.Context(), b); err != nil {
						l.Error(err)
					}
					return
				}
				for chunk := range b.Chunks {
					g := Group{Batch: "b", Chunk: chunk, Entries: outcomes(Failed, 0, b.ChunkLen(chunk))}
					see(g, l.Commit(l.Context(), []Group{g})[0])
				}
			})
		}
		wg.Wait()

		end := l.get("b")
		state := Done
		if withAbort {
			state = AbortedState
		} else if dones == 0 {
			l.Error("nobody was told of the end")
		}
		if end.State != state || end.Pending() != 0 || end.Finished.IsZero() {
			l.Errorf("%s, %d pending, finished %v", end.State, end.Pending(), end.Finished)
		}
		s, err := l.Snapshot(l.Context(), end)
		l.must(err)
		var recount Counts
		for place := range modelTotal {
			r := s.At(place).Record
			recount[r.Outcome]++
			if r.Outcome == None || r.Settling {
				l.Fatalf("%d at the end: %+v", place, r)
			}
			w := witnesses[place]
			if w == nil {
				continue // filled by FillAborted
			}
			want := w.outcome
			if want == None {
				want = Aborted
			}
			if r.Outcome != want || w.answer > 1 || w.aborted > 1 {
				l.Errorf("%d: %v stands, %d real outcomes written (the last %v), %d aborted", place, r.Outcome, w.answer, w.outcome, w.aborted)
			}
			if w.answer > 0 && r.HTTPStatus != w.status {
				l.Errorf("%d: status %d, want %d", place, r.HTTPStatus, w.status)
			}
			for o := range w.seen {
				if o != None && o != want && o != Aborted {
					l.Errorf("%d: %v was told to stand, and then %v", place, o, want)
				}
			}
			if r.Attempts != w.attempts || r.Ambiguous != w.ambiguous {
				l.Errorf("%d: %d attempts, ambiguous %v; want %d, %v", place, r.Attempts, r.Ambiguous, w.attempts, w.ambiguous)
			}
		}
		l.equal("the counters against the records", recount, end.Counts)
	}
	hold(t, []rule{
		{"to the end", func(l *bench) { write(l, false) }},
		{"with an abort", func(l *bench) { write(l, true) }},
	})
}
