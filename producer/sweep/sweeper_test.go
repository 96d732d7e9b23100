package sweep

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// shelf is an API with links, all of them active and expired.
type shelf struct {
	links  int
	before func(ctx context.Context, page int) error // may be nil

	mu    sync.Mutex
	asked int
}

func (s *shelf) List(ctx context.Context, page, _ int) (plexy.Page, error) {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(ctx, page); err != nil {
			return plexy.Page{}, err
		}
	}
	p := plexy.Page{Total: int64(s.links), HasTotal: true}
	for i := max(0, page-1) * 100; i < min(max(1, page)*100, s.links); i++ {
		p.Links = append(p.Links, plexy.Link{ID: testutil.LinkID(i), Status: "active", ExpiresAt: time.Now().Add(-5 * time.Hour)})
	}
	return p, nil
}

// unlimited is a limiter that lets everything pass at once.
type unlimited struct{}

func (unlimited) Acquire(ctx context.Context) (ratelimit.Slot, error) {
	return ratelimit.NewSlot(time.Now(), 0), ctx.Err()
}
func (unlimited) Report(ratelimit.Slot, ratelimit.Answer) {}

// crew is a ledger, a queue, and sweepers in a bubble.
type crew struct {
	*store
	log  bytes.Buffer
	mu   sync.Mutex
	stop []func()
}

// Write takes in the log of all sweepers.
func (c *crew) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(b)
}

// logged counts the log lines that have a text.
func (c *crew) logged(text string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Count(c.log.String(), text)
}

func inCrew(t *testing.T, test func(t *testing.T, c *crew)) {
	t.Helper()
	inBubble(t, func(t *testing.T, s *store) {
		c := &crew{store: s}
		defer func() {
			for _, stop := range c.stop {
				stop()
			}
			if t.Failed() {
				t.Log(c.log.String())
			}
		}()
		test(t, c)
	})
}

// nightly is every night at two in Almaty: 20:00 or 21:00 of UTC. The clock of a
// bubble begins on 1 January 2000 at 06:00 there.
const nightly = "0 2 * * *"

var selection = Selection{Expired: true, Grace: time.Hour, Status: "active", Max: 1000}

func (c *crew) sweeper(api Lister) *Sweeper {
	s, err := ParseSchedule(nightly, "Asia/Almaty")
	testutil.Must(c.t, err)
	return NewSweeper(SweeperConfig{
		Schedule: s, Selection: selection, API: api, Limiter: unlimited{},
		Log: slog.New(slog.NewTextHandler(c, nil)),
	}, c.b, c.l)
}

// run lets a sweeper run until the returned function stops it.
func (c *crew) run(s *Sweeper) (stop func()) { return c.start(s.Run) }

// start starts what runs until the returned function stops it.
func (c *crew) start(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
	})
	c.stop = append(c.stop, stop)
	return stop
}

func (c *crew) sweeps() ledger.Sweeps {
	c.t.Helper()
	s, err := c.l.Sweeps(c.t.Context())
	testutil.Must(c.t, err)
	return s
}

// until waits until ok, for a day at most.
func (c *crew) until(what string, ok func() bool) {
	c.t.Helper()
	for range 24 * 3600 / 5 {
		if ok() {
			return
		}
		testutil.Advance(5 * time.Second)
	}
	c.t.Fatalf("waited a day for %s: %+v", what, c.sweeps())
}

// last waits for the end of a sweep.
func (c *crew) last(due time.Time) ledger.SweepRun {
	c.t.Helper()
	c.until("the sweep of "+due.String(), func() bool {
		s := c.sweeps()
		return s.Last != nil && s.Last.Due.Equal(due)
	})
	return *c.sweeps().Last
}

// made are the ids of all batches, the latest first.
func (c *crew) made() (ids []string) {
	c.t.Helper()
	all, err := c.l.List(c.t.Context())
	testutil.Must(c.t, err)
	for _, b := range all {
		ids = append(ids, b.ID)
	}
	return ids
}

// tasks are the sweeps in the queue, by id and state.
func (c *crew) tasks() map[string]string {
	c.t.Helper()
	states := map[string]string{}
	for _, list := range []func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		c.i.ListPendingTasks, c.i.ListActiveTasks, c.i.ListRetryTasks, c.i.ListScheduledTasks, c.i.ListArchivedTasks, c.i.ListCompletedTasks,
	} {
		tasks, err := list(task.QueueSweep, asynq.PageSize(10_000))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			return states
		}
		testutil.Must(c.t, err)
		for _, t := range tasks {
			states[t.ID] = t.State.String()
		}
	}
	return states
}

