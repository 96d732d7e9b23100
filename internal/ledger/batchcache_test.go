package ledger

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// readings notes which batches are read.
type readings struct {
	read []string
	all  int // how often all ids were listed
}

func (r *readings) DialHook(next redis.DialHook) redis.DialHook { return next }
func (r *readings) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "zrange" {
			r.all++
		}
		return next(ctx, cmd)
	}
}
func (r *readings) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if cmd.Name() == "hgetall" {
				r.read = append(r.read, cmd.Args()[1].(string))
			}
		}
		return next(ctx, cmds)
	}
}

// rereadEach is how many finished batches the cache under test reads again each time.
const rereadEach = 20

// batchCache is a cache under test.
type batchCache struct {
	*bench
	*BatchCache
	seen *readings
}

func (l *bench) batchCache() *batchCache {
	l.Helper()
	c := &batchCache{bench: l, seen: &readings{}}
	client := l.otherClient()
	client.AddHook(c.seen)
	c.BatchCache = New(client).NewBatchCache(rereadEach)
	return c
}

// count counts, and checks that at most so many batches were read for it.
func (c *batchCache) count(what string, most int) []Batch {
	c.Helper()
	c.seen.read = nil
	all, err := c.Batches(c.Context())
	c.must(err)
	got := []Batch{}
	for _, b := range all {
		got = append(got, *b)
	}
	if len(c.seen.read) > most {
		c.Errorf("%s: %d batches were read, %d at most are wanted: %v", what, len(c.seen.read), most, c.seen.read)
	}
	return got
}

// agrees counts, and compares with what the ledger has.
func (c *batchCache) agrees(what string, most int) {
	c.Helper()
	got := c.count(what, most)
	want, err := c.List(c.Context())
	c.must(err)
	if len(want) == 0 {
		want = []Batch{}
	}
	c.equal(what, want, got)
}

// finished makes a batch that is done, and retired.
func (l *bench) finished(id string, created time.Duration) Batch {
	l.Helper()
	d := l.create(DraftConfig{ID: id, Source: "import"})
	l.write(d, 1)
	l.must(d.Restore(l.Context(), 0, []Record{{Outcome: Cancelled, Attempts: 1, HTTPStatus: 204}}, nil))
	l.must(d.Seal(l.Context(), "digest", 0, 0))
	b := l.get(id)
	l.equal("state", Done, b.State)
	l.must(l.Retire(l.Context(), b, time.Hour))
	l.age(id, created)
	return b
}

// aborted makes a batch "b" of two links that was aborted some time ago, filled and retired.
func (l *bench) aborted(ago time.Duration) Batch {
	l.Helper()
	b := l.running(2)
	_, _, err := l.Abort(l.Context(), "b", history.By{Actor: "ann"})
	l.must(err)
	l.must(l.FillAborted(l.Context(), b))
	l.set("lc:{b}", "finished", l.ago(ago))
	b = l.get("b")
	l.must(l.Retire(l.Context(), b, time.Hour))
	return b
}

