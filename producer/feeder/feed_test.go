package feeder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// yard is a ledger and a queue, in which the test plays the workers.
type yard struct {
	t   *testing.T
	b   *broker.Broker
	rdb redis.UniversalClient
	l   *ledger.Ledger
	i   *asynq.Inspector
}

func newYard(t *testing.T, b *broker.Broker) *yard {
	return &yard{t: t, b: b, rdb: b.Client(), l: ledger.New(b.Client()), i: asynq.NewInspectorFromRedisClient(b.Client())}
}

// inBubble runs a test on the embedded Redis with a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, y *yard)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, b *broker.Broker) { test(t, newYard(t, b)) })
}

// limit is the state of a limiter that allows what the workers' heartbeats say, or rate
// if there are none.
func (y *yard) limit(rate float64) func() ratelimit.Status {
	return func() ratelimit.Status {
		heartbeats, _, _ := y.l.Workers(y.t.Context())
		sum, least := 0.0, math.Inf(1)
		for _, h := range heartbeats {
			sum, least = sum+h.Rate, min(least, h.Rate)
		}
		if len(heartbeats) == 0 {
			sum, least = rate, rate
		}
		return ratelimit.Status{Rate: ratelimit.Rate(sum), Ceiling: ratelimit.Rate(least)}
	}
}

func (y *yard) feeder(rate float64) *Feeder {
	return New(Config{Limit: y.limit(rate), Keep: time.Hour, Log: slog.New(slog.DiscardHandler)}, y.rdb, y.l)
}

// tick lets a feeder do one round.
func (y *yard) tick(f *Feeder) (busy bool) {
	y.t.Helper()
	busy, err := f.tick(y.t.Context())
	testutil.Must(y.t, err)
	return busy
}

func (y *yard) batch(id, source string, n int) ledger.Batch {
	y.t.Helper()
	b, err := importer.MakeBatch(y.t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(n)}, importer.BatchConfig{ID: id, Source: source})
	testutil.Must(y.t, err)
	return b
}

func (y *yard) get(id string) ledger.Batch {
	y.t.Helper()
	b, err := y.l.Get(y.t.Context(), id)
	testutil.Must(y.t, err)
	return b
}

const (
	keyPending = "asynq:{cancel}:pending"
	keyActive  = "asynq:{cancel}:active"
	keyLease   = "asynq:{cancel}:lease"
	keyRetry   = "asynq:{cancel}:retry"
	keyTask    = "asynq:{cancel}:t:"
)

// take takes the next slice from the queue, as asynq's server does, with a
// lease that ends at the given time.
func (y *yard) take(lease time.Time) (s task.Slice, ok bool) {
	y.t.Helper()
	id, err := y.rdb.RPopLPush(y.t.Context(), keyPending, keyActive).Result()
	if errors.Is(err, redis.Nil) {
		return s, false
	}
	testutil.Must(y.t, err)
	testutil.Must(y.t, y.rdb.HSet(y.t.Context(), keyTask+id, "state", "active").Err())
	testutil.Must(y.t, y.rdb.HDel(y.t.Context(), keyTask+id, "pending_since").Err())
	testutil.Must(y.t, y.rdb.ZAdd(y.t.Context(), keyLease, redis.Z{Score: float64(lease.Unix()), Member: id}).Err())
	info, err := y.i.GetTaskInfo(task.QueueCancel, id)
	testutil.Must(y.t, err)
	s, err = task.Parse(info.Payload)
	testutil.Must(y.t, err)
	if s.ID() != id {
		y.t.Fatalf("task %s carries slice %s", id, s.ID())
	}
	return s, true
}

// drop takes a slice out of the queue, whatever became of it.
func (y *yard) drop(s task.Slice) {
	y.t.Helper()
	p := y.rdb.TxPipeline()
	p.LRem(y.t.Context(), keyActive, 0, s.ID())
	p.LRem(y.t.Context(), keyPending, 0, s.ID())
	p.ZRem(y.t.Context(), keyLease, s.ID())
	p.Del(y.t.Context(), keyTask+s.ID())
	_, err := p.Exec(y.t.Context())
	testutil.Must(y.t, err)
}

