package metrics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// bench is a ledger and queue under test, and a registry that shows them.
type bench struct {
	*testing.T
	*ledger.Ledger
	rdb       redis.UniversalClient
	collector *fleetCollector
	registry  *prometheus.Registry
	log       bytes.Buffer
}

// newBench makes a collector that reads anew for each scrape.
func newBench(t *testing.T, rdb redis.UniversalClient) *bench {
	l := &bench{T: t, Ledger: ledger.New(rdb), rdb: rdb, registry: prometheus.NewRegistry()}
	l.collector = newFleetCollector(l.Ledger, rdb, slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l.collector.age = 0
	l.registry.MustRegister(l.collector)
	return l
}

// each tests on the embedded Redis and on a real one.
func each(t *testing.T, test func(l *bench)) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) { test(newBench(t, b.Client())) })
}

func (l *bench) series() map[string]float64 {
	l.Helper()
	return series(l, l.registry)
}

// batch makes a sealed batch of n links.
func (l *bench) batch(cfg ledger.DraftConfig, n int, duplicates, invalid int64) ledger.Batch {
	l.Helper()
	d := l.draft(cfg, n)
	testutil.Must(l, d.Seal(l.Context(), "digest", duplicates, invalid))
	return l.get(cfg.ID)
}

// draft writes a batch of n links.
func (l *bench) draft(cfg ledger.DraftConfig, n int) *ledger.Draft {
	l.Helper()
	d, _, err := l.Create(l.Context(), cfg)
	testutil.Must(l, err)
	var chunks [][]string
	for first := 0; first < n; first += ledger.ChunkLinks {
		chunk := make([]string, min(ledger.ChunkLinks, n-first))
		for i := range chunk {
			chunk[i] = fmt.Sprintf("pl_%08d", first+i)
		}
		if chunks = append(chunks, chunk); len(chunks) == 50 || first+len(chunk) == n {
			testutil.Must(l, d.Write(l.Context(), chunks...))
			chunks = chunks[:0]
		}
	}
	return d
}

// finished makes a batch that is done.
func (l *bench) finished(id string) {
	l.Helper()
	d := l.draft(ledger.DraftConfig{ID: id, Source: "import"}, 1)
	testutil.Must(l, d.Restore(l.Context(), 0, []ledger.Record{{Outcome: ledger.Cancelled}}, nil))
	testutil.Must(l, d.Seal(l.Context(), "digest", 0, 0))
	testutil.Must(l, l.Retire(l.Context(), l.get(id), time.Hour))
}

func (l *bench) get(id string) ledger.Batch {
	l.Helper()
	b, err := l.Get(l.Context(), id)
	testutil.Must(l, err)
	return b
}

func (l *bench) commit(batch string, entries ...ledger.Entry) {
	l.Helper()
	testutil.Must(l, l.Commit(l.Context(), []ledger.Group{{Batch: batch, Entries: entries}})[0].Err)
}

func outcome(position int, o ledger.Outcome) ledger.Entry {
	return ledger.Entry{Position: position, Record: ledger.Record{Outcome: o, Attempts: 1}}
}