func (c *crew) equal(what string, want, got any, opts ...cmp.Option) {
	c.t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		c.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

var (
	firstNight  = time.Date(2000, 1, 1, 20, 0, 0, 0, time.UTC) // Almaty was at +06:00 then
	secondNight = firstNight.Add(24 * time.Hour)
	noTimes     = cmpopts.IgnoreFields(ledger.SweepRun{}, "Started", "Ended")
)

func found(n int64) ledger.SweepCounts {
	return ledger.SweepCounts{Listed: n, Selected: n, PastExpiry: n}
}

// However many workers there are, a night has one sweep.
func TestOneSweepANight(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		api := &shelf{links: 250}
		// One that only plans, all the time: servers poll, which makes a fake day long.
		ctx, cancel := context.WithCancel(context.Background())
		c.stop = append(c.stop, cancel)
		go c.sweeper(api).plan(ctx)
		night := func(due time.Time) ledger.SweepRun {
			testutil.Advance(time.Until(due) - 5*time.Minute)
			c.equal("planned", due, c.sweeps().Next)
			var stop []func()
			for range 3 {
				stop = append(stop, c.run(c.sweeper(api)))
			}
			last := c.last(due)
			testutil.Advance(5 * time.Minute)
			for _, s := range stop {
				s()
			}
			return last
		}
		first := night(firstNight)
		c.equal("the first night", ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(250)}, first, noTimes)
		if late := first.Ended.Sub(firstNight); late > 10*time.Second {
			t.Errorf("ended %v after it was due", late)
		}
		// The batch of the night before waits still: nothing is taken twice.
		api.links = 300
		want := ledger.SweepCounts{Listed: 300, Selected: 50, Waiting: 250, PastExpiry: 300, LeftOut: map[string]int64{"waiting": 250}}
		c.equal("the second night", ledger.SweepRun{Due: secondNight, OK: true, Batch: "sweep-2000-01-03", Counts: want}, night(secondNight), noTimes)
		c.equal("batches", []string{"sweep-2000-01-03", "sweep-2000-01-02"}, c.made())
		b := c.get("sweep-2000-01-02")
		if b.State != ledger.Ready || b.Total != 250 || b.Source != importer.SourceSweep || b.Name != "scheduled 2000-01-02" {
			t.Errorf("the batch: %+v", b)
		}
		c.equal("tasks", map[string]string{"sweep:2000-01-02": "completed", "sweep:2000-01-03": "completed"}, c.tasks())
		if n := c.logged("sweep finished"); n != 2 {
			t.Errorf("%d sweeps were finished", n)
		}
	})
}

// night lets the night come near.
func (c *crew) night() { testutil.Advance(time.Until(firstNight) - time.Minute) }

// kill lets a worker take a sweep and vanish: its task is at work, and its lease
// is over. before is what it did until then.
func (c *crew) kill(p task.Sweep, before func(*ledger.SweepLease)) {
	c.t.Helper()
	_, err := enqueueSweep(c.t.Context(), asynq.NewClientFromRedisClient(c.rdb), p)
	testutil.Must(c.t, err)
	pipe := c.rdb.TxPipeline()
	pipe.LRem(c.t.Context(), "asynq:{sweep}:pending", 0, p.ID())
	pipe.LPush(c.t.Context(), "asynq:{sweep}:active", p.ID())
	pipe.HSet(c.t.Context(), "asynq:{sweep}:t:"+p.ID(), "state", "active")
	pipe.HDel(c.t.Context(), "asynq:{sweep}:t:"+p.ID(), "pending_since")
	pipe.ZAdd(c.t.Context(), "asynq:{sweep}:lease", redis.Z{Score: float64(time.Now().Add(30 * time.Second).Unix()), Member: p.ID()})
	_, err = pipe.Exec(c.t.Context())
	testutil.Must(c.t, err)
	lease, err := c.l.BeginSweep(c.t.Context(), p.Due)
	testutil.Must(c.t, err)
	before(lease)
}

