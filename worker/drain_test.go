package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
)

// Two processes drain one batch at an API that does everything wrong.
func TestDrainWithAllFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				api := sandbox.New(sandbox.Config{
					Seed: seed, Links: 150, Paid: .1, Expired: .05, Cancelled: .1, Missing: .1,
					Faults: sandbox.Faults{
						Error500: .06, HTML502: .06, Cut: .06, CutBefore: .06, Hang: .03, HangApplied: seed == 0,
						BadRequest: .02, Forbidden: .01, Friendly: .05, Gets: true,
					},
					Latency: 20 * time.Millisecond, Jitter: 200 * time.Millisecond, Rate: 150,
				})
				t.Cleanup(api.Close)
				before := truth(api)
				b := f.batch("b1", api.IDs()...)
				f.work(Config{ID: "w1", Concurrency: 8, Rate: 100}, memory{api}, nil)
				f.work(Config{ID: "w2", Concurrency: 8, Rate: 100}, memory{api}, nil)
				f.feed(100)
				f.feed(100)
				f.done(b.ID)
				f.check(b.ID, api, before)
				if n := f.get(b.ID).Counts[ledger.Failed]; n > 0 {
					t.Errorf("%d links failed", n)
				}
				f.until("an empty queue", func() bool { return f.queued() == 0 })
			})
		})
	}
}

// The same in small over the network, on both kinds of Redis.
func TestDrain(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		t.Parallel()
		f := newFleet(t, b)
		api := sandbox.New(sandbox.Config{
			Seed: 7, Links: 150, Paid: .1, Expired: .1, Cancelled: .1, Missing: .1,
			Faults: sandbox.Faults{Error500: .04, HTML502: .04, Cut: .05, CutBefore: .04, BadRequest: .03, Friendly: .03},
			Rate:   400,
		})
		client := serve(t, api, 5*time.Second)
		before := truth(api)
		batch := f.batch("b1", api.IDs()...)
		p := f.work(Config{Rate: 500}, client, nil)
		f.feed(500)
		f.done(batch.ID)
		f.check(batch.ID, api, before)
		if err := p.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
		if alive, _, err := f.l.Workers(t.Context()); err != nil || len(alive) > 0 {
			t.Errorf("workers alive after the end: %v, %v", alive, err)
		}
	})
}

// lastRequest is when the sandbox got its latest request.
func lastRequest(s *sandbox.Server) time.Time {
	all := s.Requests()
	if len(all) == 0 {
		return time.Time{}
	}
	return all[len(all)-1].Time
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Seed: 1, Links: 400, Latency: 100 * time.Millisecond, KeepRequests: 1})
		before := truth(api)
		b := f.batch("b1", api.IDs()...)
		f.work(Config{Rate: 50, Concurrency: 8}, memory{api}, nil)
		f.feed(50)
		f.until("the middle", func() bool { return f.get(b.ID).Counts.Sum() >= 100 })
		_, _, err := f.l.Pause(t.Context(), b.ID, history.By{Reason: "a test", Auto: true})
		must(t, err)
		paused := time.Now()
		pass(10 * time.Minute)
		if late := lastRequest(api).Sub(paused); late > time.Second {
			t.Errorf("the last request came %v after the pause", late)
		}
		// The first three 204s were looked into.
		if got := f.get(b.ID); got.State != ledger.Paused || int(got.Counts.Sum())+3 != api.Counts().Total {
			t.Errorf("paused: %+v; %d requests", got, api.Counts().Total)
		}
		if n := f.queued(); n > 0 {
			t.Errorf("%d slices of a paused batch are in the queue", n)
		}
		_, _, err = f.l.Resume(t.Context(), b.ID, history.By{Actor: "ann"})
		must(t, err)
		f.done(b.ID)
		f.check(b.ID, api, before)
		again, err := f.l.Redeliveries(t.Context(), b.ID)
		if err != nil || len(again) > 0 {
			t.Errorf("slices counted as crashed: %v, %v", again, err)
		}
		for link, r := range f.records(b.ID) {
			if r.Record.Ambiguous || r.Record.Attempts != 1 {
				t.Errorf("%s: %+v", link, r.Record)
			}
		}
	})
}