func TestBatches(t *testing.T) {
	each(t, func(l *bench) {
		before := l.series()
		l.batch(ledger.DraftConfig{ID: "ready", Source: "import"}, 3, 2, 1)
		running := l.batch(ledger.DraftConfig{ID: "running", Source: "import"}, 4, 0, 5)
		testutil.Must(l, l.Start(l.Context(), &running, 1, 50, "w1"))
		l.commit("running", outcome(0, ledger.Cancelled), outcome(2, ledger.NotFound))
		l.batch(ledger.DraftConfig{ID: "paused", Source: "sweep"}, 5, 9, 9)
		_, _, err := l.Pause(l.Context(), "paused", history.By{Reason: "", Auto: true})
		testutil.Must(l, err)
		l.draft(ledger.DraftConfig{ID: "importing", Source: "run"}, 7)
		l.batch(ledger.DraftConfig{ID: "child", Source: "run", Parent: "ready"}, 1, 9, 9)
		l.commit("child", outcome(0, ledger.Failed))
		l.batch(ledger.DraftConfig{ID: "aborted", Source: "import"}, 2, 0, 0)
		_, _, err = l.Abort(l.Context(), "aborted", history.By{Actor: "ann"})
		testutil.Must(l, err)
		newer := l.batch(ledger.DraftConfig{ID: "newer", Source: "import"}, 2, 0, 0)
		testutil.Must(l, l.rdb.HSet(l.Context(), "lc:{newer}", "v", 99).Err())

		want := map[string]float64{
			"fleet_links pending import": 7, "fleet_links cancelled import": 1, "fleet_links not_found import": 1,
			"fleet_links pending sweep": 5, "fleet_links failed run": 1,
			"fleet_batches import ready": 1, "fleet_batches import running": 1, "fleet_batches import aborted": 1,
			"fleet_batches sweep paused": 1, "fleet_batches run importing": 1, "fleet_batches run done": 1,
			"fleet_pending_links import ready": 3, "fleet_pending_links import running": 2, "fleet_pending_links import aborted": 2,
			"fleet_pending_links sweep paused": 5,
			"fleet_import_rows links":          9, "fleet_import_rows duplicates": 2, "fleet_import_rows invalid": 6,
		}
		for id, counts := range map[string]map[string]float64{
			"ready": {"pending": 3}, "running": {"pending": 2, "cancelled": 1, "not_found": 1}, "paused": {"pending": 5}, "aborted": {"pending": 2},
		} {
			for _, o := range linkStates {
				want["fleet_batch_links "+id+" "+o.String()] = counts[o.String()]
			}
		}
		if diff := cmp.Diff(want, changes(before, l.series())); diff != "" {
			t.Errorf("%s", diff)
		}

		// What has ended has no series of its own any more.
		testutil.Must(l, l.FillAborted(l.Context(), l.get("aborted")))
		testutil.Must(l, l.rdb.Del(l.Context(), "lc:{newer}").Err())
		_ = newer
		now := l.series()
		if _, ok := now["fleet_batch_links aborted pending"]; ok || now["fleet_links aborted import"] != 2 || now["fleet_pending_links import aborted"] != 0 {
			t.Errorf("the aborted batch: %v", now)
		}
	})
}

// However many batches there are: the series stay few, and the newest batches are
// those that are shown.
func TestSeriesAreBounded(t *testing.T) {
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	l := newBench(t, b.Client())
	for i := range 30 {
		id := fmt.Sprintf("b%02d", i)
		l.batch(ledger.DraftConfig{ID: id, Source: "import"}, 3, 0, 0)
		testutil.Must(l, l.rdb.ZAdd(l.Context(), "lc:batches", redis.Z{Score: float64(i), Member: id}).Err())
	}
	m := complete(b, quiet)
	all := series(t, m.registry)
	for i := range 30 {
		_, shown := all[fmt.Sprintf("fleet_batch_links b%02d pending", i)]
		if shown != (i >= 15) {
			t.Errorf("batch %d of 30: shown %v", i, shown)
		}
	}
	lines := 0
	for line := range strings.Lines(scrape(t, m)) {
		if !strings.HasPrefix(line, "#") {
			lines++
		}
	}
	if lines+5 >= 400 { // Prometheus adds five of its own
		t.Errorf("%d series", lines)
	}
}

// The fleet's outcomes are what the reports count, whatever happened.
func TestOutcomesAreThoseOfTheReports(t *testing.T) {
	each(t, func(l *bench) {
		rng := rand.New(rand.NewPCG(1, 2))
		ids := []string{}
		for i := range 12 {
			id := fmt.Sprintf("b%d", i)
			ids = append(ids, id)
			l.batch(ledger.DraftConfig{ID: id, Source: sources[i%3]}, 40, 0, 0)
		}
		for round := range 60 {
			id := ids[rng.IntN(len(ids))]
			var entries []ledger.Entry
			for range 1 + rng.IntN(20) {
				entries = append(entries, outcome(rng.IntN(40), ledger.Outcomes[rng.IntN(6)]))
			}
			l.commit(id, entries...) // of an aborted batch, too: answers that come late
			switch b := l.get(id); {
			case b.State == ledger.Done, b.State == ledger.AbortedState && b.Pending() == 0:
				testutil.Must(l, l.Retire(l.Context(), b, time.Hour))
			case round%10 == 9:
				_, _, err := l.Abort(l.Context(), id, history.By{Actor: "ann"})
				testutil.Must(l, err)
				testutil.Must(l, l.FillAborted(l.Context(), b))
			}
			l.agrees(ids)
		}
	})
}

