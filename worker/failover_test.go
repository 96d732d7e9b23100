package worker

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
)

// drained is what a failover of Redis did to a drain.
type drained struct {
	dark  time.Duration // from the crash to the next request
	took  time.Duration // from the crash to the end
	most  int           // requests in the fullest second
	twice int           // links whose DELETE was sent more than once
	doubt int           // links whose earlier attempt could not be ruled out
}

// drain is a drain of a batch by two processes.
type drain struct {
	url        string // of Redis
	otherURL   string // for the second process; "": the same
	otherLeads bool   // the second process has the lease of the leader
}

// failover is drain.run with one URL of Redis.
func failover(t *testing.T, url string, crash func(*fleet)) drained {
	t.Helper()
	return drain{url: url}.run(t, crash)
}

// run drains a batch with two processes of little concurrency, so that what they send was
// hardly ever taken from the queue long before, and calls crash in the middle, which breaks
// something. No link may be lost, nor be called someone else's that is ours.
func (r drain) run(t *testing.T, crash func(*fleet)) drained {
	t.Helper()
	const links, rate = 500, 80
	f, other := newFleet(t, redistest.Open(t, r.url)), newFleet(t, redistest.Open(t, cmp.Or(r.otherURL, r.url)))
	f.wait, other.wait = 3*time.Minute, 3*time.Minute
	api := sandbox.New(sandbox.Config{Seed: 1, Links: links, Cancelled: .05, Latency: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, KeepRequests: 20 * links})
	client := serve(t, api, 5*time.Second)
	before := truth(api)
	b := f.batch("b1", api.IDs()...)
	for i, one := range []*fleet{f, other} {
		id := fmt.Sprint("w", i)
		one.work(Config{ID: id, Rate: rate, Concurrency: 1}, client, one.limiter(id, ratelimit.Config{Rate: rate}))
	}
	leader, next := f, other
	if r.otherLeads {
		leader, next = other, f
	}
	leader.feed(rate)
	f.until("a leader", func() bool { return f.b.Client().Exists(t.Context(), "lc:feeder").Val() == 1 })
	next.feed(rate)
	f.until("the middle", func() bool { return api.Counts().Total > links/4 })
	crash(f)
	crashed := time.Now()
	f.done(b.ID)
	d := drained{took: time.Since(crashed)}
	f.check(b.ID, api, before)
	deletes := map[string]int{}
	for _, r := range api.Requests() {
		if r.Method == http.MethodDelete {
			deletes[r.ID]++
		}
		// What was on its way when the server died came within a second.
		if after := r.Time.Sub(crashed); d.dark == 0 && after > 1100*time.Millisecond {
			d.dark = after
		}
	}
	if d.most = fullest(api.Requests()); d.most > rate+rate/20 {
		t.Errorf("%d requests in the fullest second, at %d/s", d.most, rate)
	}
	for link, r := range f.records(b.ID) {
		if deletes[link] > 1 {
			d.twice++
		}
		if r.Record.Ambiguous {
			d.doubt++
		}
	}
	t.Logf("requests went on after %.1f s, the end came after %.1f s; %d links sent twice, %d in doubt; the fullest second had %d",
		d.dark.Seconds(), d.took.Seconds(), d.twice, d.doubt, d.most)
	return d
}