// payload is the sweep of the first night.
func payload(t *testing.T) task.Sweep {
	t.Helper()
	doc, err := json.Marshal(selection)
	testutil.Must(t, err)
	return task.Sweep{Name: "2000-01-02", Due: firstNight.In(time.FixedZone("", 6*3600)), Selection: doc}
}

// A worker dies during a sweep: another worker enqueues its task again and continues the
// sweep, and there is one batch.
func TestSweepGoesOnAfterACrash(t *testing.T) {
	claim := func(t *testing.T, lease *ledger.SweepLease) {
		t.Helper()
		_, err := lease.Claim(t.Context(), "", "sweep-2000-01-02")
		testutil.Must(t, err)
		testutil.Must(t, lease.Note(t.Context(), found(120)))
	}
	for name, tt := range map[string]struct {
		before func(t *testing.T, c *crew, lease *ledger.SweepLease)
		counts ledger.SweepCounts
		links  int64
		asked  bool // it lists again
	}{
		"before it did anything": {
			before: func(*testing.T, *crew, *ledger.SweepLease) {},
			counts: found(150), links: 150, asked: true,
		},
		"while it read the list": {
			before: func(t *testing.T, _ *crew, lease *ledger.SweepLease) { claim(t, lease) },
			counts: found(150), links: 150, asked: true,
		},
		"while it wrote the batch": {
			before: func(t *testing.T, c *crew, lease *ledger.SweepLease) {
				claim(t, lease)
				d, _, err := c.l.Create(t.Context(), ledger.DraftConfig{ID: "sweep-2000-01-02", Source: importer.SourceSweep, Name: "scheduled 2000-01-02"})
				testutil.Must(t, err)
				testutil.Must(t, d.Write(t.Context(), testutil.LinkIDs(120)))
			},
			counts: found(150), links: 150, asked: true,
		},
		"after the seal": {
			before: func(t *testing.T, c *crew, lease *ledger.SweepLease) {
				claim(t, lease)
				_, err := importer.MakeBatch(t.Context(), c.l, &importer.Links{IDs: testutil.LinkIDs(120)}, importer.BatchConfig{ID: "sweep-2000-01-02", Source: importer.SourceSweep, Name: "scheduled 2000-01-02"})
				testutil.Must(t, err)
			},
			counts: found(120), links: 120,
		},
		"when only the queue did not know": {
			before: func(t *testing.T, c *crew, lease *ledger.SweepLease) {
				claim(t, lease)
				_, err := importer.MakeBatch(t.Context(), c.l, &importer.Links{IDs: testutil.LinkIDs(120)}, importer.BatchConfig{ID: "sweep-2000-01-02", Source: importer.SourceSweep, Name: "scheduled 2000-01-02"})
				testutil.Must(t, err)
				testutil.Must(t, lease.End(t.Context(), "w1", ""))
			},
			counts: found(120), links: 120,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCrew(t, func(t *testing.T, c *crew) {
				testutil.Advance(time.Until(firstNight))
				c.kill(payload(t), func(lease *ledger.SweepLease) { tt.before(t, c, lease) })
				api := &shelf{links: 150}
				for range 2 {
					c.run(c.sweeper(api))
				}
				c.until("a copy of the task", func() bool { return c.tasks()["sweep:2000-01-02~1"] == "completed" })
				if took := time.Since(firstNight); took > 45*time.Second {
					t.Errorf("gone on with after %v", took)
				}
				last := c.last(firstNight)
				if last.Crashes > 1 || last.Failures > 0 || !last.OK || last.Batch != "sweep-2000-01-02" {
					t.Errorf("%+v", last)
				}
				c.equal("counts", tt.counts, last.Counts)
				// asynq comes, too, after a minute or two.
				c.until("the end of the first task", func() bool { return c.tasks()["sweep:2000-01-02"] == "completed" })
				testutil.Advance(time.Minute)
				c.equal("batches", []string{"sweep-2000-01-02"}, c.made())
				if n := c.get("sweep-2000-01-02").Total; n != tt.links {
					t.Errorf("%d links", n)
				}
				if asked := api.asked > 0; asked != tt.asked {
					t.Errorf("the list was asked for %d times", api.asked)
				}
				if n := c.logged("sweep enqueued again"); n != 1 {
					t.Errorf("enqueued again %d times", n)
				}
			})
		})
	}
}

