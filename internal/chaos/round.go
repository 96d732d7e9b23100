package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/sandbox"
)

const (
	// attempts is low enough that a link fails within a round: its backoff is 31 s on the average.
	attempts = 6
	// callTimeout is how long a worker waits for the API.
	callTimeout = 3 * time.Second

	// What is promised after the last fault.
	goesOnWithin = 45 * time.Second
	activeWithin = 130 * time.Second
	// newerWait is how long a worker puts a slice of a newer release off.
	newerWait     = time.Minute
	finishWithin  = 5 * time.Minute
	commandWithin = 4 * time.Minute
)

// round is one run of a fleet under faults, on a Redis and an API of its own.
type round struct {
	plan   plan
	binary string
	dir    string   // logs and files; deleted if all is well
	data   string   // of Redis
	extra  []string // further arguments of the workers

	redis    *database
	api      *api
	receiver *receiver
	links    population
	workers  []*worker
	keyFile  string
	ledger   *ledger.Ledger
	notes    []string // figures of a scenario
	stalls   *stalls

	fresh  idle           // what the fleet holds with nothing to do
	began  time.Time      // of the faults
	ended  time.Time      // of the last one
	closed time.Time      // of the work
	after  sync.WaitGroup // what commands do after a fault

	confirms sync.RWMutex // read by each command while it runs

	mu         sync.Mutex
	dumped     sync.Once
	keys       []string // that were ever used
	batches    map[string]*batch
	timeline   []moment
	violations []violation
	errs       []error
	nextImport int               // place in links.imports
	made       int               // batches
	poisoned   map[string]string // links, and what they are always answered

	holds    [][2]time.Time // from the command's return to the release's start
	shut     [][2]time.Time // when the window was closed
	limits   []limitSpan
	upgraded bool // no process of the earlier program is started any more
	archived bool // reported once

	// One fault of a kind at a time.
	redisBusy, outage, gatewayBusy, keyBusy, pauseBusy, receiverBusy, commands sync.Mutex
}

// batch is what the suite knows of a batch that it made.
type batch struct {
	id      string
	parent  string         // of a retry
	links   []string       // in order; nil: not known
	asked   time.Time      // when the command that made it was started
	aborted time.Time      // when the command came back; zero: never
	abortBy time.Time      // when it was started
	pauses  [][2]time.Time // from the command's return to the next one's start
	sealed  bool           // the command that made it came back well
}

// limitSpan is a time in which the fleet's limit was set by command.
type limitSpan struct {
	from, to time.Time
	rate     float64
}

// moment is something that happened to the fleet.
type moment struct {
	from, to time.Time
	kind     kind
	what     string
}

// newRound starts a fleet.
func newRound(p plan, binary, dir string, extra ...string) (*round, error) {
	r := &round{plan: p, binary: binary, dir: dir, batches: map[string]*batch{}, poisoned: map[string]string{}, extra: extra}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := r.start(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *round) start() (err error) {
	// In memory, if the machine lets: an fsync for each write is no use here.
	shm := "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		shm = ""
	}
	if r.data, err = os.MkdirTemp(shm, "linkcancel-chaos-"); err != nil {
		return err
	}
	if r.redis, err = startRedis(context.Background(), r.plan.redis, r.dir, r.data); err != nil {
		return err
	}
	r.ledger = ledger.New(r.redis.rdb)
	cfg := sandbox.Config{
		Seed: r.plan.seed + uint64(r.plan.round)<<32, Links: 3000 + 6*r.plan.links, PageSize: 500,
		Paid: 0.02, Expired: 0.02, Cancelled: 0.02, Missing: 0.02,
		Latency: 5 * time.Millisecond, Jitter: 40 * time.Millisecond,
	}
	if !r.plan.clean {
		cfg.Faults = sandbox.Faults{Error500: 0.005, HTML502: 0.002, Cut: 0.005, CutBefore: 0.003, BadRequest: 0.003, Friendly: 0.003}
	}
	if r.links, err = populate(cfg); err != nil {
		return err
	}
	if r.api, err = startAPI(cfg); err != nil {
		return err
	}
	if r.receiver, err = startReceiver(); err != nil {
		return err
	}
	r.keys = append(r.keys, r.receiver.path, string(r.receiver.secret))
	if r.plan.wrong != "" {
		answer, err := sandbox.ParseAnswer(r.plan.wrong, sandbox.BodyAPI)
		if err != nil {
			return err
		}
		r.api.box.SetGateway(sandbox.Gateway{Answer: answer, Share: 1})
	}
	r.keyFile = filepath.Join(r.dir, "api-key")
	if err := r.rotate(r.newKey()); err != nil {
		return err
	}
	r.stalls = watchStalls()
	for n := range r.plan.workers {
		w, err := r.startWorker(n + 1)
		if err != nil {
			return err
		}
		r.workers = append(r.workers, w)
	}
	return until(context.Background(), "all workers to be ready", 30*time.Second, func() bool {
		return !slices.ContainsFunc(r.workers, func(w *worker) bool { return !w.ready() })
	})
}

