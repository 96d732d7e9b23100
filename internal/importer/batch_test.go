package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

func TestMain(m *testing.M) {
	broker.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

// links is a source of links; before, if not nil, is asked before each.
type links struct {
	ids    []string
	before func(n int) error
	stats  Stats
	next   int
}

func (s *links) Next() (string, error) {
	if s.before != nil {
		if err := s.before(s.next); err != nil {
			return "", err
		}
	}
	if s.next == len(s.ids) {
		return "", io.EOF
	}
	s.next++
	return s.ids[s.next-1], nil
}

func (s *links) Stats() Stats { return s.stats }

func TestMakeBatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		for _, n := range []int{1, 999, 1000, 1001, 2013, 9000, 17_500} {
			ids := testutil.LinkIDs(n)
			confirmed := 0
			cfg := BatchConfig{
				ID: fmt.Sprint("b", n), Source: SourceImport, Name: "stale.csv", Canary: true,
				Confirm: func(s Stats) error {
					confirmed++
					if s.Duplicates != 3 {
						t.Errorf("Confirm is asked about %+v", s)
					}
					got, err := l.Get(t.Context(), fmt.Sprint("b", n))
					if err != nil || got.State != ledger.Importing {
						t.Errorf("Confirm is asked of a batch that is %v, %v", got.State, err)
					}
					return nil
				},
			}
			got, err := MakeBatch(t.Context(), l, &links{ids: ids, stats: Stats{Links: int64(n), Duplicates: 3, Invalid: 2}}, cfg)
			testutil.Must(t, err)
			digest, err := Digest(t.Context(), &links{ids: ids})
			testutil.Must(t, err)
			want := ledger.Batch{
				ID: cfg.ID, Source: SourceImport, Name: "stale.csv", State: ledger.Ready, Canary: "on", Digest: digest, Total: int64(n),
				Chunks: (n + 999) / 1000, Duplicates: 3, Invalid: 2, Created: got.Created, History: 1,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%d links: %s", n, diff)
			}
			if got.Created.IsZero() || confirmed != 1 {
				t.Errorf("%d links: created %v, confirmed %d times", n, got.Created, confirmed)
			}
			if diff := cmp.Diff(ids, testutil.Collect(t, l.AllLinks(t.Context(), got))); diff != "" {
				t.Errorf("%d links: %s", n, diff)
			}
		}
		// Without an id one is made up.
		got, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(1)}, BatchConfig{Source: SourceSweep, Created: time.UnixMilli(1_700_000_000_123)})
		testutil.Must(t, err)
		if ledger.CheckBatchID(got.ID) != nil || got.Source != SourceSweep || got.Created.UnixMilli() != 1_700_000_000_123 {
			t.Errorf("%+v", got)
		}
	})
}

// Either all links are to be cancelled, or none.
func TestMakeBatchLeavesNothingBehind(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		broken := errors.New("line 7: not an id")
		refused := errors.New("the user said no")
		for _, tt := range []struct {
			name string
			want error
			make func(ctx context.Context, cancel context.CancelFunc) (*links, BatchConfig)
		}{
			{"at the first link", broken, func(context.Context, context.CancelFunc) (*links, BatchConfig) {
				return &links{before: func(int) error { return broken }}, BatchConfig{}
			}},
			{"in the second chunk", broken, func(context.Context, context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(3000), before: errorAt(1500, broken)}, BatchConfig{}
			}},
			{"after many chunks", broken, func(context.Context, context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(30_000), before: errorAt(25_001, broken)}, BatchConfig{}
			}},
			{"at the end of the source", broken, func(context.Context, context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(3000), before: errorAt(3000, broken)}, BatchConfig{}
			}},
			{"refused", refused, func(context.Context, context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(3000)}, BatchConfig{Confirm: func(Stats) error { return refused }}
			}},
			{"interrupted", context.Canceled, func(_ context.Context, cancel context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(30_000), before: func(n int) error {
					if n == 12_345 {
						cancel()
					}
					return nil
				}}, BatchConfig{}
			}},
			{"interrupted while it asks", context.Canceled, func(_ context.Context, cancel context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(10)}, BatchConfig{Confirm: func(Stats) error { cancel(); return nil }}
			}},
			{"what is known from before is unreadable", broken, func(context.Context, context.CancelFunc) (*links, BatchConfig) {
				return &links{ids: testutil.LinkIDs(1500)}, BatchConfig{Restore: func(chunk, _ int) ([]ledger.Record, map[int]string, error) {
					if chunk == 0 {
						return make([]ledger.Record, 1000), map[int]string{1: "x"}, nil
					}
					return nil, nil, broken
				}}
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				src, cfg := tt.make(ctx, cancel)
				cfg.ID = "b1"
				if _, err := MakeBatch(ctx, l, src, cfg); !errors.Is(err, tt.want) {
					t.Errorf("MakeBatch = %v, want %v", err, tt.want)
				}
				if left := redistest.Keys(t, b.Client(), "*"); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
		// And the id is free again.
		_, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(10)}, BatchConfig{ID: "b1"})
		testutil.Must(t, err)
	})
}

func errorAt(n int, err error) func(int) error {
	return func(at int) error {
		if at == n {
			return err
		}
		return nil
	}
}