// all takes and drops all slices that wait.
func (y *yard) all() (slices []task.Slice) {
	y.t.Helper()
	for {
		s, ok := y.take(time.Now().Add(time.Minute))
		if !ok {
			return slices
		}
		y.drop(s)
		slices = append(slices, s)
	}
}

// settle gives links of a slice their outcome.
func (y *yard) settle(s task.Slice, positions ...int) {
	y.t.Helper()
	g := ledger.Group{Batch: s.Batch, Chunk: s.Chunk}
	if len(positions) == 0 {
		for i := range s.Links {
			positions = append(positions, i)
		}
	}
	for _, i := range positions {
		g.Entries = append(g.Entries, ledger.Entry{Position: s.Index + i, Record: ledger.Record{Outcome: ledger.Cancelled}})
	}
	testutil.Must(y.t, y.l.Commit(y.t.Context(), []ledger.Group{g})[0].Err)
}

func (y *yard) beat(id string, rate float64, unsent int) {
	y.t.Helper()
	testutil.Must(y.t, y.l.Heartbeat(y.t.Context(), ledger.WorkerBeat{ID: id, Rate: rate, Unsent: unsent}))
}

func ids(all []task.Slice) (names []string) {
	for _, s := range all {
		s.Incarnation = 0
		names = append(names, s.ID())
	}
	slices.Sort(names)
	return names
}

// Slices lie on a grid: none reaches over the end of a chunk, and all links are fed once.
func TestSliceGrid(t *testing.T) {
	for _, tt := range []struct {
		rate  float64
		slice int
		known int // links that have their outcomes already
	}{{0.1, 1, 980}, {2, 4, 980}, {14, 20, 980}, {50, 25, 475}, {100, 50, 0}, {5000, 50, 150}} {
		t.Run(fmt.Sprint(tt.rate), func(t *testing.T) {
			inBubble(t, func(t *testing.T, y *yard) {
				total := tt.known + 1033
				if tt.slice == 1 {
					total = 1013
				}
				b := y.batch("b1", importer.SourceImport, total)
				f := y.feeder(tt.rate)
				at := tt.known
				if at > 0 {
					testutil.Must(t, y.l.Start(t.Context(), &b, 0, tt.slice, "w1"))
					y.settle(task.Slice{Batch: "b1", Links: testutil.LinkIDs(at)})
				}
				for y.get("b1").Cursor < int64(total) {
					y.tick(f)
					all := y.all()
					slices.SortFunc(all, func(a, b task.Slice) int {
						return (a.Chunk-b.Chunk)*ledger.ChunkLinks + a.Index - b.Index
					})
					for _, s := range all {
						want := min(tt.slice, ledger.ChunkLinks-at%ledger.ChunkLinks, total-at)
						if s.Batch != "b1" || s.Redeliveries != 0 || s.Chunk*ledger.ChunkLinks+s.Index != at || len(s.Links) != want {
							t.Fatalf("slice %s with %d links at link %d, want %d links", s.ID(), len(s.Links), at, want)
						}
						if !slices.Equal(s.Links, testutil.LinkIDs(total)[at:at+want]) {
							t.Fatalf("slice %s has other links", s.ID())
						}
						at += want
						y.settle(s)
					}
					if got := y.get("b1"); got.Cursor != int64(at) || got.Slice != tt.slice || got.State == ledger.Ready || got.Started.IsZero() {
						t.Fatalf("at link %d: %+v", at, got)
					}
					testutil.Advance(time.Second)
				}
				if at != total {
					t.Errorf("%d links fed", at)
				}
			})
		})
	}
}

// The slice size of a batch is fixed when it is first fed, also for later leaders.
func TestSliceSizeStays(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 1500)
		f := y.feeder(14)
		y.tick(f)
		first := y.all()
		f.resign()
		testutil.Advance(10 * time.Millisecond)
		y.beat("w", 1000, 0)
		f = y.feeder(1000)
		y.tick(f)
		for _, s := range append(first, y.all()...) {
			if s.Index%20 != 0 || len(s.Links) > 20 {
				t.Errorf("slice %s has %d links", s.ID(), len(s.Links))
			}
		}
	})
}

