package report

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/testutil"
)

// ends are outcomes of links of a chunk.
func ends(o ledger.Outcome, chunk, from, to int) []ledger.Entry {
	var all []ledger.Entry
	for i := from; i < to; i++ {
		all = append(all, ledger.Entry{Chunk: chunk, Position: i, Record: ledger.Record{Outcome: o, Attempts: 1, HTTPStatus: 404}, At: at})
	}
	return all
}

func plainly(entries []ledger.Entry) []ledger.Entry {
	for i := range entries {
		entries[i].Record.Plain = true
	}
	return entries
}

// A journal shows whether the canary stopped the run, by the rule of the ledger: see canary.lua.
func TestTripped(t *testing.T) {
	const nf, rejected, row = ledger.NotFound, ledger.Rejected, ledger.CanaryRow
	for _, tt := range []struct {
		name    string
		commits [][]ledger.Entry
		want    bool
	}{
		{"a row of not_found", [][]ledger.Entry{ends(nf, 0, 0, row)}, true},
		{"a row of rejected", [][]ledger.Entry{ends(rejected, 0, 0, row)}, true},
		{"one too few", [][]ledger.Entry{ends(nf, 0, 0, row-1)}, false},
		{"in two chunks", [][]ledger.Entry{ends(nf, 0, 0, row-1), ends(nf, 1, 0, 1)}, true},
		{"of another outcome", [][]ledger.Entry{ends(ledger.Failed, 0, 0, 2*row)}, false},
		{"another between", [][]ledger.Entry{ends(nf, 0, 0, row-1), ends(ledger.Cancelled, 1, 0, 1), ends(nf, 2, 0, row-1)}, false},
		{"two kinds", [][]ledger.Entry{ends(nf, 0, 0, row-1), ends(rejected, 1, 0, row-1)}, false},
		{"the second kind", [][]ledger.Entry{ends(nf, 0, 0, 1), ends(rejected, 1, 0, row)}, true},
		{"after others", [][]ledger.Entry{ends(ledger.Cancelled, 0, 0, 100), ends(nf, 1, 0, row)}, true},
		{"others after it", [][]ledger.Entry{ends(nf, 0, 0, row), ends(ledger.Cancelled, 1, 0, 100)}, true},
		{"a note between", [][]ledger.Entry{ends(nf, 0, 0, row-1), ends(ledger.None, 1, 0, 1), ends(nf, 0, row-1, row)}, true},
		{"one link again and again", [][]ledger.Entry{ends(nf, 0, 0, 1), ends(nf, 0, 0, 1), ends(nf, 0, 0, row-1)}, false},
		{"plain ones alone", [][]ledger.Entry{plainly(ends(nf, 0, 0, row))}, true},
		{"plain ones beside others", [][]ledger.Entry{ends(ledger.Cancelled, 0, 0, 1), plainly(ends(nf, 1, 0, 2*row))}, false},
		{"plain ones neither count nor end it", [][]ledger.Entry{
			ends(ledger.Cancelled, 0, 0, 1), ends(nf, 1, 0, row-1), plainly(ends(nf, 2, 0, 10)), ends(nf, 3, 0, 1),
		}, true},
		{"plain rejected ones count", [][]ledger.Entry{ends(ledger.Cancelled, 0, 0, 1), plainly(ends(rejected, 1, 0, row))}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j, path := create(t)
			for _, entries := range tt.commits {
				testutil.Must(t, j.Commit(entries))
			}
			testutil.Must(t, j.Close())
			_, state, j, err := OpenJournal(path)
			testutil.Must(t, err)
			testutil.Must(t, j.Close())
			if got := state.Tripped(); got != tt.want {
				t.Errorf("Tripped() = %v, want %v", got, tt.want)
			}
		})
	}
}

// A resume withdraws the outcomes of the row, those in flight at the time too,
// and nothing else; what may have been applied stays ambiguous.
func TestCanaryOff(t *testing.T) {
	const row = ledger.CanaryRow
	j, path := create(t)
	kept := ledger.Entry{Chunk: 1, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, At: at}
	before := ends(ledger.NotFound, 3, 0, 1) // ended by the cancelled one: not of the row
	testutil.Must(t, j.Started(0, 0, row+2))
	testutil.Must(t, j.Commit(before))
	testutil.Must(t, j.Commit([]ledger.Entry{kept}))
	testutil.Must(t, j.Commit([]ledger.Entry{{Position: 7, Record: ledger.Record{Ambiguous: true, Attempts: 1, HTTPStatus: 500}, Error: "busy"}}))
	testutil.Must(t, j.Commit(ends(ledger.NotFound, 0, 0, row+1)))
	testutil.Must(t, j.Close())

	// want is what is known after it.
	want := map[int][]ledger.Entry{1: {kept}, 3: before}
	for i := range row + 2 {
		e := ledger.Entry{Position: i}
		e.Record.Ambiguous = i == 7 || i == row+1 // the last was about to be sent
		want[0] = append(want[0], e)
	}
	_, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	if !state.Tripped() {
		t.Fatal("the canary has not tripped")
	}
	state.CanaryOff()
	testutil.Must(t, j.CanaryOff())
	wantState(t, state, want)
	if state.Tripped() {
		t.Error("tripped, though it is off")
	}
	// It is off from now on, so outcomes are kept.
	ended := ends(ledger.NotFound, 0, 0, row)
	testutil.Must(t, j.Started(0, 0, row))
	testutil.Must(t, j.Commit(ended))
	testutil.Must(t, j.Close())
	ended[7].Record.Ambiguous = true
	want[0] = append(ended, want[0][row:]...)

	text, err := os.ReadFile(path)
	testutil.Must(t, err)
	if n := bytes.Count(text, []byte("\nc\n")); n != 1 {
		t.Errorf("%d lines c in\n%s", n, text)
	}
	_, state, j, err = OpenJournal(path)
	testutil.Must(t, err)
	testutil.Must(t, j.Close())
	if state.Tripped() {
		t.Error("tripped again, though the canary was off")
	}
	wantState(t, state, want)
}

