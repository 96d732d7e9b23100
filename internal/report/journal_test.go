package report

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/testutil"
)

var (
	header = Header{
		Version: JournalVersion, Batch: "b1", Digest: "abc", Name: "stale", Files: []string{"a.csv", "b\n.csv"},
		Column: "id", SkipInvalid: true, Total: 2500, Created: time.Date(2026, 3, 1, 12, 0, 0, 7, time.UTC),
	}
	at = time.Date(2026, 3, 1, 12, 0, 5, 0, time.UTC)
)

func create(t *testing.T) (*Journal, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.csv.partial")
	j, err := CreateJournal(path, header)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, path
}

// fill writes a bit of everything, in what would be three calls of a recorder.
func fillJournal(t *testing.T, j *Journal) {
	t.Helper()
	testutil.Must(t, j.Started(0, 0, 3))
	testutil.Must(t, j.Started(2, 998, 2))
	testutil.Must(t, j.Commit([]ledger.Entry{
		{Chunk: 0, Position: 0, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: 5}, At: at},
		{Chunk: 0, Position: 1, Record: ledger.Record{Ambiguous: true, Attempts: 2, HTTPStatus: 500}, Error: "a \"quoted\" text,\nwith \\ and é"},
	}))
	testutil.Must(t, j.Commit([]ledger.Entry{{
		Chunk: 0, Position: 1, At: at, LinkStatus: "paid out", Error: "too late",
		Record: ledger.Record{Outcome: ledger.NotCancellable, Attempts: 3, HTTPStatus: 422},
	}}))
	testutil.Must(t, j.Commit([]ledger.Entry{{Chunk: 0, Position: 1, Record: ledger.Record{Attempts: 9}}}))
}

// filled is what fillJournal leaves.
var filled = map[int][]ledger.Entry{
	0: {
		{Chunk: 0, Position: 0, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: 5}, At: at},
		{Chunk: 0, Position: 1, Record: ledger.Record{Outcome: ledger.NotCancellable, Ambiguous: true, Attempts: 3, HTTPStatus: 422}, At: at, LinkStatus: "paid out", Error: "too late"},
		{Chunk: 0, Position: 2, Record: ledger.Record{Ambiguous: true}},
	},
	1: nil,
	2: {
		{Chunk: 2, Position: 998, Record: ledger.Record{Ambiguous: true}},
		{Chunk: 2, Position: 999, Record: ledger.Record{Ambiguous: true}},
	},
}

func wantState(t *testing.T, s *State, want map[int][]ledger.Entry) {
	t.Helper()
	for chunk, entries := range want {
		if diff := cmp.Diff(entries, s.Records(chunk, ledger.ChunkLinks)); diff != "" {
			t.Errorf("chunk %d: %s", chunk, diff)
		}
	}
}