// What waits in the queue and unsent with the workers stays within the look-ahead, however late
// these tell, if one with nothing in hand tells at once when that changes.
func TestLookAhead(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, y *yard) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				const total = 6000
				const workers, rate = 3, 60.0
				y.batch("b1", importer.SourceImport, total)
				f := y.feeder(10)
				most := capacity{rate: workers * rate, ceiling: rate, workers: workers}
				size := most.sliceSize()
				bound := most.lookAhead(size, 0) + size - 1 // the last slice may reach over
				var unsent, told [workers]int
				var next [workers]time.Time
				for w := range workers {
					y.beat(fmt.Sprint("w", w), rate, 0)
				}
				fullest, sent, taken := 0, 0, 0
				for range 250 {
					testutil.Advance(100 * time.Millisecond)
					for w := range workers {
						// Links are sent, …
						n := min(unsent[w], rnd.IntN(13))
						unsent[w] -= n
						sent += n
						// … slices taken, sometimes many at once, …
						for range rnd.IntN(4) * rnd.IntN(4) {
							if s, ok := y.take(time.Now().Add(time.Hour)); ok {
								unsent[w] += len(s.Links)
								taken += len(s.Links)
							}
						}
						// … and told late, but for the first after idleness.
						if !time.Now().Before(next[w]) || told[w] == 0 && unsent[w] > 0 {
							y.beat(fmt.Sprint("w", w), rate, unsent[w])
							told[w] = unsent[w]
							next[w] = time.Now().Add(time.Duration(rnd.IntN(1800)) * time.Millisecond)
						}
					}
					y.tick(f)
					now := int(y.get("b1").Cursor) - taken
					for w := range workers {
						now += unsent[w]
					}
					fullest = max(fullest, now)
					if now > bound {
						t.Fatalf("%d links wait, look-ahead %d", now, bound)
					}
				}
				if fullest < bound/2 || sent < 600 {
					t.Errorf("at most %d links waited of %d, %d were sent: the workers starve", fullest, bound, sent)
				}
			})
		})
	}
}

// Where the workers send far less than the limit, little waits, so that a new batch is not late. Where
// they send as much, they do not starve.
func TestLookAheadFollowsThePace(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		const workers, limit, step = 2, 20_000, 100 * time.Millisecond
		y.batch("b1", importer.SourceImport, 110_000)
		f := y.feeder(limit)
		var unsent [workers]int
		taken := 0
		// drive lets the workers send at a pace, and returns how much they sent and how much waited at the end.
		drive := func(pace int, length time.Duration) (sent, waiting int) {
			for range length / step {
				testutil.Advance(step)
				for w := range workers {
					for unsent[w] < pace/10 {
						s, ok := y.take(time.Now().Add(time.Hour))
						if !ok {
							break
						}
						taken += len(s.Links)
						unsent[w] += len(s.Links)
						y.settle(s) // so that it does not count as lost
						y.drop(s)
					}
					n := min(unsent[w], pace/10/workers)
					unsent[w] -= n
					sent += n
					y.beat(fmt.Sprint("w", w), limit/workers, unsent[w])
				}
				y.tick(f)
			}
			waiting = int(y.get("b1").Cursor) - taken
			for _, n := range unsent {
				waiting += n
			}
			return sent, waiting
		}
		// At first the look-ahead grows. The first round has nothing to send.
		if sent, waiting := drive(16_000, 2*time.Second); sent < 26_000 || waiting < 14_000 {
			t.Errorf("at 16,000/s: %d sent in the first 2 s, %d wait", sent, waiting)
		}
		if sent, _ := drive(16_000, time.Second); sent != 16_000 {
			t.Errorf("at 16,000/s: %d sent in 1 s", sent)
		}
		// What waits already is sent first.
		drive(2000, 8*time.Second)
		if sent, waiting := drive(2000, 4*time.Second); sent != 8000 || waiting < 4000 || waiting > 9000 {
			t.Errorf("at 2,000/s: %d sent in 4 s, %d wait", sent, waiting)
		}
		drive(100, 20*time.Second)
		if sent, waiting := drive(100, time.Second); sent != 100 || waiting < sparse/2 || waiting > 7000 {
			t.Errorf("at 100/s: %d sent in 1 s, %d wait", sent, waiting)
		}
		if sent, _ := drive(16_000, 2*time.Second); sent < 26_000 {
			t.Errorf("at 16,000/s again: %d sent in 2 s", sent)
		}
	})
}