func TestAbort(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Seed: 1, Links: 400, Latency: 700 * time.Millisecond, KeepRequests: 1})
		b := f.batch("b1", api.IDs()...)
		f.work(Config{Rate: 50, Concurrency: 40}, memory{api}, nil)
		f.feed(50)
		f.until("the middle", func() bool { return f.get(b.ID).Counts.Sum() >= 100 })
		_, _, err := f.l.Abort(t.Context(), b.ID, history.By{Actor: "ann"})
		must(t, err)
		aborted := time.Now()
		must(t, f.l.FillAborted(t.Context(), f.get(b.ID)))
		pass(5 * time.Minute)
		if late := lastRequest(api).Sub(aborted); late > time.Second {
			t.Errorf("the last request came %v after the abort", late)
		}
		got := f.get(b.ID)
		if got.State != ledger.AbortedState || got.Pending() != 0 || got.Finished.IsZero() {
			t.Errorf("aborted: %+v", got)
		}
		if n := f.queued(); n > 0 {
			t.Errorf("%d slices of an aborted batch are in the queue", n)
		}
		for link, r := range f.records(b.ID) {
			want := ledger.Aborted
			if api.Applied(link) == 1 { // some of them by calls in flight
				want = ledger.Cancelled
			}
			if r.Record.Outcome != want {
				t.Errorf("%s: %v, want %v", link, r.Record.Outcome, want)
			}
		}
	})
}

// A key that is wrong keeps a process's slices for 30 s at most.
func TestUnauthorizedGivesSlicesBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Seed: 1, Links: 100, Key: "other"})
		before := truth(api)
		b := f.batch("b1", api.IDs()...)
		var calls atomic.Int64
		bad := f.work(Config{ID: "bad", Rate: 20, Concurrency: 8, BadKey: func(error) { calls.Add(1) }}, memory{api}, nil)
		f.feed(20)
		f.until("a hold", func() bool {
			return bad.w.limiter.Status().Hold.Reason == ratelimit.ReasonUnauthorized && bad.w.Unsent() > 0
		})
		pass(time.Second)
		beats, _, err := f.l.Workers(t.Context())
		must(t, err)
		if len(beats) != 1 || !beats[0].Own || beats[0].Hold != "unauthorized" {
			t.Errorf("heartbeats %+v", beats)
		}
		began := time.Now()
		good := sandbox.New(sandbox.Config{Seed: 1, Links: 100})
		f.work(Config{ID: "good", Rate: 20, Concurrency: 8}, memory{good}, nil)
		f.done(b.ID)
		if took := time.Since(began); took > 20*time.Minute {
			t.Errorf("the other process was done after %v", took)
		}
		f.check(b.ID, good, before)
		for link, r := range f.records(b.ID) {
			if r.Record.Attempts != 1 || r.Record.Ambiguous {
				t.Errorf("%s: %+v", link, r.Record)
			}
		}
		if calls.Load() != 1 {
			t.Errorf("BadKey was called %d times", calls.Load())
		}
	})
}

func TestCanary(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{KeepRequests: 1})
		b, err := importer.MakeBatch(t.Context(), f.l, &ids{links: names(300)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport, Canary: true})
		must(t, err)
		f.work(Config{Rate: 50, Concurrency: 8}, memory{api}, nil)
		f.feed(50)
		f.until("the canary", func() bool { return f.get(b.ID).State == ledger.Paused })
		pass(time.Minute)
		got := f.get(b.ID)
		if got.Reason != "canary:not_found" || got.Counts[ledger.NotFound] < 50 || got.Counts.Sum() > 150 {
			t.Errorf("paused: %+v", got)
		}
		// They were not missing: a gateway said so.
		for _, id := range names(300) {
			api.SetStatus(id, "active")
		}
		asked := api.Counts().Total
		_, _, err = f.l.Resume(t.Context(), b.ID, history.By{Actor: "ann"})
		must(t, err)
		if n := f.get(b.ID).Pending(); n != 300 {
			t.Errorf("%d pending after the resume", n)
		}
		f.done(b.ID)
		if n := f.get(b.ID).Counts[ledger.Cancelled]; n != 300 || api.Counts().Total != asked+303 { // with the GETs that look into the first 204s
			t.Errorf("%d cancelled, %d requests after the resume", n, api.Counts().Total-asked)
		}
		for link, r := range f.records(b.ID) {
			if r.Record.Attempts != 1 || r.Record.Ambiguous {
				t.Errorf("%s: %+v", link, r.Record)
			}
		}
	})
}

// The last links of a batch may trip it: then it is not done, and comes to its end after a resume.
func TestCanaryAtTheEnd(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		links := names(1270)
		api := sandbox.New(sandbox.Config{})
		for _, id := range links[:1200] {
			api.SetStatus(id, "active")
		}
		b, err := importer.MakeBatch(t.Context(), f.l, &ids{links: links}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport, Canary: true})
		must(t, err)
		f.work(Config{Rate: 50, Concurrency: 8}, memory{api}, nil)
		f.feed(50)
		f.until("the canary", func() bool { return f.get(b.ID).Canary == "tripped" })
		pass(5 * time.Minute)
		got := f.get(b.ID)
		if got.State != ledger.Paused || got.Counts[ledger.Cancelled] != 1200 || got.Counts[ledger.NotFound] < 50 {
			t.Errorf("paused: %+v", got)
		}
		_, _, err = f.l.Resume(t.Context(), b.ID, history.By{Actor: "ann"})
		must(t, err)
		f.done(b.ID)
		if got := f.get(b.ID); got.Counts != (ledger.Counts{ledger.Cancelled: 1200, ledger.NotFound: 70}) {
			t.Errorf("%+v", got)
		}
		f.until("the end of the batch's time", func() bool { return f.b.Client().TTL(t.Context(), "lc:{b1}").Val() > 0 })
	})
}