func TestJournalRoundTrip(t *testing.T) {
	j, path := create(t)
	fillJournal(t, j)
	testutil.Must(t, j.Close())
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	h, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	if diff := cmp.Diff(header, h); diff != "" {
		t.Error(diff)
	}
	wantState(t, state, filled)
	if got := state.Records(0, 1); len(got) != 1 {
		t.Errorf("of 1 link: %v", got)
	}

	testutil.Must(t, j.Commit([]ledger.Entry{{Chunk: 1, Position: 7, Record: ledger.Record{Attempts: 1}, Error: "dial"}}))
	testutil.Must(t, j.Close())
	_, state, j, err = OpenJournal(path)
	testutil.Must(t, err)
	wantState(t, state, map[int][]ledger.Entry{0: filled[0], 1: {{Chunk: 1, Position: 7, Record: ledger.Record{Attempts: 1}, Error: "dial"}}})
	testutil.Must(t, j.Remove())
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// A second start of a slice makes the links ambiguous that are still pending:
// the note from before says nothing of the requests that left since.
func TestJournalStartedAgain(t *testing.T) {
	j, path := create(t)
	note := ledger.Entry{Position: 1, Record: ledger.Record{Attempts: 1}, Error: "dial"}
	done := ledger.Entry{Position: 0, Record: ledger.Record{Outcome: ledger.NotFound, Attempts: 1}, At: at}
	testutil.Must(t, j.Started(0, 0, 3))
	testutil.Must(t, j.Commit([]ledger.Entry{done, note, {Position: 2}}))
	testutil.Must(t, j.Close())
	_, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	wantState(t, state, map[int][]ledger.Entry{0: {done, note, {Position: 2}}})

	testutil.Must(t, j.Started(0, 0, 2))
	testutil.Must(t, j.Close())
	_, state, j, err = OpenJournal(path)
	testutil.Must(t, err)
	defer func() { _ = j.Close() }()
	note.Record.Ambiguous = true
	wantState(t, state, map[int][]ledger.Entry{0: {done, note, {Position: 2}}})
}

// Every call is in the file when it returns: what a kill -9 leaves.
func TestJournalIsNotBuffered(t *testing.T) {
	j, path := create(t)
	for n := range 3 {
		testutil.Must(t, j.Started(0, n, 1))
		text, err := os.ReadFile(path)
		testutil.Must(t, err)
		if want := fmt.Sprintf("s 0 %d 1\n", n); !bytes.HasSuffix(text, []byte(want)) {
			t.Errorf("file ends without %q", want)
		}
	}
}

// A journal cut off at any byte opens, and has lost no full line.
func TestJournalCutAnywhere(t *testing.T) {
	j, path := create(t)
	fillJournal(t, j)
	testutil.Must(t, j.Close())
	text, err := os.ReadFile(path)
	testutil.Must(t, err)
	first := bytes.IndexByte(text, '\n') + 1
	cut := filepath.Join(t.TempDir(), "cut.partial")
	for n := range len(text) + 1 {
		testutil.Must(t, os.WriteFile(cut, text[:n], 0o600))
		h, state, j, err := OpenJournal(cut)
		if n < first {
			if err == nil || !strings.Contains(err.Error(), "no full first line") {
				t.Fatalf("cut at %d, in the header: %v", n, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		full := bytes.LastIndexByte(text[:n], '\n') + 1
		_, want, _, err := readJournal(bytes.NewReader(text[:full]))
		testutil.Must(t, err)
		if h.Batch != header.Batch {
			t.Fatalf("cut at %d: header %+v", n, h)
		}
		for chunk := range 3 {
			if diff := cmp.Diff(want.Records(chunk, ledger.ChunkLinks), state.Records(chunk, ledger.ChunkLinks)); diff != "" {
				t.Fatalf("cut at %d: %s", n, diff)
			}
		}
		testutil.Must(t, j.Started(1, 5, 1))
		testutil.Must(t, j.Close())
		again, err := os.ReadFile(cut)
		testutil.Must(t, err)
		if string(again) != string(text[:full])+"s 1 5 1\n" {
			t.Fatalf("cut at %d: the journal goes on as %q", n, again[first:])
		}
	}
}

func TestJournalRefuses(t *testing.T) {
	head := `{"version":2,"batch":"b"}` + "\n"
	for _, tt := range []struct{ text, want string }{
		{"", "no full first line"},
		{`{"version":3}` + "\n", "version 3"},
		{`{"version":3,"files":"other"}` + "\n", "version 3"},
		{"{}\n", "line 1: this is not a line of a journal"},
		{"link,outcome\n", "line 1: this is not a line of a journal"},
		{head + "\n", "line 2"},
		{head + "x 1\n", "line 2"},
		{head + "c\n", ""},
		{head + "c 1\n", "line 2"},
		{head + "c \n", "line 2"},
		{head + "s 0 0 1\ns 0 0\n", "line 3"},
		{head + "s 0 0 0\n", "line 2"},
		{head + "s 0 999 2\n", "line 2"},
		{head + "s 0 0 1 \n", ""},
		{head + "s 0 0 1 1\n", "line 2"},
		{head + "s 0 -1 1\n", "line 2"},
		{head + "r 0 1000 0000000000000000 0 \"\" \"\"\n", "line 2"},
		{head + "r 0 0 00000000000000 0 \"\" \"\"\n", "line 2"},
		{head + "r 0 0 0800000000000000 0 \"\" \"\"\n", "line 2"},
		{head + "r 0 0 0000000000000000 0 \"\"\n", "line 2"},
		{head + "r 0 0 0000000000000000 0 \"\" \"\" x\n", "line 2"},
		{head + "r 0 0 0000000000000000 0 \"\" \"\\x\"\n", "line 2"},
		{head + strings.Repeat("s", maxLine) + "\n", "line 2"},
	} {
		path := filepath.Join(t.TempDir(), "a.partial")
		testutil.Must(t, os.WriteFile(path, []byte(tt.text), 0o600))
		_, _, j, err := OpenJournal(path)
		if err == nil {
			_ = j.Close()
		}
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%.80q: error %v, want %q", tt.text, err, tt.want)
		}
	}

	folder := t.TempDir()
	target, link := filepath.Join(folder, "target"), filepath.Join(folder, "b.partial")
	testutil.Must(t, os.WriteFile(target, []byte(head), 0o600))
	testutil.Must(t, os.Symlink(target, link))
	if _, _, _, err := OpenJournal(link); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("open a symbolic link: %v", err)
	}
	if _, err := CreateJournal(link, header); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create where a symbolic link is: %v", err)
	}
	testutil.Must(t, os.Remove(target))
	if _, err := CreateJournal(link, header); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create where a symbolic link leads to nothing: %v", err)
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a journal was made where a link leads: %v", err)
	}

	j, path := create(t)
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := CreateJournal(path, header); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over another: %v", err)
	}
	if _, _, _, err := OpenJournal(path); err == nil || !strings.Contains(err.Error(), "another linkcancel") {
		t.Errorf("open one in use: %v", err)
	}
	if _, _, _, err := OpenJournal(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open a missing one: %v", err)
	}
	if err := j.Started(0, 999, 2); err == nil {
		t.Error("a slice over the end of its chunk was written")
	}
	if err := j.Commit([]ledger.Entry{{}, {Position: -1}}); err == nil {
		t.Error("a position below 0 was written")
	}
	testutil.Must(t, j.Commit(nil))
	testutil.Must(t, j.Close())
	if err := j.Started(0, 0, 1); !errors.Is(err, ErrJournalClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	testutil.Must(t, j.Close())
}