func TestCapacity(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		f := y.feeder(30)
		testutil.Must(t, f.lead(t.Context()))
		check := func(what string, rate, ceiling float64, workers, unsent, slice, ahead int) {
			t.Helper()
			fl, err := f.term.capacity(t.Context())
			testutil.Must(t, err)
			if fl.rate != rate || fl.ceiling != ceiling || fl.workers != workers || fl.unsent != unsent {
				t.Errorf("%s: %+v", what, fl)
			}
			// The workers send all that they may.
			s := fl.sliceSize()
			if got := fl.lookAhead(s, math.MaxInt); s != slice || got != ahead {
				t.Errorf("%s: slices of %d, look-ahead %d; want %d, %d", what, s, got, slice, ahead)
			}
		}
		check("none alive", 30, 30, 0, 0, 20, 60)
		y.beat("a", 10, 7)
		check("one", 10, 10, 1, 7, 20, 20)
		y.beat("b", 100, 50)
		check("two", 110, 10, 2, 57, 20, 220)
		testutil.Advance(silentWorker)
		y.beat("b", 100, 40)
		check("one of them silent", 110, 10, 2, 40, 20, 220)
		testutil.Must(t, y.l.Heartbeat(t.Context(), ledger.WorkerBeat{ID: "b", Rate: 100, Unsent: 40, Hold: "unauthorized", Own: true}))
		check("the other in its own hold", 110, 10, 2, 0, 20, 220)
		testutil.Advance(time.Minute)
		y.beat("c", 0.01, 1)
		check("a slow one", 0.01, 0.01, 1, 1, 1, 1)
		testutil.Must(t, y.l.Deregister(t.Context(), "c"))
		y.beat("d", 5000, 0)
		check("one of many", 5000, 5000, 1, 0, task.SmallSlice, 10_000)
		y.beat("d", 12_000, 0)
		check("a quick one", 12_000, 12_000, 1, 0, 120, task.MaxLookAhead)
		y.beat("d", 1e6, 0)
		check("a fast one", 1e6, 1e6, 1, 0, task.MaxSlice, task.MaxLookAhead)
	})
}

// Batches take turns, imports before sweeps 4:1.
func TestTurns(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		for _, b := range []struct {
			id, source string
			n          int
		}{{"a", importer.SourceImport, 200}, {"b", importer.SourceRun, 1000}, {"c", importer.SourceImport, 400}, {"s1", importer.SourceSweep, 300}, {"s2", importer.SourceSweep, 1000}} {
			y.batch(b.id, b.source, b.n)
		}
		f := y.feeder(100)
		testutil.Must(t, f.lead(t.Context()))
		open, err := f.term.load(t.Context())
		testutil.Must(t, err)
		var got []string
		turn := func(links int) {
			next, n, err := f.term.gather(t.Context(), open, links, 50)
			testutil.Must(t, err)
			if left := 2900 - 50*len(got); n != min(links, left) {
				t.Fatalf("%d links, want %d of %d", n, links, left)
			}
			for _, s := range next {
				got = append(got, s.Batch)
			}
		}
		turn(50) // the turns go on over rounds
		turn(50)
		turn(2000)
		turn(10_000)
		want := strings.Fields("a b c a s1  b c a b s2  c a b c s1  b c b c s2  b c b c s1  b b b b s2  b b b b s1  b b b b s2  s1 s2 s1 s2 s2")
		if diff := cmp.Diff(want, got[:min(len(got), len(want))]); diff != "" {
			t.Errorf("turns: %s", diff)
		}
		if len(got) != 2900/50 {
			t.Errorf("%d slices", len(got))
		}
		if next, _, err := f.term.gather(t.Context(), open, 100, 50); err != nil || len(next) > 0 {
			t.Errorf("more: %v, %v", next, err)
		}
	})
}