// agrees compares the series with the records of all batches.
func (l *bench) agrees(ids []string) {
	l.Helper()
	want := map[string]float64{}
	for _, source := range sources {
		for _, o := range linkStates {
			want["fleet_links "+o.String()+" "+source] = 0
		}
	}
	for _, id := range ids {
		b := l.get(id)
		snapshot, err := l.Snapshot(l.Context(), b)
		testutil.Must(l, err)
		for i := range int(b.Total) {
			want["fleet_links "+snapshot.Record(i).Outcome.String()+" "+b.Source]++
		}
	}
	got := l.series()
	maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.HasPrefix(name, "fleet_links ") })
	if diff := cmp.Diff(want, got); diff != "" {
		l.Fatal(diff)
	}
}

func TestWorkersAndQueues(t *testing.T) {
	each(t, func(l *bench) {
		before := l.series()
		testutil.Must(l, l.Heartbeat(l.Context(), ledger.WorkerBeat{ID: "w1"}))
		testutil.Must(l, l.Heartbeat(l.Context(), ledger.WorkerBeat{ID: "w2"}))
		client := asynq.NewClientFromRedisClient(l.rdb)
		for i := range 5 {
			s := task.Slice{Batch: "b", Index: i, Links: []string{"a"}}
			tk, err := s.Task()
			testutil.Must(l, err)
			var options []asynq.Option
			if i == 4 {
				options = append(options, asynq.ProcessIn(time.Hour))
			}
			_, err = client.Enqueue(tk, options...)
			testutil.Must(l, err)
		}
		read, err := task.Slice{Batch: "v", Links: []string{"a"}, Verify: true}.Task()
		testutil.Must(l, err)
		_, err = client.Enqueue(read)
		testutil.Must(l, err)
		sweep := task.Sweep{Name: "2026-01-02", Due: time.Now(), Selection: []byte("{}")}
		tk, err := sweep.Task()
		testutil.Must(l, err)
		_, err = client.Enqueue(tk)
		testutil.Must(l, err)
		inspector := asynq.NewInspectorFromRedisClient(l.rdb)
		testutil.Must(l, inspector.ArchiveTask(task.QueueCancel, "b:0:3"))
		// As asynq's server does.
		testutil.Must(l, l.rdb.RPopLPush(l.Context(), "asynq:{cancel}:pending", "asynq:{cancel}:active").Err())
		testutil.Must(l, l.rdb.LRem(l.Context(), "asynq:{cancel}:pending", 1, "b:0:2").Err())
		testutil.Must(l, l.rdb.ZAdd(l.Context(), "asynq:{cancel}:retry", redis.Z{Score: 1, Member: "b:0:2"}).Err())
		// The oldest has been pending for an hour.
		since := time.Now().Add(-time.Hour).UnixNano()
		testutil.Must(l, l.rdb.HSet(l.Context(), "asynq:{cancel}:t:b:0:1", "pending_since", since).Err())

		after := l.series()
		for _, queue := range queues {
			info, err := inspector.GetQueueInfo(queue)
			testutil.Must(l, err)
			for state, n := range map[string]int{
				"pending": info.Pending, "active": info.Active, "retry": info.Retry, "scheduled": info.Scheduled, "archived": info.Archived,
			} {
				if got := after["fleet_queue_slices "+queue+" "+state]; got != float64(n) {
					t.Errorf("%s %s: %v, asynq says %d", queue, state, got, n)
				}
			}
			// It is rounded, and asked a moment later.
			if age := time.Duration(after["fleet_queue_oldest_seconds "+queue] * float64(time.Second)); age > info.Latency || age < info.Latency-time.Minute {
				t.Errorf("%s: %v, asynq says %v", queue, age, info.Latency)
			}
		}
		got := changes(before, after)
		if age := got["fleet_queue_oldest_seconds cancel"]; age < 3600 {
			t.Errorf("the oldest is %v s old", age)
		}
		maps.DeleteFunc(got, func(name string, _ float64) bool { return strings.Contains(name, "oldest") })
		want := map[string]float64{
			"fleet_workers": 2, "fleet_queue_slices cancel pending": 1, "fleet_queue_slices cancel active": 1, "fleet_queue_slices cancel retry": 1,
			"fleet_queue_slices cancel scheduled": 1, "fleet_queue_slices cancel archived": 1, "fleet_queue_slices sweep pending": 1, "fleet_queue_slices verify pending": 1,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}

		// A task that was taken between two commands has no such time any more.
		testutil.Must(l, l.rdb.HDel(l.Context(), "asynq:{cancel}:t:b:0:1", "pending_since").Err())
		if age := l.series()["fleet_queue_oldest_seconds cancel"]; age != 0 {
			t.Errorf("taken: %v s old", age)
		}
		// The clock of the process that enqueued it may be ahead.
		testutil.Must(l, l.rdb.HSet(l.Context(), "asynq:{cancel}:t:b:0:1", "pending_since", time.Now().Add(time.Hour).UnixNano()).Err())
		if age := l.series()["fleet_queue_oldest_seconds cancel"]; age != 0 {
			t.Errorf("ahead: %v s old", age)
		}
	})
}