// A worker that is told to stop gives its sweep back at once, and another takes it.
func TestSweepIsGivenBack(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		reading := make(chan struct{})
		slow := &shelf{links: 150, before: func(ctx context.Context, _ int) error {
			close(reading)
			<-ctx.Done()
			return &plexy.TransportError{Method: "GET", Sent: true, Err: ctx.Err()}
		}}
		c.night()
		stop := c.run(c.sweeper(slow))
		<-reading
		told := time.Now()
		stop()
		if took := time.Since(told); took > time.Second {
			t.Errorf("stopped after %v", took)
		}
		got := c.sweeps()
		c.equal("given back", &ledger.SweepRun{Due: firstNight, Batch: "sweep-2000-01-02", Error: "the worker is stopping"}, got.Running, noTimes)
		c.equal("tasks", map[string]string{"sweep:2000-01-02": "retry"}, c.tasks())

		c.run(c.sweeper(&shelf{links: 150}))
		last := c.last(firstNight)
		c.equal("taken up", ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(150)}, last, noTimes)
		if took := last.Ended.Sub(told); took > 10*time.Second {
			t.Errorf("taken up after %v", took)
		}
		if n := c.logged("sweep continued"); n != 1 {
			t.Errorf("taken up %d times", n)
		}
	})
}

// fails lets every sweep fail.
func fails(err error) func(context.Context, *ledger.Ledger, Config) (Result, error) {
	return func(context.Context, *ledger.Ledger, Config) (Result, error) { return Result{}, err }
}

// A sweep that fails is tried again, and in the end recorded as failed, never archived.
func TestSweepFails(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		c.night()
		s := c.sweeper(nil)
		s.sweep = fails(fmt.Errorf("read the list: %w\nhint: wait", &plexy.Error{Method: "GET", Status: 500}))
		c.run(s)
		last := c.last(firstNight)
		c.equal("the end", ledger.SweepRun{
			Due: firstNight, Batch: "sweep-2000-01-02", Failures: 5, Error: "read the list: GET answered 500 (Internal Server Error)",
		}, last, noTimes)
		const want = 111 * time.Minute
		if took := last.Ended.Sub(firstNight); took < want || took > want+2*time.Minute {
			t.Errorf("ended after %v, want %v", took, want)
		}
		testutil.Advance(time.Minute)
		c.equal("tasks", map[string]string{"sweep:2000-01-02": "completed"}, c.tasks())
		if n := c.logged("will be tried again"); n != 5 {
			t.Errorf("%d tries are in the log", n)
		}
		if n := c.logged(`level=ERROR msg="sweep failed"`); n != 1 {
			t.Errorf("the end is in the log %d times", n)
		}
	})
}

func TestSweepFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		final bool
		text  string
	}{
		"a call that takes too long is no end of ours": {
			err:  &plexy.TransportError{Method: "GET", Sent: true, Err: context.DeadlineExceeded},
			text: "GET has no answer, though it may have reached the API: context deadline exceeded",
		},
		"the key is refused": {err: fmt.Errorf("%w: 401", ErrKeyRefused), text: "the API refused the key: 401"},
		"too many links": {
			err: &TooManyError{Found: 1234, Max: 1000}, final: true,
			text: "found 1234 links, more than the 1000 that --sweep-max allows: nothing was done",
		},
		"dates that cannot be read": {
			err: &UnreadableDatesError{Date: DateExpiry, Unreadable: 130, Present: 131, Example: "soon"}, final: true,
			text: `the sweep cannot read the expiry of 130 of 131 links, such as "soon": nothing was done; ` +
				"linkcancel sweep --dry-run shows the list, and linkcancel import cancels links from a file",
		},
		"a list without pages": {err: fmt.Errorf("page 2: %w\nhint: no", ErrPageIgnored), final: true, text: "page 2: the list ignores page"},
	} {
		t.Run(name, func(t *testing.T) {
			inCrew(t, func(t *testing.T, c *crew) {
				c.night()
				s := c.sweeper(nil)
				s.sweep = fails(tt.err)
				c.run(s)
				testutil.Advance(time.Minute + 10*time.Second)
				got := c.sweeps()
				want := &ledger.SweepRun{Due: firstNight, Batch: "sweep-2000-01-02", Error: tt.text}
				if tt.final {
					c.equal("the end", want, got.Last, noTimes)
					c.equal("tasks", map[string]string{"sweep:2000-01-02": "completed"}, c.tasks())
					return
				}
				want.Failures = 1
				c.equal("after the first try", want, got.Running, noTimes)
				c.equal("tasks", map[string]string{"sweep:2000-01-02": "retry"}, c.tasks())
			})
		})
	}
}