// Verifications have one turn of 21 while there is other work.
func TestVerificationsComeLast(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("a", importer.SourceImport, 2000)
		y.batch("s", importer.SourceSweep, 6000)
		y.batch("v", ledger.SourceVerify, 2000)
		f := y.feeder(100)
		testutil.Must(t, f.lead(t.Context()))
		open, err := f.term.load(t.Context())
		testutil.Must(t, err)
		turns := func(n int) map[string]int {
			next, _, err := f.term.gather(t.Context(), open, n*50, 50)
			testutil.Must(t, err)
			got := map[string]int{}
			for _, s := range next {
				got[s.Batch]++
				if s.Verify != (s.Batch == "v") {
					t.Errorf("slice %s: verify is %t", s.ID(), s.Verify)
				}
			}
			return got
		}
		if diff := cmp.Diff(map[string]int{"a": 32, "s": 8, "v": 2}, turns(42)); diff != "" {
			t.Error(diff)
		}
		turns(42) // with the rest of the import
		if got := turns(42); got["v"] != 2 || got["s"] != 40 {
			t.Errorf("without imports: %v", got)
		}
	})
}

// A batch that is deleted in the middle does not stop the others.
func TestFeedWithoutDeletedBatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		y.batch("a", importer.SourceImport, 500)
		y.batch("b", importer.SourceImport, 500)
		f := y.feeder(100)
		testutil.Must(t, f.lead(t.Context()))
		open, err := f.term.load(t.Context())
		testutil.Must(t, err)
		testutil.Must(t, y.rdb.Del(t.Context(), "lc:{a}", "lc:{a}:m:0").Err())
		testutil.Must(t, f.term.feed(t.Context(), open))
		for _, s := range y.all() {
			if s.Batch != "b" {
				t.Errorf("slice %s", s.ID())
			}
		}
		y.tick(f)
		if got := y.get("b"); got.Cursor == 0 {
			t.Errorf("not fed: %+v", got)
		}
	})
}

// A batch with the id of a deleted one is a batch of its own: nothing that is
// known of the other is used for it.
func TestIDOfADeletedBatch(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		first := y.batch("b1", importer.SourceImport, 30)
		f := y.feeder(100)
		y.tick(f)
		for _, s := range y.all() {
			y.settle(s)
		}
		testutil.Must(t, y.l.Delete(t.Context(), y.get("b1"), history.By{Actor: "ann"}, time.Hour))
		other := &importer.Links{IDs: []string{"pl_other"}}
		_, err := importer.MakeBatch(t.Context(), y.l, other, importer.BatchConfig{ID: "b1", Source: importer.SourceImport})
		if !errors.Is(err, ledger.ErrDeleted) {
			t.Fatalf("the id of a batch that was deleted just now: %v", err)
		}
		testutil.Must(t, y.rdb.Del(t.Context(), "lc:{b1}:gone").Err()) // two minutes later
		testutil.Advance(2 * time.Minute)
		second, err := importer.MakeBatch(t.Context(), y.l, other, importer.BatchConfig{ID: "b1", Source: importer.SourceImport})
		testutil.Must(t, err)
		y.tick(f)
		fed := y.all()
		if len(fed) != 1 || !slices.Equal(fed[0].Links, []string{"pl_other"}) || fed[0].Incarnation != second.Incarnation() || first.Incarnation() == second.Incarnation() {
			t.Errorf("fed of the second batch: %+v", fed)
		}
	})
}

func TestPausedBatchesAreNotFed(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 500)
		_, _, err := y.l.Pause(t.Context(), "b1", history.By{Reason: "", Auto: true})
		testutil.Must(t, err)
		f := y.feeder(100)
		if y.tick(f) || len(y.all()) > 0 {
			t.Error("fed while paused")
		}
		_, _, err = y.l.Resume(t.Context(), "b1", history.By{Actor: "ann"})
		testutil.Must(t, err)
		if !y.tick(f) || len(y.all()) == 0 {
			t.Error("not fed after the resume")
		}
	})
}