// The first error stays, and nothing is written behind half a line.
func TestJournalErrorStays(t *testing.T) {
	j, path := create(t)
	testutil.Must(t, j.Started(0, 0, 1))
	testutil.Must(t, j.Close())
	before, err := os.ReadFile(path)
	testutil.Must(t, err)
	file, err := os.Open(path) // for reading only
	testutil.Must(t, err)
	j = newJournal(path, file)
	first := j.Started(0, 1, 1)
	if first == nil {
		t.Fatal("a write to a file open for reading went well")
	}
	if err := j.Commit([]ledger.Entry{{}}); err != first {
		t.Errorf("the next call returns %v, want %v", err, first)
	}
	if err := j.Close(); err != first {
		t.Errorf("Close returns %v, want %v", err, first)
	}
	after, err := os.ReadFile(path)
	testutil.Must(t, err)
	if !bytes.Equal(before, after) {
		t.Errorf("written after an error: %q", after[len(before):])
	}
}

func TestJournalConcurrently(t *testing.T) {
	j, path := create(t)
	var group sync.WaitGroup
	for chunk := range 8 {
		group.Go(func() {
			for n := range 100 {
				if err := errors.Join(j.Started(chunk, n, 1), j.Commit([]ledger.Entry{{
					Chunk: chunk, Position: n, Record: ledger.Record{Outcome: ledger.Failed, Attempts: uint8(n)}, Error: "x",
				}})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Go(j.sync)
	group.Wait()
	testutil.Must(t, j.Close())
	_, state, j, err := OpenJournal(path)
	testutil.Must(t, err)
	testutil.Must(t, j.Close())
	for chunk := range 8 {
		entries := state.Records(chunk, 100)
		if len(entries) != 100 {
			t.Errorf("chunk %d has %d entries", chunk, len(entries))
		}
		for n, e := range entries {
			if e.Position != n || e.Record.Outcome != ledger.Failed || e.Record.Attempts != uint8(n) || e.Record.Ambiguous {
				t.Errorf("chunk %d: %+v", chunk, e)
			}
		}
	}
}

// Arbitrary bytes are an error or a state, which written anew is the same.
func FuzzJournal(f *testing.F) {
	head := `{"version":1,"batch":"b","files":["a"],"total":3}` + "\n"
	f.Add([]byte(head + "s 0 0 3\nr 0 1 1102016500000005 1772366405 \"paid\" \"a b\"\nr 0 2 10010"))
	f.Add([]byte(head + "r 1 999 0000000000000000 0 \"\\u0041\" \"\\\"\"\n"))
	f.Add([]byte(`{"version":9}` + "\n"))
	f.Add([]byte("c\nr 0 0 0301019400000005 1772366405 \"\" \"\"\nc\n"))
	f.Add([]byte{0, 10, 0})
	f.Add([]byte("s 0 0 3\nr 0 1 1102016500000005 1772366405 \"paid\" \"a b\"\ns 0 1 1\nr 0 1 0000000000000000 0 \"\" \"\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if !bytes.HasPrefix(text, []byte("{")) {
			text = append([]byte(head), text...) // most texts should get past it
		}
		_, state, good, err := readJournal(bytes.NewReader(text))
		if err != nil {
			return
		}
		if good < 1 || good > int64(len(text)) || text[good-1] != '\n' || bytes.IndexByte(text[good:], '\n') >= 0 {
			t.Fatalf("full lines end at %d of %q", good, text)
		}
		lines := []byte(head)
		for chunk := range state.chunks {
			for _, e := range state.Records(chunk, ledger.ChunkLinks) {
				lines = appendEntry(lines, e)
			}
		}
		_, again, _, err := readJournal(bytes.NewReader(lines))
		if err != nil {
			t.Fatalf("%v in %q", err, lines)
		}
		for chunk := range state.chunks {
			if diff := cmp.Diff(state.Records(chunk, ledger.ChunkLinks), again.Records(chunk, ledger.ChunkLinks)); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// BenchmarkJournal commits outcomes 50 at a time.
func BenchmarkJournal(b *testing.B) {
	j, err := CreateJournal(filepath.Join(b.TempDir(), "a.partial"), header)
	if err != nil {
		b.Fatal(err)
	}
	entries := make([]ledger.Entry, 50)
	for n := range entries {
		entries[n] = ledger.Entry{Position: n, Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}, At: at}
	}
	for b.Loop() {
		if err := j.Commit(entries); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*50/b.Elapsed().Seconds(), "links/s")
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