// environment is that of all programs: nothing of this one's gets in.
func environment(more ...string) []string {
	env := more
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (r *round) environment(redisURL string) []string {
	mine := []string{"LINKCANCEL_REDIS_URL=" + redisURL, "PLEXY_BASE_URL=" + r.api.url(), "PLEXY_API_KEY_FILE=" + r.keyFile, "LINKCANCEL_LOG_LEVEL=debug"}
	return environment(append(mine, r.receiver.environment()...)...)
}

// close ends all that runs, and deletes the data of Redis.
func (r *round) close() {
	var all sync.WaitGroup
	for _, w := range r.workers {
		all.Go(w.close)
	}
	all.Wait()
	if r.api != nil {
		r.api.down()
		r.api.box.Close()
	}
	if r.receiver != nil {
		r.receiver.down()
	}
	if r.redis != nil {
		r.redis.close()
	}
	if r.stalls != nil {
		r.stalls.stop()
	}
	_ = os.RemoveAll(r.data)
}

// run lets the plan's faults loose, and waits until all work is done without help. What is left is finish's.
func (r *round) run(ctx context.Context) error {
	var err error
	if r.fresh, err = r.measure(); err != nil {
		return err
	}
	for range 2 {
		if _, err := r.importBatch(ctx, r.take(r.plan.links)); err != nil {
			return err
		}
	}
	if err := until(ctx, "the first requests", 30*time.Second, func() bool { return r.api.box.Counts().Total > 0 }); err != nil {
		return err
	}
	r.began = time.Now()
	faults := r.schedule
	if r.plan.instead != nil {
		faults = func(ctx context.Context) error { return r.plan.instead(ctx, r) }
	}
	err = faults(ctx)
	r.upgrade()
	r.ended = time.Now()
	if err == nil {
		err = r.awaitWork(ctx)
	}
	if err == nil {
		err = r.awaitNotified(ctx)
	}
	r.closed = time.Now()
	return errors.Join(append(r.failed(), ctx.Err(), err)...)
}

// program is what the next process runs: at random the program or the earlier one.
func (r *round) program() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.plan.before != "" && !r.upgraded && rand.IntN(2) == 0 {
		return r.plan.before
	}
	return r.binary
}

// upgrade ends the workers of the earlier program. They start again with the program.
func (r *round) upgrade() {
	r.mu.Lock()
	r.upgraded = true
	r.mu.Unlock()
	var all sync.WaitGroup
	for _, w := range r.workers {
		if p := w.process(); p != nil && p.cmd.Path == r.plan.before {
			all.Go(func() { w.end(p) })
		}
	}
	all.Wait()
}

// schedule lets the plan's faults loose, each at its time.
func (r *round) schedule(ctx context.Context) error {
	var all sync.WaitGroup
	for i, e := range r.plan.events {
		all.Go(func() {
			if sleep(ctx, time.Until(r.began.Add(e.at))) {
				r.do(ctx, i, e)
			}
		})
	}
	all.Wait()
	return nil
}

// finish waits until nothing moves, ends the fleet and checks all that it leaves.
func (r *round) finish(ctx context.Context) (*truth, error) {
	if err := r.awaitQueue(ctx); err != nil {
		return nil, err
	}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	return r.verify(ctx)
}

// failed are the errors of the suite itself.
func (r *round) failed() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errs
}

func (r *round) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *round) violate(v violation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.at.IsZero() {
		v.at = time.Now()
	}
	r.violations = append(r.violations, v)
}

// happened notes a fault. Its figures are counted from these notes.
func (r *round) happened(k kind, from time.Time, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timeline = append(r.timeline, moment{from: from, to: time.Now(), kind: k, what: fmt.Sprintf(format, args...)})
}

// take takes links that no batch has.
func (r *round) take(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, len(r.links.imports)-r.nextImport)
	links := r.links.imports[r.nextImport : r.nextImport+n]
	r.nextImport += n
	return links
}