// limiter is that of a process of the fleet.
func (f *fleet) limiter(id string, cfg ratelimit.Config) *ratelimit.Fleet {
	f.t.Helper()
	l, err := ratelimit.NewFleet(ratelimit.FleetConfig{
		Config: cfg, Redis: f.b.Client(), Process: id, Log: f.log,
	})
	must(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	f.t.Cleanup(func() { cancel(); <-ended })
	return l
}

// fullest is the most requests within a second.
func fullest(requests []sandbox.Request) (most int) {
	first := 0
	for i, r := range requests {
		for r.Time.Sub(requests[first].Time) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// sentinelFailover crashes a server that has had no word to its replicas for lag.
func sentinelFailover(t *testing.T, replicas int, lag time.Duration) drained {
	s := redistest.StartSentinel(t, replicas)
	return failover(t, s.URL(), func(*fleet) {
		master := s.Master(t)
		redistest.Crash(t, master, lag, s.Replicas(master)...)
	})
}

// clusterFailover crashes the server of a cluster that has a key.
func clusterFailover(t *testing.T, key string, lag time.Duration) drained {
	c := redistest.StartCluster(t, 3, true)
	return failover(t, c.URL(), func(f *fleet) {
		master := c.Owner(t, f.b.Client(), key)
		redistest.Crash(t, master, lag, c.Replicas(master)...)
	})
}

// lossy is a lag in which outcomes are certainly recorded: they wait up to linger for others.
const lossy = linger + 500*time.Millisecond

// What a master wrote in its last 1.5 s is lost, and what was sent is not forgotten all the same.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	if d := sentinelFailover(t, 1, lossy); d.twice == 0 || d.doubt == 0 {
		t.Error("nothing was lost, and the test shows nothing")
	}
}

func TestClusterFailover(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	if d := clusterFailover(t, "lc:{b1}", lossy); d.twice == 0 || d.doubt == 0 {
		t.Error("nothing was lost, and the test shows nothing")
	}
}

// A server of a cluster without replicas comes back on its AOF, and work continues.
func TestClusterServerComesBack(t *testing.T) {
	t.Parallel()
	if !redistest.Have(t) {
		t.Log("left out: there is no redis-server")
		return
	}
	c := redistest.StartCluster(t, 3, false, "--appendonly", "yes")
	d := failover(t, c.URL(), func(f *fleet) {
		master := c.Owner(t, f.b.Client(), "lc:{b1}")
		master.Kill(t)
		master.Start(t)
	})
	if d.twice > 0 {
		t.Errorf("%d links were sent twice", d.twice)
	}
}

// figures collects what some runs of each kind show, for docs/testing.md (make failover).
type figures struct {
	mu   sync.Mutex
	runs map[string][]drained
}

// newFigures prints the figures at the end of the test.
func newFigures(t *testing.T) *figures {
	f := &figures{runs: map[string][]drained{}}
	t.Cleanup(func() {
		for name, runs := range f.runs {
			var most drained
			for _, d := range runs {
				most.dark, most.took = max(most.dark, d.dark), max(most.took, d.took)
				most.most = max(most.most, d.most)
				most.twice, most.doubt = most.twice+d.twice, most.doubt+d.doubt
			}
			t.Logf("%s: %d runs, dark %.1f s at most, end after %.1f s at most; %d links sent twice, %d in doubt; the fullest second had %d",
				name, len(runs), most.dark.Seconds(), most.took.Seconds(), most.twice, most.doubt, most.most)
		}
	})
	return f
}

// of makes FAILOVERS runs of a kind.
func (f *figures) of(t *testing.T, name string, run func(t *testing.T) drained) {
	n, _ := strconv.Atoi(os.Getenv("FAILOVERS"))
	for i := range n {
		t.Run(fmt.Sprint(name, " ", i), func(t *testing.T) {
			t.Parallel()
			d := run(t)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.runs[name] = append(f.runs[name], d)
		})
	}
}

func TestFailovers(t *testing.T) {
	t.Parallel()
	f := newFigures(t)
	for _, lag := range []time.Duration{0, 900 * time.Millisecond} {
		of := func(name string, run func(t *testing.T) drained) { f.of(t, fmt.Sprintf("%s, lag %v", name, lag), run) }
		of("sentinel", func(t *testing.T) drained { return sentinelFailover(t, 2, lag) })
		of("sentinel, a master that stops for 8 s and comes back", func(t *testing.T) drained {
			s := redistest.StartSentinel(t, 2)
			return failover(t, s.URL(), func(*fleet) {
				master := s.Master(t)
				master.Freeze(t)
				<-time.After(8*time.Second + lag)
				master.Thaw(t)
			})
		})
		for name, key := range map[string]string{
			"the batch's": "lc:{b1}", "the queue's": task.PendingKey(task.QueueCancel), "the lists'": "lc:open", "the leader's": "lc:feeder", "the limit's": "lc:rate",
		} {
			of("cluster, "+name, func(t *testing.T) drained { return clusterFailover(t, key, lag) })
		}
	}
}
