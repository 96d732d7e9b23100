package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"go.uber.org/goleak"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/task"
	"linkcancel/producer/feeder"
)

func TestMain(m *testing.M) {
	broker.LogTo(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m,
		// go-redis looks every second whether a server is back, and so sees only
		// then that its pool was closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
	)
}

// fleet is a ledger with the workers and feeders on it.
type fleet struct {
	t    *testing.T
	b    *broker.Broker
	l    *ledger.Ledger
	log  *slog.Logger
	mu   sync.Mutex
	all  []*Worker
	look time.Duration // how often until looks
	wait time.Duration // how long
}

func newFleet(t *testing.T, b *broker.Broker) *fleet {
	level := slog.LevelError + 1
	if testing.Verbose() {
		level = slog.LevelWarn
	}
	return &fleet{
		t: t, b: b, l: ledger.New(b.Client()),
		log:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
		look: 5 * time.Millisecond, wait: time.Minute,
	}
}

// bubble runs a test on the embedded Redis with a clock of its own, which
// jumps ahead whenever everything waits.
func bubble(t *testing.T, test func(t *testing.T, f *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := broker.Embedded()
		t.Cleanup(func() { _ = b.Close() })
		f := newFleet(t, b)
		f.look, f.wait = 200*time.Millisecond, 2*time.Hour
		test(t, f)
	})
	// go-redis keeps timers in a pool, and one of a bubble is of no use outside.
	runtime.GC()
	runtime.GC()
}

// until looks again and again until ok.
func (f *fleet) until(what string, ok func() bool) {
	f.t.Helper()
	ticker := time.NewTicker(f.look)
	defer ticker.Stop()
	over := time.NewTimer(f.wait)
	defer over.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-over.C:
			f.t.Fatalf("waited %v for %s", f.wait, what)
		}
	}
}

// pass lets time go by in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type ids struct {
	links []string
	next  int
}

func (s *ids) Next() (string, error) {
	if s.next == len(s.links) {
		return "", io.EOF
	}
	s.next++
	return s.links[s.next-1], nil
}

func (s *ids) Stats() importer.Stats { return importer.Stats{Links: int64(s.next)} }

// batch makes a sealed batch.
func (f *fleet) batch(id string, links ...string) ledger.Batch {
	f.t.Helper()
	b, err := importer.MakeBatch(f.t.Context(), f.l, &ids{links: links}, importer.BatchConfig{ID: id, Source: importer.SourceImport})
	must(f.t, err)
	return b
}

func (f *fleet) get(id string) ledger.Batch {
	f.t.Helper()
	b, err := f.l.Get(context.Background(), id)
	must(f.t, err)
	return b
}

// records reads what the ledger knows of every link of a batch, and checks that the counts add up.
func (f *fleet) records(id string) map[string]ledger.LinkRecord {
	f.t.Helper()
	b := f.get(id)
	all := map[string]ledger.LinkRecord{}
	var counts ledger.Counts
	for r, err := range f.l.Walk(context.Background(), b) {
		must(f.t, err)
		if _, twice := all[r.Link]; twice {
			f.t.Errorf("link %s is in the batch twice", r.Link)
		}
		all[r.Link] = r
		if r.Record.Outcome != ledger.None {
			counts[r.Record.Outcome]++
		}
	}
	if counts != b.Counts || int64(len(all)) != b.Total || b.Counts.Sum()+b.Pending() != b.Total {
		f.t.Errorf("counts %v of %d links, the batch has %v, total %d, pending %d", counts, len(all), b.Counts, b.Total, b.Pending())
	}
	return all
}

func (f *fleet) done(id string) {
	f.t.Helper()
	f.until("the end of batch "+id, func() bool {
		b, err := f.l.Get(f.t.Context(), id)
		return err == nil && b.State == ledger.Done // Redis may be away for a while
	})
}

// enqueue puts a slice into the queue, as a feeder does.
func (f *fleet) enqueue(s task.Slice) {
	f.t.Helper()
	t, err := s.Task()
	must(f.t, err)
	_, err = asynq.NewClientFromRedisClient(f.b.Client()).Enqueue(t)
	must(f.t, err)
}

// queued is how many slices are in the queue, in whatever state.
func (f *fleet) queued() int {
	f.t.Helper()
	inspector, size := asynq.NewInspectorFromRedisClient(f.b.Client()), 0
	queues, err := inspector.Queues()
	must(f.t, err)
	for _, queue := range queues {
		i, err := inspector.GetQueueInfo(queue)
		must(f.t, err)
		size += i.Size
	}
	return size
}