// A panic is a failed try, and harms nothing else.
func TestSweepPanics(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		c.night()
		s := c.sweeper(&shelf{links: 150})
		s.sweep = func(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
			s.sweep = Run
			panic("out of cheese")
		}
		c.run(s)
		want := ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(150), Failures: 1}
		c.equal("the end", want, c.last(firstNight), noTimes)
		if c.logged("panic: out of cheese") != 1 || c.logged("panic while sweeping") != 1 {
			t.Error("the log does not tell")
		}
	})
}

// A long hold is no failure: the sweep waits, half a day at most.
func TestSweepIsHeld(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		testutil.Advance(time.Until(firstNight))
		lease, err := c.l.BeginSweep(t.Context(), firstNight)
		testutil.Must(t, err)
		testutil.Must(t, lease.GiveBack(t.Context(), 0, "stopping"))
		_, err = enqueueSweep(t.Context(), asynq.NewClientFromRedisClient(c.rdb), payload(t))
		testutil.Must(t, err)
		testutil.Advance(sweepOver - 10*time.Minute) // nobody is there
		s := c.sweeper(nil)
		s.sweep = fails(fmt.Errorf("read the list: %w", ratelimit.ErrHeld))
		c.run(s)
		last := c.last(firstNight)
		want := "not finished within 12h0m0s: read the list: " + ratelimit.ErrHeld.Error()
		if last.OK || last.Failures != 0 || last.Error != want {
			t.Errorf("%+v", last)
		}
		if took := last.Ended.Sub(firstNight); took < sweepOver || took > sweepOver+2*time.Minute {
			t.Errorf("ended after %v", took)
		}
		if n := c.logged("sweep put off"); n < 9 || n > 11 {
			t.Errorf("put off %d times", n)
		}
	})
}

// A sweep is successful if its batch was made, even if no worker continued it for half a day.
func TestSweepThatWasMade(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		testutil.Advance(time.Until(firstNight))
		lease, err := c.l.BeginSweep(t.Context(), firstNight)
		testutil.Must(t, err)
		_, err = lease.Claim(t.Context(), "", "sweep-2000-01-02")
		testutil.Must(t, err)
		testutil.Must(t, lease.Note(t.Context(), found(120)))
		_, err = importer.MakeBatch(t.Context(), c.l, &importer.Links{IDs: testutil.LinkIDs(120)}, importer.BatchConfig{ID: "sweep-2000-01-02", Source: importer.SourceSweep, Name: "scheduled 2000-01-02"})
		testutil.Must(t, err)
		_, err = enqueueSweep(t.Context(), asynq.NewClientFromRedisClient(c.rdb), payload(t))
		testutil.Must(t, err)
		testutil.Advance(sweepOver + time.Minute)
		c.run(c.sweeper(nil))
		want := ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(120), Crashes: 1}
		c.equal("the end", want, c.last(firstNight), noTimes)
	})
}

// The answer to the seal was lost at the last try: it is no failure, either.
func TestSweepWhoseSealIsNotKnown(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		c.night()
		s := c.sweeper(&shelf{links: 150})
		s.sweep = func(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
			r, err := Run(ctx, l, cfg)
			testutil.Must(t, err)
			return r, fmt.Errorf("page 2: %w", ErrPageIgnored) // any error that is final
		}
		c.run(s)
		want := ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(150)}
		c.equal("the end", want, c.last(firstNight), noTimes)
		c.equal("batches", []string{"sweep-2000-01-02"}, c.made())
	})
}

// A sweep that takes its worker down every time ends some day.
func TestSweepThatCrashesItsWorkers(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		testutil.Advance(time.Until(firstNight))
		for range sweepCrashes {
			_, err := c.l.BeginSweep(t.Context(), firstNight)
			testutil.Must(t, err)
			testutil.Advance(time.Minute)
		}
		c.run(c.sweeper(&shelf{links: 150}))
		_, err := enqueueSweep(t.Context(), asynq.NewClientFromRedisClient(c.rdb), payload(t))
		testutil.Must(t, err)
		last := c.last(firstNight)
		if last.OK || last.Crashes != sweepCrashes || last.Error != "5 workers ended without a word while they ran it" {
			t.Errorf("%+v", last)
		}
	})
}