// Slices without a pending link are passed over; what is in the queue already is left alone.
func TestFeedSkips(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		first := y.batch("b1", importer.SourceImport, 2000)
		testutil.Must(t, y.l.Start(t.Context(), &first, 0, 50, "w1"))
		for at := 0; at < 1000; at += 50 { // all of the first chunk but three links
			s := task.Slice{Batch: "b1", Index: at, Links: testutil.LinkIDs(1000)[at : at+50]}
			if at == 150 {
				y.settle(s, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
			} else {
				y.settle(s)
			}
		}
		known := task.Slice{Batch: "b1", Incarnation: first.Incarnation(), Chunk: 1, Links: testutil.LinkIDs(1050)[1000:]}
		tk, err := known.Task()
		testutil.Must(t, err)
		_, err = asynq.NewClientFromRedisClient(y.rdb).Enqueue(tk)
		testutil.Must(t, err)
		f := y.feeder(100)
		y.tick(f)
		// One slice of 50 waits; there is room for 150 more: 40 pending links of
		// the first chunk, and 3 slices of the second, one of them known.
		want := []string{"b1:0:150", "b1:1:0", "b1:1:100", "b1:1:50"}
		if diff := cmp.Diff(want, ids(y.all())); diff != "" {
			t.Error(diff)
		}
		if got := y.get("b1"); got.Cursor != 1150 {
			t.Errorf("cursor %d", got.Cursor)
		}
	})
}

func TestBackoffStopsFeeding(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newYard(t, b)
		y.batch("b1", importer.SourceImport, 2000)
		f := y.feeder(100)
		y.tick(f)
		if len(y.all()) == 0 {
			t.Fatal("not fed")
		}
		p := y.rdb.Pipeline()
		for n := range maxRetrying + 1 {
			member := fmt.Sprintf("other:%d", n)
			p.ZAdd(t.Context(), keyRetry, redis.Z{Score: 4e9 + float64(n), Member: member})
			if n < 100 { // asynq looks at some of them
				p.HSet(t.Context(), keyTask+member, "state", "retry")
			}
		}
		_, err := p.Exec(t.Context())
		testutil.Must(t, err)
		f.term.rounds = nil // as if long ago
		y.tick(f)
		if all := y.all(); len(all) > 0 {
			t.Errorf("fed %v", ids(all))
		}
		testutil.Must(t, y.rdb.ZRem(t.Context(), keyRetry, fmt.Sprintf("other:%d", maxRetrying)).Err())
		y.tick(f)
		if len(y.all()) == 0 {
			t.Error("not fed when it is room again")
		}
	})
}

func TestLeaders(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		y.batch("b1", importer.SourceImport, 5000)
		one, two := y.feeder(10), y.feeder(10)
		y.tick(one)
		if _, err := two.tick(t.Context()); !errors.Is(err, ledger.ErrNotLeader) || two.term != nil {
			t.Fatalf("two leaders: %v", err)
		}
		// The first renews its lease.
		for range 10 {
			testutil.Advance(leaseTTL / 2)
			y.tick(one)
		}
		if one.term.epoch != 1 {
			t.Errorf("epoch %d after renewals", one.term.epoch)
		}
		// It stalls, and the other takes over.
		y.all()
		testutil.Advance(leaseTTL + time.Millisecond)
		y.tick(two)
		if two.term.epoch != 2 {
			t.Errorf("epoch %d of the second leader", two.term.epoch)
		}
		cursor := y.get("b1").Cursor
		// The first goes on where it was, not knowing.
		one.renewed = time.Now()
		one.term.rounds = nil
		y.all()
		if _, err := one.tick(t.Context()); !errors.Is(err, ledger.ErrNotLeader) {
			t.Errorf("the first leader: %v", err)
		}
		if got := y.get("b1").Cursor; got != cursor {
			t.Errorf("it moved the cursor from %d to %d", cursor, got)
		}
		one.term = nil
		if _, err := one.tick(t.Context()); !errors.Is(err, ledger.ErrNotLeader) {
			t.Errorf("the first leader, asking: %v", err)
		}
		two.resign()
		testutil.Advance(10 * time.Millisecond)
		y.tick(one)
		if one.term.epoch != 3 {
			t.Errorf("epoch %d after the resignation", one.term.epoch)
		}
	})
}

