package report

import (
	"time"

	"linkcancel/internal/ledger"
)

// State is the state of all links by a journal. It takes 24 bytes a link, and the texts.
type State struct {
	chunks map[int][]linkState
	texts  []string
	index  map[string]uint32 // of texts

	// The canary's row by the rules of canary.lua: consecutive outcomes of one kind.
	canaryOff bool
	row       []position
	rowOf     ledger.Outcome
	others    bool // an outcome other than not_found exists
}

// position identifies a link.
type position struct{ chunk, at int }

// linkState is the state of one link.
type linkState struct {
	record  [ledger.RecordSize]byte
	at      uint32 // Unix seconds, 0 if unknown
	status  uint32 // index in texts
	problem uint32 // index in texts
	seen    bool   // it has an r line
	started bool   // a request may have been sent since its last r line
}

func newState() *State {
	return &State{
		chunks: make(map[int][]linkState),
		texts:  []string{""},
		index:  map[string]uint32{"": 0},
	}
}

// Tripped reports whether the canary stopped the run and the run was not resumed since.
func (s *State) Tripped() bool { return !s.canaryOff && len(s.row) >= ledger.CanaryRow }

// CanaryOff makes the outcomes that tripped the canary pending. Call Journal.CanaryOff too.
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

// count counts the first outcome of a link for the canary.
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

// Records returns the links of a chunk, up to n, that have an outcome or a note or may have been
// sent. A link whose slice was started after its last note is ambiguous.
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
			// The journal lacks the kind of the answers: count them anew, and send the DELETE
			// again.
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

// start marks links without an outcome as started.
func (s *State) start(chunk, first, n int) {
	links := s.reach(chunk, first+n)
	for i := first; i < first+n; i++ {
		links[i].started = ledger.DecodeRecord(links[i].record[:]).Outcome == ledger.None
	}
}

// commit applies an entry. A note never replaces an outcome, and the ambiguous flag stays.
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
	*link = linkState{status: s.textIndex(e.LinkStatus), problem: s.textIndex(e.Error), seen: true}
	e.Record.Append(link.record[:0])
	if !e.At.IsZero() {
		link.at = uint32(e.At.Unix())
	}
}

// textIndex stores each text once, because most errors of a run are alike.
func (s *State) textIndex(text string) uint32 {
	at, known := s.index[text]
	if !known {
		at = uint32(len(s.texts))
		s.texts = append(s.texts, text)
		s.index[text] = at
	}
	return at
}