func TestSweeps(t *testing.T) {
	each(t, func(l *bench) {
		before := l.series()
		next := time.Now().Add(time.Hour).Truncate(time.Second)
		testutil.Must(l, l.PlanSweep(l.Context(), "0 2 * * * UTC", next))
		first, err := l.BeginSweep(l.Context(), next.Add(-48*time.Hour))
		testutil.Must(l, err)
		want := map[string]float64{
			"fleet_sweep_next_timestamp_seconds":       float64(next.Unix()),
			"fleet_sweep_last_start_timestamp_seconds": unix(first.Run.Started),
		}
		if diff := cmp.Diff(want, changes(before, l.series())); diff != "" {
			t.Errorf("at work: %s", diff)
		}

		l.batch(ledger.DraftConfig{ID: "s1", Source: "sweep"}, 3, 0, 0)
		l.commit("s1", outcome(0, ledger.Cancelled), outcome(1, ledger.Cancelled), outcome(2, ledger.NotFound))
		_, err = first.Claim(l.Context(), "", "s1")
		testutil.Must(l, err)
		testutil.Must(l, first.Note(l.Context(), ledger.SweepCounts{Listed: 90, Selected: 5, Waiting: 2, PastExpiry: 7}))
		testutil.Must(l, first.End(l.Context(), "w1", ""))
		known, err := l.Sweeps(l.Context())
		testutil.Must(l, err)
		maps.Copy(want, map[string]float64{
			"fleet_sweep_last_end_timestamp_seconds":     unix(known.Last.Ended),
			"fleet_sweep_last_success_timestamp_seconds": unix(known.Succeeded),
			"fleet_sweep_last_success":                   1,
			"fleet_sweep_last_links listed":              90,
			"fleet_sweep_last_links selected":            5,
			"fleet_sweep_last_links waiting":             2,
			"fleet_sweep_last_links past_expiry":         7,
			"fleet_sweep_last_links cancelled":           2,
			"fleet_batches sweep done":                   1,
			"fleet_links cancelled sweep":                2,
			"fleet_links not_found sweep":                1,
		})
		if diff := cmp.Diff(want, changes(before, l.series())); diff != "" {
			t.Errorf("ended: %s", diff)
		}

		// The next fails, and what it saw is suspicious.
		second, err := l.BeginSweep(l.Context(), next.Add(-24*time.Hour))
		testutil.Must(l, err)
		testutil.Must(l, second.Note(l.Context(), ledger.SweepCounts{Listed: 50, PastExpiry: 50, Suspicious: true}))
		testutil.Must(l, second.Abandon(l.Context(), "w1", "a test", ""))
		known, err = l.Sweeps(l.Context())
		testutil.Must(l, err)
		maps.Copy(want, map[string]float64{
			"fleet_sweep_last_start_timestamp_seconds": unix(known.Last.Started),
			"fleet_sweep_last_end_timestamp_seconds":   unix(known.Last.Ended),
			"fleet_sweep_suspicious":                   1,
			"fleet_sweep_last_links listed":            50,
			"fleet_sweep_last_links past_expiry":       50,
		})
		for _, name := range []string{"success", "links selected", "links waiting", "links cancelled"} {
			delete(want, "fleet_sweep_last_"+name)
		}
		if diff := cmp.Diff(want, changes(before, l.series())); diff != "" {
			t.Errorf("failed: %s", diff)
		}
	})
}

// away checks what a scrape shows while Redis is away.
func (l *bench) away(what string, failures float64) {
	l.Helper()
	want := map[string]float64{"redis_up": 0, "collect_errors_total": failures}
	if diff := cmp.Diff(want, l.series()); diff != "" {
		l.Errorf("%s: %s", what, diff)
	}
}