// Feeders that run: one at a time leads, and the next goes on at once when it ends.
func TestRun(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		const total = 1000
		y.batch("b1", importer.SourceImport, total)
		y.beat("w", 20, 0)
		run := func() (stop func()) {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			f := y.feeder(20)
			go func() {
				defer close(ended)
				f.Run(ctx)
			}()
			return func() { cancel(); <-ended }
		}
		stop := run()
		testutil.Advance(time.Millisecond)
		defer run()() // follows
		seen := map[string]bool{}
		for n := 0; len(seen) < total/20; n++ {
			testutil.Advance(500 * time.Millisecond)
			y.beat("w", 20, 0)
			for _, s := range y.all() {
				if seen[s.ID()] {
					t.Errorf("%s twice", s.ID())
				}
				seen[s.ID()] = true
				y.settle(s)
			}
			if n == 10 {
				stop()
			}
			if n > 200 {
				t.Fatalf("%d slices after %d rounds", len(seen), n)
			}
		}
		testutil.Advance(5 * time.Second)
		if got := y.get("b1"); got.State != ledger.Done {
			t.Errorf("%+v", got)
		}
		if ttl := y.rdb.TTL(t.Context(), "lc:{b1}").Val(); ttl <= 0 || ttl > time.Hour {
			t.Errorf("a finished batch is kept for %v", ttl)
		}
	})
}

// Batches of a kind share the turns by their priority, which may change meanwhile.
func TestPriorities(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		for id, terms := range map[string]ledger.Terms{"a": {Priority: ledger.PriorityLow}, "b": {}, "c": {Priority: ledger.PriorityHigh}} {
			_, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(20_000)}, importer.BatchConfig{ID: id, Source: importer.SourceImport, Terms: terms})
			testutil.Must(t, err)
		}
		y.batch("s", importer.SourceSweep, 20_000)
		f := y.feeder(100)
		testutil.Must(t, f.lead(t.Context()))
		turns := func(n int) map[string]int {
			open, err := f.term.load(t.Context())
			testutil.Must(t, err)
			next, _, err := f.term.gather(t.Context(), open, n*50, 50)
			testutil.Must(t, err)
			for _, b := range open {
				testutil.Must(t, b.advance(t.Context(), y.l, f.term.epoch))
			}
			got := map[string]int{}
			for _, s := range next {
				got[s.Batch]++
			}
			return got
		}
		if diff := cmp.Diff(map[string]int{"a": 8, "b": 16, "c": 32, "s": 14}, turns(70)); diff != "" {
			t.Error(diff)
		}
		for id, p := range map[string]ledger.Priority{"a": ledger.PriorityHigh, "c": ledger.PriorityLow} {
			_, _, err := y.l.SetPriority(t.Context(), id, p, history.By{Actor: "ann"})
			testutil.Must(t, err)
		}
		got := turns(70)
		if got["a"] < 31 || got["a"] > 33 || got["c"] < 7 || got["c"] > 9 || got["s"] != 14 {
			t.Errorf("after the change: %v", got)
		}
		// A batch that comes later has a head start, and then no more than its share.
		y.batch("d", importer.SourceImport, 20_000)
		if got := turns(70); got["d"] < 9+headStart || got["d"] > 13+headStart {
			t.Errorf("a new one: %v", got)
		}
		if got := turns(70); got["d"] < 9 || got["d"] > 13 {
			t.Errorf("a new one, later: %v", got)
		}
		y.batch("e", importer.SourceImport, 50*headStart)
		if got := turns(headStart + 2); got["e"] != headStart {
			t.Errorf("a small one: %v", got)
		}
	})
}

// Nothing of a batch is fed before its time.
func TestNotBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		at := time.Now().Add(time.Hour)
		_, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(10)}, importer.BatchConfig{ID: "later", Source: importer.SourceImport, Terms: ledger.Terms{NotBefore: at}})
		testutil.Must(t, err)
		y.batch("now", importer.SourceImport, 10)
		f := y.feeder(100)
		y.ticks(f, 10*time.Second)
		if all := y.all(); len(all) != 1 || all[0].Batch != "now" {
			t.Errorf("fed %v", ids(all))
		}
		testutil.Advance(time.Until(at) - time.Second)
		y.tick(f)
		if all := y.all(); len(all) != 0 {
			t.Errorf("fed a second before: %v", ids(all))
		}
		testutil.Advance(2 * time.Second)
		y.tick(f)
		if all := y.all(); len(all) != 1 || all[0].Batch != "later" {
			t.Errorf("fed %v", ids(all))
		}
	})
}