// pickBatch picks a sealed batch that is not finished, "" if there is none.
func (r *round) pickBatch(ctx context.Context, e event) string {
	var open []string
	for _, id := range r.known() {
		if b, err := r.ledger.Get(ctx, id); err == nil && (b.State == ledger.Ready || b.State == ledger.Running) {
			open = append(open, id)
		}
	}
	if len(open) == 0 {
		return ""
	}
	return open[e.pick(len(open))]
}

// known are the ids of the sealed batches that the suite made.
func (r *round) known() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := slices.Sorted(maps.Keys(r.batches))
	return slices.DeleteFunc(ids, func(id string) bool { return !r.batches[id].sealed })
}

func (r *round) batch(id string, change func(*batch)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.batches[id]; b != nil {
		change(b)
	}
}

// awaitWork waits until every batch is finished, and checks that the fleet continues without help.
func (r *round) awaitWork(ctx context.Context) error {
	type progress struct {
		sum      int64
		at       time.Time
		reported bool
	}
	seen := map[string]*progress{}
	after := make(chan struct{})
	go func() {
		r.after.Wait()
		close(after)
	}()
	deadline := r.ended.Add(r.plan.finish)
	within := goesOnWithin
	if r.plan.before != "" {
		within += newerWait
	}
	for {
		batches, err := r.ledger.List(ctx)
		if err != nil {
			return err
		}
		open := 0
		for _, b := range batches {
			// One with more outcomes than links is not waited for: its sums are looked at.
			unverified := b.State == ledger.Done && b.Verify != "" && b.Verifications == ""
			if b.State == ledger.Importing || !unverified && (b.State == ledger.Done || b.Pending() <= 0) {
				continue
			}
			open++
			p := seen[b.ID]
			if p == nil {
				p = &progress{at: time.Now()} // a sweep by schedule may come later than the last fault
				seen[b.ID] = p
			}
			if sum := b.Counts.Sum(); sum != p.sum {
				p.sum, p.at = sum, time.Now()
			}
			if time.Since(p.at) > within && !p.reported {
				// A link that is tried again waits 32 s at most. A locked one may take
				// longer until all its attempts are used up.
				if p.at, err = r.lastTry(ctx, b, p.at); err != nil {
					return err
				}
			}
			if time.Since(p.at) > within && !p.reported {
				p.reported = true
				r.dump(ctx)
				r.violate(violation{rule: "work continues without help within 45 s", batch: b.ID,
					what: fmt.Sprintf("nothing happened in it for %v, and no fault was on: it is %s, %d links of %d are pending, not verified: %v", within, b.State, b.Pending(), b.Total, unverified)})
			}
		}
		switch {
		case open == 0 && isClosed(after):
			return nil
		case time.Now().After(deadline):
			r.violate(violation{rule: "work is finished", what: fmt.Sprintf("%d batches are not finished %v after the last fault", open, r.plan.finish)})
			return nil
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// dump keeps what the workers are doing beside their logs, once.
func (r *round) dump(ctx context.Context) {
	r.dumped.Do(func() {
		for _, w := range r.workers {
			for name, path := range map[string]string{"goroutines": "/debug/pprof/goroutine?debug=1", "metrics": "/metrics"} {
				if b, err := w.get(path); err == nil {
					_ = os.WriteFile(filepath.Join(r.dir, w.name+"."+name), b, 0o600)
				}
			}
		}
		_, _ = r.command(ctx, r.redis.url(), "rate", "show") // its output is kept like that of every command
		_, _ = r.command(ctx, r.redis.url(), "batch", "list")
	})
}

// lastTry is when the latest request for a pending link of a batch came, or at if that is later.
func (r *round) lastTry(ctx context.Context, b ledger.Batch, at time.Time) (time.Time, error) {
	pending := map[string]bool{}
	for row, err := range r.ledger.Walk(ctx, b) {
		if err != nil {
			return at, err
		}
		if row.Record.Outcome == ledger.None {
			pending[row.Link] = true
		}
	}
	for _, q := range r.api.box.Requests() {
		if pending[q.ID] && q.Time.After(at) {
			at = q.Time
		}
	}
	return at, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// until waits for something.
func until(ctx context.Context, what string, most time.Duration, done func() bool) error {
	for deadline := time.Now().Add(most); !done(); {
		switch {
		case time.Now().After(deadline):
			return fmt.Errorf("waited %v for %s", most, what)
		case !sleep(ctx, 100*time.Millisecond):
			return ctx.Err()
		}
	}
	return nil
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