// back checks that all is shown again.
func (l *bench) back(before map[string]float64, failures float64) {
	l.Helper()
	want := map[string]float64{}
	if failures > 0 {
		want["collect_errors_total"] = failures
	}
	if diff := cmp.Diff(want, changes(before, l.series())); diff != "" {
		l.Errorf("back: %s", diff)
	}
}

// told checks that the log has each message once.
func (l *bench) told() {
	l.Helper()
	for _, message := range []string{"cannot read fleet metrics", "fleet metrics can be read again"} {
		if n := strings.Count(l.log.String(), message); n != 1 {
			l.Errorf("told %d times that %s:\n%s", n, message, &l.log)
		}
	}
}

func TestRedisRefuses(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	l := newBench(t, client)
	l.batch(ledger.DraftConfig{ID: "b", Source: "import"}, 3, 0, 0)
	before := l.series()
	server.SetError("LOADING Redis is loading the dataset in memory")
	l.away("loading", 1)
	l.away("still", 2)
	server.SetError("")
	l.back(before, 2)
	l.told()
}

// A process whose Redis was never there has all that is its own.
func TestRedisAway(t *testing.T) {
	b := broker.Embedded()
	m := complete(b, quiet)
	m.Outcome("import", ledger.Cancelled, 1, 0)
	testutil.Must(t, b.Close())
	got := series(t, m.registry)
	if up, ok := got["redis_up"]; up != 0 || !ok || got["collect_errors_total"] != 1 || got["outcomes_total cancelled import"] != 1 {
		t.Errorf("away: %v", got)
	}
	for name := range got {
		if strings.HasPrefix(name, "fleet_") {
			t.Errorf("%s is shown, though nobody knows it", name)
		}
	}
}

func TestRedisDiesAndIsBack(t *testing.T) {
	if !redistest.Have(t) {
		return
	}
	server := redistest.NewServer(t, "--appendonly", "yes", "--appendfsync", "always")
	server.Start(t)
	t.Cleanup(func() { server.Stop(t) })
	l := newBench(t, redistest.Open(t, server.URL()).Client())
	l.batch(ledger.DraftConfig{ID: "b", Source: "import"}, 3, 0, 0)
	before := l.series()
	server.Kill(t)
	l.away("dead", 1)
	server.Start(t)
	for failures := 1.; ; failures++ { // go-redis finds it again only after a while
		if l.series()["redis_up"] == 1 {
			l.back(before, failures)
			break
		}
		if failures == 1e6 {
			t.Fatal("Redis is not found again")
		}
	}
	l.told()
}

// A Redis that takes commands, and does not answer, costs a scrape no more than
// the time that is set.
func TestRedisHangs(t *testing.T) {
	server := miniredis.RunT(t)
	between := newRelay(t, server.Addr())
	client := redis.NewClient(&redis.Options{Addr: between.addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = client.Close() })
	l := newBench(t, client)
	before := l.series()
	between.answers.Lock()
	l.collector.timeout = 50 * time.Millisecond
	l.away("hanging", 1)
	between.answers.Unlock()
	l.collector.timeout = time.Minute
	l.back(before, 1)
	l.told()
}

// relay forwards a connection to a server. While answers is locked, those of the server do
// not arrive.
type relay struct {
	addr    string
	answers sync.RWMutex
}

func newRelay(t *testing.T, server string) *relay {
	t.Helper()
	r := &relay{}
	r.addr = testutil.ListenTCP(t, func(from net.Conn) {
		to, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		var answers sync.WaitGroup
		answers.Go(func() {
			_, _ = io.Copy(held{from, r}, to)
			_ = from.Close()
		})
		_, _ = io.Copy(to, from)
		_ = to.Close()
		answers.Wait()
	})
	return r
}

// held is a connection on which writing waits for the relay.
type held struct {
	net.Conn
	r *relay
}

func (h held) Write(b []byte) (int, error) {
	h.r.answers.RLock()
	defer h.r.answers.RUnlock()
	return h.Conn.Write(b)
}

