package importer

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// parent makes a batch of n links with some outcomes by place.
func parent(t *testing.T, l *ledger.Ledger, n int, ended map[int]ledger.Record) ledger.Batch {
	t.Helper()
	_, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(n)}, BatchConfig{ID: "march", Source: SourceSweep, Name: "march.csv"})
	testutil.Must(t, err)
	for place, r := range ended {
		c := l.Commit(t.Context(), []ledger.Group{{
			Batch: "march", Chunk: place / ledger.ChunkLinks,
			Entries: []ledger.Entry{{Position: place % ledger.ChunkLinks, Record: r}},
		}})
		testutil.Must(t, c[0].Err)
	}
	b, err := l.Get(t.Context(), "march")
	testutil.Must(t, err)
	return b
}

func failed(ambiguous bool) ledger.Record {
	return ledger.Record{Outcome: ledger.Failed, Attempts: 12, HTTPStatus: 500, Ambiguous: ambiguous}
}

// rest reads a source to its end.
func rest(t *testing.T, src Source) []string {
	t.Helper()
	var got []string
	for {
		link, err := src.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		testutil.Must(t, err)
		got = append(got, link)
	}
}

func TestRetry(t *testing.T) {
	redistest.Each(t, func(t *testing.T, broker *broker.Broker) {
		ctx, l := t.Context(), ledger.New(broker.Client())
		b := parent(t, l, 3500, map[int]ledger.Record{
			3400: failed(false), 7: failed(true), 999: failed(false), 1000: failed(true),
			8:    {Outcome: ledger.Cancelled, Attempts: 1},
			9:    {Outcome: ledger.Rejected, Attempts: 1, Ambiguous: true},
			10:   {Outcome: ledger.Rejected, Attempts: 1},
			3000: {Attempts: 3, Ambiguous: true}, // pending
		})
		src, err := OpenRetry(ctx, l, b, []ledger.Outcome{ledger.Failed}, nil)
		testutil.Must(t, err)
		if src.Found != 4 || src.Links() != 4 {
			t.Errorf("%d of %d", src.Links(), src.Found)
		}
		child, err := MakeBatch(ctx, l, src, BatchConfig{ID: "first", Source: b.Source, Name: b.Name, Parent: b.ID, Restore: src.Restore})
		testutil.Must(t, err)
		if child.Parent != "march" || child.Source != SourceSweep || child.State != ledger.Ready || child.Total != 4 || child.Pending() != 4 {
			t.Errorf("%+v", child)
		}
		var got []ledger.LinkRecord
		for r, err := range l.Walk(ctx, child) {
			testutil.Must(t, err)
			got = append(got, r)
		}
		want := []ledger.LinkRecord{
			{Link: testutil.LinkID(7), Record: ledger.Record{Ambiguous: true}}, {Link: testutil.LinkID(999)},
			{Link: testutil.LinkID(1000), Record: ledger.Record{Ambiguous: true}}, {Link: testutil.LinkID(3400)},
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}

		// The same again finds them all in the first retry.
		src, err = OpenRetry(ctx, l, b, []ledger.Outcome{ledger.Failed}, []ledger.Batch{child})
		testutil.Must(t, err)
		if src.Found != 4 || src.Links() != 0 || src.Elsewhere["first"] != 4 {
			t.Errorf("%d of %d, elsewhere %v", src.Links(), src.Found, src.Elsewhere)
		}
		if left := rest(t, src); len(left) > 0 {
			t.Errorf("links %q", left)
		}
		// With more outcomes only what is new is taken.
		src, err = OpenRetry(ctx, l, b, []ledger.Outcome{ledger.Failed, ledger.Rejected}, []ledger.Batch{child})
		testutil.Must(t, err)
		if left := rest(t, src); !slices.Equal(left, []string{testutil.LinkID(9), testutil.LinkID(10)}) || src.Stats() != (Stats{Rows: 2, Links: 2}) {
			t.Errorf("links %q, %+v", left, src.Stats())
		}
		// Each keeps its own doubt, though the doubtful link 7 before them is left out.
		if records, _, _ := src.Restore(0, 2); !records[0].Ambiguous || records[1].Ambiguous {
			t.Errorf("%+v: only the first rejected link is in doubt", records)
		}
		// A retry that is not sealed tells nothing yet.
		if _, _, err := l.Create(ctx, ledger.DraftConfig{ID: "draft", Parent: "march"}); err != nil {
			t.Fatal(err)
		}
		draft, err := l.Get(ctx, "draft")
		testutil.Must(t, err)
		src, err = OpenRetry(ctx, l, b, []ledger.Outcome{ledger.Failed}, []ledger.Batch{draft})
		testutil.Must(t, err)
		if src.Links() != 4 {
			t.Errorf("%d links beside a draft", src.Links())
		}
	})
}

// A link that was in flight when its batch was aborted may be cancelled though
// nothing says so: its retry must know. What was never fed cannot be.
func TestRetryOfAbortedLinks(t *testing.T) {
	broker := broker.Embedded()
	t.Cleanup(func() { _ = broker.Close() })
	ctx, l := t.Context(), ledger.New(broker.Client())
	const total, fed = 23_000, 1_000
	for _, started := range []bool{true, false} {
		testutil.Must(t, broker.Client().FlushAll(ctx).Err())
		b := parent(t, l, total, nil)
		if started {
			testutil.Must(t, l.Start(ctx, &b, 1, 50, "w1"))
			testutil.Must(t, l.Advance(ctx, b, 1, fed, 0))
		}
		_, _, err := l.Abort(ctx, b.ID, history.By{Actor: "ann"})
		testutil.Must(t, err)
		testutil.Must(t, l.FillAborted(ctx, b))
		b, err = l.Get(ctx, b.ID)
		testutil.Must(t, err)
		src, err := OpenRetry(ctx, l, b, []ledger.Outcome{ledger.Aborted}, nil)
		testutil.Must(t, err)
		if src.Links() != total {
			t.Fatalf("%d links", src.Links())
		}
		doubtful := 0 // links from the first on
		if started {
			doubtful = fed + task.MaxLookAhead + task.MaxSlice
		}
		for chunk := range b.Chunks {
			records, _, err := src.Restore(chunk, b.ChunkLen(chunk))
			testutil.Must(t, err)
			for i, r := range records {
				place := chunk*ledger.ChunkLinks + i
				if want := (ledger.Record{Ambiguous: place < doubtful}); r != want {
					t.Fatalf("started %v: link %d: %+v, want %+v", started, place, r, want)
				}
			}
		}
	}
}

func TestRetryOfADeletedBatch(t *testing.T) {
	broker := broker.Embedded()
	t.Cleanup(func() { _ = broker.Close() })
	ctx, l := t.Context(), ledger.New(broker.Client())
	b := parent(t, l, 2, map[int]ledger.Record{0: failed(true), 1: failed(false)})
	src, err := OpenRetry(ctx, l, b, []ledger.Outcome{ledger.Failed}, nil)
	testutil.Must(t, err)
	testutil.Must(t, l.Delete(ctx, b, history.By{Actor: "ann"}, time.Hour))
	if _, err := MakeBatch(ctx, l, src, BatchConfig{ID: "retry", Restore: src.Restore}); !errors.Is(err, ledger.ErrNoBatch) {
		t.Error(err)
	}
	if all, err := l.List(ctx); err != nil || len(all) > 0 {
		t.Errorf("left behind: %+v, %v", all, err)
	}
}