// What happens to a sweep for which nobody was there.
func TestMissedSweeps(t *testing.T) {
	zone := "0 2 * * * Asia/Almaty"
	for name, tt := range map[string]struct {
		schedule string        // that was planned; "": none
		planned  time.Time     // by it
		start    time.Duration // after the first night
		want     *ledger.SweepRun
	}{
		"the very first start":       {start: time.Minute},
		"a little late":              {schedule: zone, planned: firstNight, start: 50 * time.Minute, want: &ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(150)}},
		"in the morning":             {schedule: zone, planned: firstNight, start: 7 * time.Hour, want: &ledger.SweepRun{Due: firstNight, Error: "missed: no worker was there within 1h0m0s"}},
		"a night before that":        {schedule: zone, planned: firstNight.Add(-24 * time.Hour), start: 50 * time.Minute, want: &ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02", Counts: found(150)}},
		"long forgotten":             {schedule: zone, planned: firstNight.Add(-72 * time.Hour), start: 50 * time.Minute},
		"another schedule":           {schedule: "5 2 * * * Asia/Almaty", planned: firstNight.Add(5 * time.Minute), start: 50 * time.Minute},
		"somebody was there, and is": {schedule: zone, planned: secondNight, start: 50 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inCrew(t, func(t *testing.T, c *crew) {
				if tt.schedule != "" {
					testutil.Must(t, c.l.PlanSweep(t.Context(), tt.schedule, tt.planned))
				}
				testutil.Advance(time.Until(firstNight.Add(tt.start)))
				for range 3 {
					c.run(c.sweeper(&shelf{links: 150}))
				}
				testutil.Advance(2 * time.Minute)
				got := c.sweeps()
				c.equal("the sweep", tt.want, got.Last, noTimes)
				c.equal("the plan", ledger.Sweeps{Schedule: zone, Next: secondNight}, got, cmpopts.IgnoreFields(ledger.Sweeps{}, "Last", "Succeeded"))
				made := 0
				if tt.want != nil && tt.want.OK {
					made = 1
				}
				if n := len(c.made()); n != made {
					t.Errorf("%d batches", n)
				}
			})
		})
	}
}

// Of several sweeps for which nobody was there, one is made up for.
func TestMissedMinutes(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		every, err := ParseSchedule("*/5 * * * *", "UTC")
		testutil.Must(t, err)
		testutil.Must(t, c.l.PlanSweep(t.Context(), every.String(), time.Date(2000, 1, 1, 9, 5, 0, 0, time.UTC)))
		testutil.Advance(9*time.Hour + 57*time.Minute)
		for range 3 {
			s := c.sweeper(&shelf{links: 150})
			s.cfg.Schedule = every
			c.run(s)
		}
		testutil.Advance(5 * time.Minute)
		c.equal("tasks", map[string]string{"sweep:2000-01-01T0955+0000": "completed", "sweep:2000-01-01T1000+0000": "completed"}, c.tasks())
		c.equal("batches", []string{"sweep-2000-01-01"}, c.made())
	})
}

// Redis is away when a sweep is due: it is made up for.
func TestSweepIsDueWithoutRedis(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		s := c.sweeper(&shelf{links: 150})
		_, err := s.enqueueDue(t.Context())
		testutil.Must(t, err)
		testutil.Advance(time.Until(firstNight) + time.Minute)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for range 3 {
			if wait, err := s.enqueueDue(gone); err == nil || wait != planAgain {
				t.Fatalf("%v, %v", wait, err)
			}
		}
		c.equal("tasks", map[string]string{}, c.tasks())
		wait, err := s.enqueueDue(t.Context())
		testutil.Must(t, err)
		c.equal("the next look", planEvery, wait)
		c.equal("tasks", map[string]string{"sweep:2000-01-02": "pending"}, c.tasks())
		c.equal("planned", secondNight, c.sweeps().Next)
	})
}

