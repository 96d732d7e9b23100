package report

import (
	"time"

	"linkcancel/internal/ledger"
)

// State is what a journal says of every link; it takes 24 bytes for each, and
// each text once.
type State struct {
	chunks map[int][]linkState
	texts  []string
	places map[string]uint32 // in texts

	// The canary's row, as ledger/record.lua counts it: outcomes of one kind one
	// after another.
	canaryOff bool
	row       []position
	rowOf     ledger.Outcome
	others    bool // there is an outcome that is not not_found
}

// position is a link's place in a chunk.
type position struct{ chunk, at int }

// linkState is the state of one link.
type linkState struct {
	record  [ledger.RecordSize]byte
	at      uint32 // seconds; 0 if there is no time
	status  uint32 // place in texts
	problem uint32 // place in texts
	seen    bool   // it has a line
	started bool   // requests may have left since its last line
}

func newState() *State {
	return &State{
		chunks: make(map[int][]linkState),
		texts:  []string{""},
		places: map[string]uint32{"": 0},
	}
}

// Tripped says whether the run was stopped by its canary, and not resumed since:
// the outcomes of the row that tripped it are to be withdrawn by CanaryOff.
func (s *State) Tripped() bool { return !s.canaryOff && len(s.row) >= ledger.CanaryRow }

// CanaryOff withdraws the outcomes of the row that tripped the canary, so that
// Records returns those links without an outcome. Journal.CanaryOff notes it.
func (s *State) CanaryOff() {
	s.withdraw()
	s.canaryOff = true
}

func (s *State) withdraw() {
	if s.Tripped() {
		for _, p := range s.row {
			link := &s.chunks[p.chunk][p.at]
			before := ledger.DecodeRecord(link.record[:])
			*link = linkState{seen: true}
			ledger.Record{Ambiguous: before.Ambiguous}.Append(link.record[:0])
		}
	}
	s.row = nil
}

// count counts a link's first outcome for the canary.
func (s *State) count(e ledger.Entry) {
	o := e.Record.Outcome
	switch {
	case s.canaryOff:
	case s.Tripped():
		if o == s.rowOf {
			s.row = append(s.row, position{e.Chunk, e.Position})
		}
	case o != ledger.NotFound && o != ledger.Rejected:
		s.row = nil
	case o == ledger.NotFound && e.Record.Plain && s.others:
	default:
		if o != s.rowOf {
			s.row = nil
		}
		s.rowOf = o
		s.row = append(s.row, position{e.Chunk, e.Position})
	}
	s.others = s.others || o != ledger.NotFound
}

// Records returns what is known of the n links of a chunk, in their order:
// those with an outcome or a note, and those that were about to be sent when
// the run ended. The latter are ambiguous, since nobody has seen how that
// went; so is a link with a note from an earlier attempt whose slice was
// started again after it.
func (s *State) Records(chunk, n int) []ledger.Entry {
	var entries []ledger.Entry
	links := s.chunks[chunk]
	for position := range min(n, len(links)) {
		link := links[position]
		if !link.seen && !link.started {
			continue
		}
		e := ledger.Entry{
			Chunk: chunk, Position: position, Record: ledger.DecodeRecord(link.record[:]),
			LinkStatus: s.texts[link.status], Error: s.texts[link.problem],
		}
		if link.at > 0 {
			e.At = time.Unix(int64(link.at), 0).UTC()
		}
		if link.started {
			e.Record.Ambiguous = true
		}
		if e.Record.Outcome == ledger.None && e.Record.Plains > 0 {
			// Which kind of answer it was is forgotten: they are counted anew, and the
			// DELETE is sent again.
			e.Record.Plains, e.Record.LinkStatus, e.Record.Attempts, e.Record.Settling = 0, 0, 0, false
		}
		e.Record.Due = 0
		entries = append(entries, e)
	}
	return entries
}

// reach returns the links of a chunk, at least n of them.
func (s *State) reach(chunk, n int) []linkState {
	links := s.chunks[chunk]
	if len(links) < n {
		links = append(links, make([]linkState, n-len(links))...)
		s.chunks[chunk] = links
	}
	return links
}

// start takes note that links are about to be sent; those that have an outcome
// are not.
func (s *State) start(chunk, first, n int) {
	links := s.reach(chunk, first+n)
	for i := first; i < first+n; i++ {
		links[i].started = ledger.DecodeRecord(links[i].record[:]).Outcome == ledger.None
	}
}

// commit takes over an entry. The later one of a link counts, but a note never
// takes an outcome away, and a link that was ambiguous stays so.
func (s *State) commit(e ledger.Entry) {
	link := &s.reach(e.Chunk, e.Position+1)[e.Position]
	before := ledger.DecodeRecord(link.record[:])
	if before.Outcome != ledger.None && e.Record.Outcome == ledger.None {
		if e.Record.Ambiguous && !before.Ambiguous {
			before.Ambiguous = true
			before.Append(link.record[:0])
		}
		return
	}
	if before.Outcome == ledger.None && e.Record.Outcome != ledger.None {
		s.count(e)
	}
	e.Record.Ambiguous = e.Record.Ambiguous || before.Ambiguous
	*link = linkState{status: s.place(e.LinkStatus), problem: s.place(e.Error), seen: true}
	e.Record.Append(link.record[:0])
	if !e.At.IsZero() {
		link.at = uint32(e.At.Unix())
	}
}

// place keeps each text once: most errors of a run are alike.
func (s *State) place(text string) uint32 {
	at, known := s.places[text]
	if !known {
		at = uint32(len(s.texts))
		s.texts = append(s.texts, text)
		s.places[text] = at
	}
	return at
}