func TestMakeBatchAgain(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		first, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(2500)}, BatchConfig{ID: "b1", Name: "one"})
		testutil.Must(t, err)
		_, _, err = l.Pause(t.Context(), "b1", history.By{Reason: "", Auto: true})
		testutil.Must(t, err)
		again, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(2500)}, BatchConfig{
			ID: "b1", Name: "two", Confirm: func(Stats) error { return errors.New("asked though it stands") },
		})
		testutil.Must(t, err)
		first.State, first.History = ledger.Paused, 2
		if diff := cmp.Diff(first, again); diff != "" {
			t.Error(diff)
		}

		other := testutil.LinkIDs(2500)
		other[0], other[1] = other[1], other[0]
		for name, ids := range map[string][]string{"fewer": testutil.LinkIDs(2499), "more": testutil.LinkIDs(2501), "in another order": other, "none": nil} {
			_, err := MakeBatch(t.Context(), l, &links{ids: ids}, BatchConfig{ID: "b1"})
			if !errors.Is(err, ErrOtherLinks) {
				t.Errorf("%s links: %v", name, err)
			}
		}
		if got := testutil.Collect(t, l.AllLinks(t.Context(), again)); len(got) != 2500 || got[0] != testutil.LinkID(0) {
			t.Errorf("the batch has changed: %d links, first %s", len(got), got[0])
		}
		broken := errors.New("unreadable")
		if _, err := MakeBatch(t.Context(), l, &links{before: func(int) error { return broken }}, BatchConfig{ID: "b1"}); !errors.Is(err, broken) {
			t.Errorf("a source that cannot be read: %v", err)
		}
	})
}

func TestMakeBatchRestores(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		restore := func(all bool) func(int, int) ([]ledger.Record, map[int]string, error) {
			return func(chunk, links int) ([]ledger.Record, map[int]string, error) {
				records := make([]ledger.Record, links)
				for i := range records {
					switch {
					case all, i%3 == 0:
						records[i] = ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: 9}
					case i%3 == 1:
						records[i] = ledger.Record{Ambiguous: true, Attempts: 2}
					}
				}
				return records, map[int]string{0: fmt.Sprint("chunk ", chunk)}, nil
			}
		}
		got, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(1500)}, BatchConfig{ID: "part", Restore: restore(false)})
		testutil.Must(t, err)
		if got.State != ledger.Ready || got.Counts[ledger.Cancelled] != 334+167 || got.Pending() != 999 {
			t.Errorf("%+v", got)
		}
		n := 0
		for r, err := range l.Walk(t.Context(), got) {
			testutil.Must(t, err)
			want := ledger.LinkRecord{Link: testutil.LinkID(n)}
			switch n % 1000 % 3 {
			case 0:
				want.Record = ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: 9}
			case 1:
				want.Record = ledger.Record{Ambiguous: true, Attempts: 2}
			}
			if n%1000 == 0 {
				want.Error = fmt.Sprint("chunk ", n/1000)
			}
			if r != want {
				t.Fatalf("link %d: %+v, want %+v", n, r, want)
			}
			n++
		}
		got, err = MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(1500)}, BatchConfig{ID: "whole", Restore: restore(true)})
		testutil.Must(t, err)
		if got.State != ledger.Done || got.Pending() != 0 {
			t.Errorf("with all outcomes known: %+v", got)
		}
	})
}

// Two imports with one id.
func TestMakeBatchOfTwoImporters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := broker.Embedded()
		t.Cleanup(func() { _ = b.Close() })
		l := ledger.New(b.Client())
		slow := &links{ids: testutil.LinkIDs(3000), before: func(n int) error {
			if n != 2500 {
				return nil
			}
			// Meanwhile, at once: another is at work.
			if _, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(5)}, BatchConfig{ID: "b1"}); !errors.Is(err, ledger.ErrBusy) {
				t.Errorf("a second importer: %v", err)
			}
			<-time.After(time.Minute)
			// And much later: the first seems to be gone.
			_, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(1200)[100:]}, BatchConfig{ID: "b1"})
			if err != nil {
				t.Errorf("take over: %v", err)
			}
			return nil
		}}
		if _, err := MakeBatch(t.Context(), l, slow, BatchConfig{ID: "b1"}); !errors.Is(err, ledger.ErrTaken) {
			t.Errorf("the first importer: %v", err)
		}
		got, err := l.Get(t.Context(), "b1")
		testutil.Must(t, err)
		if diff := cmp.Diff(testutil.LinkIDs(1200)[100:], testutil.Collect(t, l.AllLinks(t.Context(), got))); diff != "" || got.State != ledger.Ready {
			t.Errorf("%v: %s", got.State, diff)
		}
	})
}

func TestDigest(t *testing.T) {
	of := func(ids ...string) string {
		d, err := Digest(t.Context(), &links{ids: ids})
		testutil.Must(t, err)
		return d
	}
	if of("ab", "c") == of("a", "bc") || of("a", "b") == of("b", "a") || of() == of("") {
		t.Error("other links, the same digest")
	}
	if one, same := of("a", "b"), of("a", "b"); one != same {
		t.Error("the same links, another digest")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Digest(ctx, &links{ids: testutil.LinkIDs(10)}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