// The id of the batch belongs to somebody else: another is taken.
func TestSweepIDIsTaken(t *testing.T) {
	mine := importer.BatchConfig{ID: "sweep-2000-01-02", Source: importer.SourceSweep, Name: "expired"}
	for name, take := range map[string]func(t *testing.T, c *crew, s *Sweeper){
		"before it begins": func(t *testing.T, c *crew, s *Sweeper) {
			_, err := importer.MakeBatch(t.Context(), c.l, &importer.Links{IDs: []string{"a"}}, mine)
			testutil.Must(t, err)
		},
		"after it was claimed": func(t *testing.T, c *crew, s *Sweeper) {
			s.sweep = func(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
				s.sweep = Run
				_, err := importer.MakeBatch(ctx, l, &importer.Links{IDs: []string{"a"}}, mine)
				testutil.Must(t, err)
				return Run(ctx, l, cfg)
			}
		},
		"while the list is read": func(t *testing.T, c *crew, s *Sweeper) {
			s.cfg.API.(*shelf).before = func(ctx context.Context, page int) error {
				s.cfg.API.(*shelf).before = nil
				_, err := importer.MakeBatch(ctx, c.l, &importer.Links{IDs: []string{"a"}}, mine)
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCrew(t, func(t *testing.T, c *crew) {
				c.night()
				s := c.sweeper(&shelf{links: 150})
				take(t, c, s)
				c.run(s)
				want := ledger.SweepRun{Due: firstNight, OK: true, Batch: "sweep-2000-01-02-2", Counts: found(150)}
				c.equal("the end", want, c.last(firstNight), noTimes)
				if a, b := c.get("sweep-2000-01-02"), c.get("sweep-2000-01-02-2"); a.Total != 1 || b.Total != 150 || len(c.made()) != 2 {
					t.Errorf("%+v\n%+v", a, b)
				}
			})
		})
	}
}

// A worker that was replaced while it stalled makes no batch.
func TestReplacedSweeper(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		c.night()
		s := c.sweeper(&shelf{links: 150})
		stalled := make(chan struct{})
		s.sweep = func(ctx context.Context, l *ledger.Ledger, cfg Config) (Result, error) {
			testutil.Must(t, c.rdb.HSet(t.Context(), "lc:sweep", "token", "of another").Err())
			<-ctx.Done() // by its next heartbeat
			close(stalled)
			if err := cfg.Confirm(Plan{}); !errors.Is(err, ledger.ErrSweepLost) && !errors.Is(err, context.Canceled) {
				t.Errorf("the batch would be made: %v", err)
			}
			return Result{}, ctx.Err()
		}
		c.run(s)
		<-stalled
		testutil.Advance(time.Second)
		c.equal("the other's", &ledger.SweepRun{Due: firstNight, Batch: "sweep-2000-01-02"}, c.sweeps().Running, noTimes)
		c.equal("tasks", map[string]string{"sweep:2000-01-02": "retry"}, c.tasks())
		if c.logged("sweep left alone") != 1 {
			t.Error("the log does not tell")
		}
	})
}

// Tasks that this release cannot read.
func TestForeignSweepTasks(t *testing.T) {
	inCrew(t, func(t *testing.T, c *crew) {
		s := c.sweeper(nil)
		s.runCtx = t.Context()
		err := s.ProcessTask(t.Context(), asynq.NewTask(task.TypeSweep, []byte(`{"v":2,"name":7}`)))
		if delay := task.RetryDelay(0, err, nil); delay != time.Minute {
			t.Errorf("a newer one: %v, again after %v", err, delay)
		}
		err = s.ProcessTask(t.Context(), asynq.NewTask("sweep:something-new", nil))
		if delay := task.RetryDelay(0, err, nil); delay != time.Minute {
			t.Errorf("a newer type: %v, again after %v", err, delay)
		}
		testutil.Must(t, s.ProcessTask(t.Context(), asynq.NewTask(task.TypeSweep, []byte("nonsense"))))
		if c.logged("of a newer release left alone") != 2 || c.logged("unreadable sweep task dropped") != 1 {
			t.Error("the log does not tell")
		}
		c.equal("the ledger", ledger.Sweeps{}, c.sweeps())

		p := payload(t)
		p.Selection = json.RawMessage(`{"grace":"long"}`)
		tk, err := p.Task()
		testutil.Must(t, err)
		testutil.Advance(time.Until(firstNight))
		testutil.Must(t, s.ProcessTask(t.Context(), tk))
		if last := c.sweeps().Last; last.OK || !strings.HasPrefix(last.Error, "read its selection: ") {
			t.Errorf("%+v", last)
		}
	})
}