// Nor does one whose connection is never made, whatever the client makes of the context.
func TestConnectionHangs(t *testing.T) {
	release := make(chan struct{})
	client := redis.NewClient(&redis.Options{
		MaxRetries: -1, DialTimeout: time.Hour,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			<-release
			return nil, net.ErrClosed
		},
	})
	l := newBench(t, client)
	l.collector.timeout = 10 * time.Millisecond
	for range 3 {
		if got := l.series(); got["redis_up"] != 0 || len(got) != 2 {
			t.Errorf("%v", got)
		}
	}
	close(release)
	_, _, _ = l.collector.flight.Do("", func() (any, error) { return nil, nil }) // the reading has ended
	testutil.Must(t, client.Close())
}

// However many scrapes come, Redis is read once in a while.
func TestScrapesShareAReading(t *testing.T) {
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	l := newBench(t, b.Client())
	l.collector.age = time.Hour
	reads := &commands{}
	b.Client().AddHook(reads)
	var scrapes sync.WaitGroup
	for range 20 {
		scrapes.Go(func() {
			if up := series(t, l.registry)["redis_up"]; up != 1 {
				t.Errorf("redis_up %v", up)
			}
		})
	}
	scrapes.Wait()
	if n := reads.count("smembers"); n != 1 {
		t.Errorf("20 scrapes read Redis %d times", n)
	}
	before := l.series()
	l.batch(ledger.DraftConfig{ID: "b", Source: "import"}, 3, 0, 0)
	if diff := cmp.Diff(before, l.series()); diff != "" {
		t.Errorf("a scrape soon after: %s", diff)
	}
	l.collector.age = 0
	if got := l.series()["fleet_links pending import"]; got != 3 {
		t.Errorf("a scrape some time after shows %v links", got)
	}
}

// commands notes the names of all commands.
type commands struct {
	mu    sync.Mutex
	names []string
}

func (c *commands) note(cmds ...redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range cmds {
		c.names = append(c.names, cmd.Name())
	}
}

func (c *commands) count(name string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, seen := range c.names {
		if seen == name {
			n++
		}
	}
	return n
}

func (c *commands) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.note(cmd)
		return next(ctx, cmd)
	}
}

func (c *commands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.note(cmds...)
		return next(ctx, cmds)
	}
}

// What a scrape costs Redis does not grow with the links, and little with the
// batches that are kept: no more than 10 ms, in short commands.
func TestCost(t *testing.T) {
	if !redistest.Have(t) {
		return
	}
	l := newBench(t, redistest.Open(t, redistest.Start(t)).Client())
	for i := range 500 {
		l.finished(fmt.Sprintf("f%03d", i))
	}
	big := l.batch(ledger.DraftConfig{ID: "million", Source: "import"}, 1_000_000, 0, 0)
	testutil.Must(t, l.Start(t.Context(), &big, 1, 50, "w1"))
	l.commit("million", outcome(0, ledger.Cancelled))
	testutil.Must(t, l.Heartbeat(t.Context(), ledger.WorkerBeat{ID: "w1"}))
	_, _, err := l.Workers(t.Context()) // Redis knows the script then
	testutil.Must(t, err)
	client := asynq.NewClientFromRedisClient(l.rdb)
	for i := range 400 {
		s := task.Slice{Batch: "million", Index: i, Links: []string{"a"}}
		tk, err := s.Task()
		testutil.Must(t, err)
		_, err = client.Enqueue(tk)
		testutil.Must(t, err)
	}
	testutil.Must(t, l.rdb.ConfigSet(t.Context(), "slowlog-log-slower-than", "10000").Err())

	first, least := time.Duration(0), time.Hour
	for scrape := range 6 {
		testutil.Must(t, l.rdb.Do(t.Context(), "SLOWLOG", "RESET").Err())
		testutil.Must(t, l.rdb.ConfigResetStat(t.Context()).Err())
		got := l.series()
		if got["fleet_links pending import"] != 999_999 || got["fleet_links cancelled import"] != 501 {
			t.Fatalf("shown: %v pending, %v cancelled", got["fleet_links pending import"], got["fleet_links cancelled import"])
		}
		calls, took := l.spent()
		want := map[string]int{"zrangebyscore": 1, "smembers": 1, "time": 1, "evalsha": 1, "llen": 6, "zcard": 10, "lrange": 3, "hmget": 1}
		hashes := calls["hgetall"]
		delete(calls, "hgetall")
		if diff := cmp.Diff(want, calls); diff != "" {
			t.Errorf("commands: %s", diff)
		}
		if scrape == 0 {
			first = took
		} else if hashes > 30 {
			t.Errorf("%d hashes were read", hashes)
		}
		least = min(least, took)
		if slow, err := l.rdb.SlowLogGet(t.Context(), 10).Result(); err != nil || len(slow) > 0 {
			t.Errorf("slow commands: %v, %v", slow, err)
		}
	}
	t.Logf("the first scrape took %v of Redis, a later one %v", first, least)
	if least > 10*time.Millisecond {
		t.Errorf("a scrape took %v of Redis", least)
	}
}