// flights counts calls in flight.
type flights struct {
	mu        sync.Mutex
	now, most int
}

func (c *flights) begin() (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
	c.most = max(c.most, c.now)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now--
	}
}

func TestConcurrencyIsHeld(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Seed: 1, Links: 300, Paid: .3})
		before := truth(api)
		b := f.batch("b1", api.IDs()...)
		var c flights
		f.work(Config{Rate: 1000, Concurrency: 3}, through{memory{api}, func(context.Context, string, string) error {
			defer c.begin()()
			pass(100 * time.Millisecond)
			return nil
		}}, nil)
		f.feed(1000)
		f.done(b.ID)
		f.check(b.ID, api, before)
		if c.most != 3 {
			t.Errorf("%d calls in flight at most, want 3", c.most)
		}
	})
}

// Calls that hang give their places to others after a while.
func TestHangingCallsGivePlace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Seed: 1, Links: 100})
		t.Cleanup(api.Close)
		before := truth(api)
		hang := api.IDs()[:5]
		for _, id := range hang {
			api.Script(id, sandbox.Answer{Hang: true, Apply: true})
		}
		b := f.batch("b1", api.IDs()...)
		var mu sync.Mutex
		var last time.Time // of the requests for the other links
		f.work(Config{Rate: 1000, Concurrency: 5}, through{memory{api}, func(_ context.Context, _, id string) error {
			if !slices.Contains(hang, id) {
				mu.Lock()
				defer mu.Unlock()
				last = time.Now()
			}
			return nil
		}}, nil)
		began := time.Now()
		f.feed(1000)
		f.done(b.ID)
		f.check(b.ID, api, before)
		if took := last.Sub(began); took < slowCall || took >= memoryTimeout {
			t.Errorf("the other links were sent within %v, while 5 calls hung for %v", took, memoryTimeout)
		}
		for _, id := range hang {
			if r := f.records(b.ID)[id].Record; r.Outcome != ledger.Cancelled || !r.Ambiguous || r.Attempts != 2 {
				t.Errorf("%s hung: %+v", id, r)
			}
		}
	})
}

// A Redis that dies in mid-drain loses nothing, and nothing is sent without it.
func TestRedisDies(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	server := redistest.NewServer(t, "--appendonly", "yes", "--appendfsync", "always")
	server.Start(t)
	t.Cleanup(func() { server.Stop(t) })
	f := newFleet(t, redistest.Open(t, server.URL()))
	f.wait = 2 * time.Minute
	api := sandbox.New(sandbox.Config{Seed: 2, Links: 1000, Latency: 20 * time.Millisecond, Jitter: 100 * time.Millisecond})
	client := serve(t, api, 5*time.Second)
	before := truth(api)
	b := f.batch("b1", api.IDs()...)
	p := f.work(Config{Rate: 250, Concurrency: 30}, client, nil)
	f.feed(250)
	f.until("the middle", func() bool { return api.Counts().Total > 300 })
	server.Kill(t)
	// Calls in flight end, and a state read just before may serve for a second.
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	<-ticker.C
	n := api.Counts().Total
	<-ticker.C
	if more := api.Counts().Total - n; more > 0 {
		t.Errorf("%d requests while Redis was away", more)
	}
	server.Start(t)
	f.until("the end of the batch", func() bool {
		head, err := f.l.Head(t.Context(), b.ID) // go-redis finds the server again only after a while
		return err == nil && head.State == ledger.Done
	})
	f.check(b.ID, api, before)
	for link, r := range f.records(b.ID) {
		if r.Record.Outcome != ledger.Cancelled {
			t.Errorf("%s: %+v", link, r)
		}
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
}

// Without Redis the end comes all the same, and what could not be written is
// left to be taken for a crash.
func TestStopWithoutRedis(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	server := redistest.NewServer(t)
	server.Start(t)
	f := newFleet(t, redistest.Open(t, server.URL()))
	api := sandbox.New(sandbox.Config{IDs: names(3)})
	batch := f.batch("b1", names(3)...)
	f.start(&batch, 3)
	f.enqueue(task.Slice{Batch: "b1", Links: names(3)})
	called, dead := make(chan struct{}, 3), make(chan struct{})
	p := f.work(Config{DrainTimeout: 100 * time.Millisecond}, through{memory{api}, func(context.Context, string, string) error {
		called <- struct{}{}
		<-dead
		return nil
	}}, nil)
	for range 3 {
		<-called
	}
	server.Kill(t)
	close(dead)
	f.wait = 20 * time.Second // asynq alone would wait for its lease of 30 s
	if err := p.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
}