func TestBatchCache(t *testing.T) {
	hold(t, []rule{
		{"nothing is there", func(l *bench) {
			c := l.batchCache()
			c.agrees("at first", 0)
		}},
		{"only new ids are listed, unless the number does not fit", func(l *bench) {
			c := l.batchCache()
			for i := range 5 {
				l.finished(fmt.Sprintf("b%d", i), time.Hour)
			}
			c.agrees("at first", 5)
			c.seen.all = 0
			l.finished("new", 0)
			for range 10 {
				c.agrees("with a new one", 6)
			}
			l.equal("listings", 0, c.seen.all)
			l.must(l.Delete(l.Context(), l.get("b3"), history.By{Actor: "ann"}, time.Hour))
			c.agrees("without a deleted one", 6)
			l.equal("listings", 1, c.seen.all)
			// One goes, and an older one comes: the number is the same.
			l.must(l.Delete(l.Context(), l.get("b2"), history.By{Actor: "ann"}, time.Hour))
			l.finished("old", 2*time.Hour)
			for range relistEvery {
				c.count("after a while", 6)
			}
			c.agrees("in the end", 6)
		}},
		{"unfinished batches are read each time", func(l *bench) {
			c := l.batchCache()
			l.create(DraftConfig{ID: "importing", Source: "run"})
			l.running(3)
			c.agrees("at first", 2)
			l.commit(Entry{Record: Record{Outcome: NotFound}})
			c.agrees("after an outcome", 2)
			l.commit(Entry{Position: 1, Record: Record{Outcome: NotFound}}, Entry{Position: 2, Record: Record{Outcome: Failed}})
			c.agrees("done, but not retired", 2)
		}},
		{"finished batches are read once, then by turns", func(l *bench) {
			const many = 3 * rereadEach
			for i := range many {
				l.finished(fmt.Sprintf("f%03d", i), time.Duration(many-i)*time.Minute)
			}
			l.running(1)
			c := l.batchCache()
			c.agrees("at first", many+1)
			again := map[string]bool{}
			for range many/rereadEach + 1 {
				all := c.count("later", rereadEach+1)
				l.equal("the newest", "b", all[0].ID)
				l.equal("the oldest", "f000", all[many].ID)
				for _, key := range c.seen.read {
					again[key] = true
				}
			}
			l.equal("batches read again", many+1, len(again))
		}},
		{"one that is deleted or expired is no longer there", func(l *bench) {
			c := l.batchCache()
			for i := range 30 {
				l.finished(fmt.Sprintf("f%02d", i), time.Duration(30-i)*time.Minute)
			}
			c.agrees("at first", 30)
			l.must(l.Delete(l.Context(), l.get("f00"), history.By{Actor: "ann"}, time.Hour))
			c.agrees("after a deletion", rereadEach)
			l.must(l.rdb.Del(l.Context(), "lc:{f20}").Err())
			for range 2 { // its turn comes before that of Prune
				c.count("in turn", rereadEach)
			}
			if got := c.count("expired", rereadEach); slices.ContainsFunc(got, func(b Batch) bool { return b.ID == "f20" }) {
				l.Error("f20 has expired")
			}
		}},
		{"a deleted one may come again under its name", func(l *bench) {
			c := l.batchCache()
			for i := range 2 * rereadEach {
				l.finished(fmt.Sprintf("f%02d", i), -time.Minute)
			}
			old := l.finished("b", time.Minute)
			c.agrees("at first", 2*rereadEach+1)
			l.must(l.rdb.Del(l.Context(), batchKeys(old)...).Err())
			l.batch("b", 5, false)
			c.agrees("again", rereadEach+1)
		}},
		{"answers that come after an abort are seen at once", func(l *bench) {
			c := l.batchCache()
			l.aborted(0)
			c.agrees("at first", 1)
			l.commit(Entry{Record: Record{Outcome: Cancelled, Attempts: 1}})
			c.agrees("a late answer", 1)
		}},
		{"long after an abort, in turn", func(l *bench) {
			for i := range 2 * rereadEach {
				l.finished(fmt.Sprintf("f%02d", i), -time.Minute)
			}
			l.aborted(2 * lateAnswers)
			c := l.batchCache()
			c.agrees("at first", 2*rereadEach+1)
			l.commit(Entry{Record: Record{Outcome: Cancelled, Attempts: 1}})
			before := c.count("not yet", rereadEach)
			l.equal("remembered", int64(2), before[2*rereadEach].Counts[Aborted])
			c.agrees("in turn", rereadEach)
		}},
		{"one of a newer release is listed as such", func(l *bench) {
			c := l.batchCache()
			l.batch("b", 5, false)
			l.set("lc:{b}", "v", 9)
			c.agrees("newer", 1)
			c.agrees("newer", 1)
		}},
		{"after an error the next count is right", func(l *bench) {
			c := l.batchCache()
			for i := range 2 {
				l.finished(fmt.Sprintf("f%d", i), time.Minute)
			}
			c.agrees("at first", 2)
			ctx, cancel := context.WithCancel(l.Context())
			cancel()
			if _, err := c.Batches(ctx); err == nil {
				l.Error("no error")
			}
			c.agrees("after it", 2)
		}},
	})
}

func TestHead(t *testing.T) {
	hold(t, []rule{
		{"of a batch", func(l *bench) {
			b := l.running(1)
			head, err := l.Head(l.Context(), "b")
			l.must(err)
			l.equal("head", Head{State: Running, Source: "import", Created: b.Created}, head)
		}},
		{"of one that is gone", func(l *bench) {
			_, err := l.Head(l.Context(), "b")
			l.fails("head", err, ErrNoBatch)
		}},
	})
}