// spent is what Redis did since its statistics were reset: commands by name, and
// the time that it took for them.
func (l *bench) spent() (calls map[string]int, took time.Duration) {
	l.Helper()
	info, err := l.rdb.Info(l.Context(), "commandstats").Result()
	testutil.Must(l, err)
	calls = map[string]int{}
	for line := range strings.Lines(info) {
		name, values, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cmdstat_"), ":")
		if !ok || strings.HasPrefix(name, "config") || name == "info" || name == "hello" {
			continue // of this test, and of a new connection
		}
		for field := range strings.SplitSeq(values, ",") {
			key, value, _ := strings.Cut(field, "=")
			n, _ := strconv.Atoi(value)
			switch key {
			case "calls":
				calls[name] = n
			case "usec":
				took += time.Duration(n) * time.Microsecond
			}
		}
	}
	return calls, took
}

// The limiter is asked once a scrape: its series agree.
func TestLimit(t *testing.T) {
	m := New("v1")
	asked := 0
	m.WatchLimit(func() ratelimit.Status {
		asked++
		return ratelimit.Status{Ceiling: 100, Rate: 50, Hold: ratelimit.Hold{Reason: holds[asked%len(holds)]}}
	})
	for scrape := range len(holds) {
		got := series(t, m.registry)
		for i, reason := range holds {
			if want := boolValue(i == (scrape+1)%len(holds)); got["hold "+string(reason)] != want {
				t.Errorf("scrape %d: hold %s is %v", scrape, reason, got["hold "+string(reason)])
			}
		}
		if got["limit_ceiling_requests_per_second"] != 100 || got["limit_present_requests_per_second"] != 50 {
			t.Errorf("the limit: %v", got)
		}
	}
	if asked != len(holds) {
		t.Errorf("asked %d times", asked)
	}
	if slices.Contains(holds[:], ratelimit.ReasonNone) {
		t.Error("no hold is no reason")
	}
}

// A verification of all links replaces the earlier ones of its batch, one of a sample does not.
func TestVerifiedLinks(t *testing.T) {
	verification := func(parent string, links, population, payable int64, state ledger.State) *ledger.Batch {
		return &ledger.Batch{
			Source: ledger.SourceVerify, Parent: parent, Total: links, Population: population, State: state,
			Counts: ledger.Counts{ledger.NotPayable: links - payable, ledger.StillPayable: payable},
		}
	}
	for _, tt := range []struct {
		name    string
		batches []*ledger.Batch // newest first
		want    ledger.Counts
	}{
		{"none", []*ledger.Batch{{Source: "import", Counts: ledger.Counts{ledger.Cancelled: 7}}}, ledger.Counts{}},
		{"one", []*ledger.Batch{verification("a", 10, 10, 3, ledger.Done)}, ledger.Counts{ledger.NotPayable: 7, ledger.StillPayable: 3}},
		{"verified again", []*ledger.Batch{verification("a", 10, 10, 0, ledger.Done), verification("a", 10, 10, 3, ledger.Done)}, ledger.Counts{ledger.NotPayable: 10}},
		{"a sample", []*ledger.Batch{verification("a", 2, 10, 0, ledger.Done), verification("a", 10, 10, 3, ledger.Done)}, ledger.Counts{ledger.NotPayable: 9, ledger.StillPayable: 3}},
		{"not done yet", []*ledger.Batch{verification("a", 10, 10, 0, ledger.Running), verification("a", 10, 10, 3, ledger.Done)}, ledger.Counts{ledger.NotPayable: 17, ledger.StillPayable: 3}},
		{"of two batches", []*ledger.Batch{verification("b", 10, 10, 0, ledger.Done), verification("a", 10, 10, 3, ledger.Done)}, ledger.Counts{ledger.NotPayable: 17, ledger.StillPayable: 3}},
	} {
		if got := verifiedLinks(tt.batches); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