// process is a worker at work.
type process struct {
	f      *fleet
	w      *Worker
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run
}

// work starts a worker; it is stopped at the end of the test.
func (f *fleet) work(cfg Config, api Canceler, limiter Limiter) *process {
	f.t.Helper()
	if cfg.ID == "" {
		cfg.ID = "w1"
	}
	cfg.Log = f.log
	if cfg.Rate == 0 {
		cfg.Rate = 1000
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = time.Second
	}
	if limiter == nil {
		limiter = f.limiter(cfg.ID, ratelimit.Config{Rate: ratelimit.Rate(cfg.Rate), Burst: 10})
	}
	w, err := New(cfg, f.b, f.l, api, limiter)
	must(f.t, err)
	f.mu.Lock()
	f.all = append(f.all, w)
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{f: f, w: w, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = w.Run(ctx)
	}()
	f.t.Cleanup(func() {
		p.stop()
		// A place that is not given back is missing for good.
		f.until("the places of calls to be free", func() bool { return w.slots.inFlight() == 0 && len(w.slots.sender) == 0 })
	})
	return p
}

// stop ends the worker as SIGTERM does, and waits for it.
func (p *process) stop() error {
	p.cancel()
	return p.wait()
}

func (p *process) wait() error {
	over := time.NewTimer(p.f.wait)
	defer over.Stop()
	select {
	case <-p.ended:
	case <-over.C:
		p.f.t.Fatal("the worker does not end")
	}
	return p.err
}

// limitOf is a limiter's state at a rate.
func limitOf(rate float64) func() ratelimit.Status {
	return func() ratelimit.Status {
		return ratelimit.Status{Rate: ratelimit.Rate(rate), Ceiling: ratelimit.Rate(rate)}
	}
}

// tell tells all workers that there is work.
func (f *fleet) tell(_ context.Context, slices int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.all {
		w.Tell(slices)
	}
}

// feed starts a feeder; it is stopped at the end of the test.
func (f *fleet) feed(rate float64) (stop func()) {
	feeder := feeder.New(feeder.Config{Limit: limitOf(rate), Fed: f.tell, Keep: time.Hour, Log: f.log}, f.b.Client(), f.l)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		feeder.Run(ctx)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	f.t.Cleanup(stop)
	return stop
}

// start marks a batch as begun, with slices of that size, so that slices can be
// enqueued without a feeder.
func (f *fleet) start(b *ledger.Batch, slice int) {
	f.t.Helper()
	must(f.t, f.l.Start(f.t.Context(), b, 1, slice, "w1"))
}

// serve shows the sandbox to a real client, over the network.
func serve(t *testing.T, s *sandbox.Server, timeout time.Duration) *plexy.Client {
	t.Helper()
	server := httptest.NewServer(s)
	c, err := plexy.New(plexy.Config{BaseURL: server.URL + "/v1", Key: key(t), Timeout: timeout})
	must(t, err)
	t.Cleanup(func() {
		s.Close()
		c.CloseIdle()
		server.Close()
	})
	return c
}

// memory is the sandbox without a network, for bubbles: a Canceler whose calls take 15 s at most.
type memory struct{ s *sandbox.Server }

const memoryTimeout = 15 * time.Second

func (m memory) Cancel(ctx context.Context, id string) (int, error) {
	status, _, err := m.call(ctx, http.MethodDelete, id)
	return status, err
}

func (m memory) Get(ctx context.Context, id string) (plexy.Link, error) {
	status, body, err := m.call(ctx, http.MethodGet, id)
	if err != nil {
		return plexy.Link{}, err
	}
	var link struct{ ID, Status string }
	if json.Unmarshal(body, &link) != nil || link.ID != id {
		return plexy.Link{}, &plexy.Error{Method: http.MethodGet, Status: status, Message: "not a link", Kind: fmt.Sprint(status)}
	}
	return plexy.Link{ID: id, Status: link.Status}, nil
}

func (m memory) List(ctx context.Context, _, _ int) (plexy.Page, error) {
	status, body, err := m.send(ctx, http.MethodGet, "/v1/payment-links")
	var page struct{ Data []struct{ ID string } }
	if err == nil && json.Unmarshal(body, &page) != nil {
		err = &plexy.Error{Method: http.MethodGet, Status: status, Message: "not a list", Kind: fmt.Sprint(status)}
	}
	return plexy.Page{}, err
}