// A canary that has not tripped takes nothing back.
func TestCanaryOffBeforeItTrips(t *testing.T) {
	j, path := create(t)
	testutil.Must(t, j.Commit(ends(ledger.NotFound, 0, 0, ledger.CanaryRow-1)))
	testutil.Must(t, j.CanaryOff())
	testutil.Must(t, j.Commit(ends(ledger.NotFound, 1, 0, 1)))
	testutil.Must(t, j.Close())
	_, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	testutil.Must(t, j.Close())
	wantState(t, state, map[int][]ledger.Entry{
		0: ends(ledger.NotFound, 0, 0, ledger.CanaryRow-1), 1: ends(ledger.NotFound, 1, 0, 1),
	})
	if state.Tripped() {
		t.Error("tripped")
	}
}

func TestNoCanary(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.csv.partial")
	h := header
	h.NoCanary = true
	j, err := CreateJournal(path, h)
	testutil.Must(t, err)
	testutil.Must(t, j.Commit(ends(ledger.NotFound, 0, 0, 2*ledger.CanaryRow)))
	testutil.Must(t, j.Close())
	got, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	testutil.Must(t, j.Close())
	if diff := cmp.Diff(h, got); diff != "" {
		t.Error(diff)
	}
	if state.Tripped() {
		t.Error("tripped without a canary")
	}
	wantState(t, state, map[int][]ledger.Entry{0: ends(ledger.NotFound, 0, 0, 2*ledger.CanaryRow)})
}

// A journal of the previous release is read and continued.
func TestJournalOfVersion1(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.csv.partial")
	text := `{"version":1,"batch":"b1","digest":"abc","files":["a.csv"],"total":100,"created":"2026-03-01T12:00:00Z"}` + "\n"
	for i := range ledger.CanaryRow {
		text += fmt.Sprintf("s 0 %d 1\nr 0 %[1]d 0301019400000000 1772366405 \"\" \"\"\n", i)
	}
	testutil.Must(t, os.WriteFile(path, []byte(text), 0o600))
	h, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	if h.Version != 1 || h.NoCanary || h.Total != 100 {
		t.Errorf("header %+v", h)
	}
	if !state.Tripped() {
		t.Error("the canary has not tripped")
	}
	state.CanaryOff()
	testutil.Must(t, j.CanaryOff())
	testutil.Must(t, j.Close())
	_, state, j, err = OpenJournal(path)
	testutil.Must(t, err)
	testutil.Must(t, j.Close())
	for _, e := range state.Records(0, 100) {
		if e.Record != (ledger.Record{}) {
			t.Errorf("%+v", e)
		}
	}
}

// Which kind of answer was counted is not in the journal: after a resume the
// answers are counted anew, from the first attempt.
func TestPlainAnswersAreCountedAnew(t *testing.T) {
	j, path := create(t)
	testutil.Must(t, j.Commit([]ledger.Entry{
		{Position: 0, Record: ledger.Record{Plains: 2, LinkStatus: 3, Attempts: 2, HTTPStatus: 404, Ambiguous: true, Due: 9}, Error: "404"},
		{Position: 1, Record: ledger.Record{Attempts: 2, HTTPStatus: 500, Due: 9}, Error: "busy"},
		{Position: 2, Record: ledger.Record{Outcome: ledger.NotFound, Plain: true, Attempts: 3, HTTPStatus: 404}, At: at},
	}))
	testutil.Must(t, j.Close())
	text, err := os.ReadFile(path)
	testutil.Must(t, err)
	if n := strings.Count(string(text), "\nr "); n != 3 {
		t.Errorf("%d lines in\n%s", n, text)
	}
	_, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	testutil.Must(t, j.Close())
	wantState(t, state, map[int][]ledger.Entry{0: {
		{Position: 0, Record: ledger.Record{HTTPStatus: 404, Ambiguous: true}, Error: "404"},
		{Position: 1, Record: ledger.Record{Attempts: 2, HTTPStatus: 500}, Error: "busy"},
		{Position: 2, Record: ledger.Record{Outcome: ledger.NotFound, Plain: true, Attempts: 3, HTTPStatus: 404}, At: at},
	}})
}