func (m memory) call(ctx context.Context, method, id string) (status int, body []byte, err error) {
	if err := plexy.CheckID(id); err != nil {
		return 0, nil, err
	}
	return m.send(ctx, method, "/v1/payment-links/"+id)
}

func (m memory) send(ctx context.Context, method, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil).WithContext(ctx)
	r.Header.Set("Authorization", "key")
	cut := func() (cut bool) {
		defer func() {
			if p := recover(); p == http.ErrAbortHandler {
				cut = true
			} else if p != nil {
				panic(p)
			}
		}()
		m.s.ServeHTTP(w, r)
		return false
	}()
	switch {
	case ctx.Err() != nil:
		return 0, nil, &plexy.TransportError{Method: method, Sent: true, Err: ctx.Err()}
	case cut:
		return 0, nil, &plexy.TransportError{Method: method, Sent: true, Err: io.ErrUnexpectedEOF}
	case w.Code/100 != 2:
		e := &plexy.Error{Method: method, Status: w.Code}
		var doc struct {
			Code          int
			Message, Type string
		}
		e.Proven = json.Unmarshal(w.Body.Bytes(), &doc) == nil && doc.Type != ""
		if e.Proven {
			e.Code, e.Message = fmt.Sprint(doc.Code), doc.Message
		} else {
			e.Kind = fmt.Sprintf("%d %s", w.Code, w.Header().Get("Content-Type"))
		}
		if v := w.Header().Get("Retry-After"); v != "" {
			after, err := time.ParseDuration(v + "s")
			e.RetryAfter, e.HasRetryAfter = after, err == nil
		}
		return w.Code, nil, e
	}
	return w.Code, w.Body.Bytes(), nil
}

// through is an API that asks first before it calls another.
type through struct {
	Canceler
	before func(ctx context.Context, method, id string) error
}

func (a through) Cancel(ctx context.Context, id string) (int, error) {
	if err := a.before(ctx, "DELETE", id); err != nil {
		return 0, err
	}
	return a.Canceler.Cancel(ctx, id)
}

func (a through) Get(ctx context.Context, id string) (plexy.Link, error) {
	if err := a.before(ctx, "GET", id); err != nil {
		return plexy.Link{}, err
	}
	return a.Canceler.Get(ctx, id)
}

// names makes n link ids.
func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("pl_%06d", i)
	}
	return all
}

// truth is what a sandbox knows of its links before anything is sent.
func truth(s *sandbox.Server) map[string]string {
	before := map[string]string{}
	for _, id := range s.IDs() {
		before[id], _ = s.Status(id)
	}
	return before
}

// check holds the outcomes of a batch against what the sandbox knows.
func (f *fleet) check(id string, s *sandbox.Server, before map[string]string) {
	f.t.Helper()
	records := f.records(id)
	if len(records) != len(before) {
		f.t.Errorf("%d links, want %d", len(records), len(before))
	}
	for link, was := range before {
		r := records[link]
		o := r.Record.Outcome
		is, _ := s.Status(link)
		applied := s.Applied(link)
		bad := ""
		switch {
		case o == ledger.None:
			bad = "no outcome"
		case applied > 1:
			bad = "applied twice"
		case o == ledger.Cancelled && is != "cancelled":
			bad = "is not cancelled"
		case applied == 1 && o != ledger.Cancelled:
			bad = "we cancelled it"
		case o == ledger.AlreadyCancelled && was != "cancelled":
			bad = "was not cancelled before"
		case o == ledger.Cancelled && applied == 0 && !r.Record.Ambiguous:
			bad = "somebody else cancelled it"
		case o == ledger.NotFound && was != "":
			bad = "is known to the API"
		case o == ledger.NotCancellable && r.LinkStatus != was && r.LinkStatus != unknownStatus:
			bad = "has another status"
		case o == ledger.NotCancellable && (was == "active" || was == "" || was == "cancelled") && r.LinkStatus != unknownStatus:
			bad = "could have been cancelled"
		case r.Record.Attempts == 0 && o != ledger.Aborted:
			bad = "was never tried"
		}
		if bad != "" {
			f.t.Errorf("%s: %s (was %q, is %q, applied %d times): %+v", link, bad, was, is, applied, r)
		}
	}
}
