package ratelimit

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
)

// model is a fleet in a bubble, and what the API sees of it.
type model struct {
	t         *testing.T
	server    *bubbleRedis
	client    redis.UniversalClient // not of a process
	start     time.Time
	processes []*process
	lines     sync.WaitGroup

	mu   sync.Mutex
	sent []time.Duration
}

// process is a process of a model. Its connection can be slow, and can be cut, which
// looks to the fleet as if the process was killed.
type process struct {
	*Fleet
	lines   *sync.WaitGroup
	calls   atomic.Int64
	cut     atomic.Bool
	latency atomic.Int64 // the longest time to Redis, and back, in ns
	sent    atomic.Int64
}

// line connects a process to Redis, and returns the process's end. Data on its way does
// not block either end.
func (p *process) line(server net.Conn) net.Conn {
	client, far := net.Pipe()
	carry := func(from, to net.Conn) {
		pieces := make(chan []byte, 1000)
		go func() {
			defer close(pieces)
			for {
				b := make([]byte, 1<<16)
				n, err := from.Read(b)
				if err != nil {
					return
				}
				pieces <- b[:n]
			}
		}()
		for b := range pieces {
			if n := p.latency.Load(); n > 0 {
				time.Sleep(time.Duration(n/2 + rand.Int64N(n/2+1)))
			}
			if _, err := to.Write(b); err != nil || p.cut.Load() {
				break
			}
		}
		_ = from.Close()
		_ = to.Close()
		for range pieces {
		}
	}
	p.lines.Go(func() { carry(server, far) })
	p.lines.Go(func() { carry(far, server) })
	return client
}

// countCalls counts the scripts that a client runs.
type countCalls struct{ *process }

func (c countCalls) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c countCalls) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.calls.Add(1)
		return next(ctx, cmd)
	}
}
func (c countCalls) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func newModel(t *testing.T, real *realRedis) *model {
	m := &model{t: t, start: time.Now()}
	t.Cleanup(m.lines.Wait)
	m.server = newBubbleRedis(t, real)
	m.client = m.server.dial(t, nil)
	return m
}

// add starts a process of the fleet.
func (m *model) add(cfg Config) *process { return m.join(FleetConfig{Config: cfg}) }

func (m *model) join(cfg FleetConfig) *process {
	p := &process{lines: &m.lines}
	client := m.server.dial(m.t, p.line)
	client.AddHook(countCalls{p})
	cfg.Redis, cfg.Process = client, fmt.Sprintf("process-%d", len(m.processes))
	p.Fleet = runFleet(m.t, cfg)
	m.processes = append(m.processes, p)
	return p
}

// drive calls a process from several goroutines until ctx ends, each with a pause of up
// to think after its request. All stop while stopped returns true, as after a SIGSTOP.
func (m *model) drive(ctx context.Context, p *process, callers int, think time.Duration, stopped func() bool) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				s, err := p.Acquire(ctx)
				if err != nil {
					return
				}
				for stopped != nil && stopped() {
					time.Sleep(100 * time.Millisecond)
				}
				if s.Stale() {
					p.Report(s, Answer{Kind: Unused})
					continue
				}
				m.mu.Lock()
				m.sent = append(m.sent, time.Since(m.start))
				m.mu.Unlock()
				p.sent.Add(1)
				time.Sleep(time.Millisecond + rand.N(think))
				p.Report(s, Answer{Kind: OK})
			}
		})
	}
	wg.Wait()
}

// windows checks that no window of a second or more has more requests than the rate
// allows. over is by which part it may.
func (m *model) windows(limit Rate, burst int, over float64) {
	m.t.Helper()
	slices.Sort(m.sent)
	for _, window := range []time.Duration{time.Second, 1700 * time.Millisecond, 5 * time.Second} {
		most := int(math.Ceil(float64(limit)*window.Seconds()*(1+over))) + burst - 1
		if got := fullest(m.sent, window); got > most {
			m.t.Errorf("%d requests in a window of %v, want at most %d", got, window, most)
		}
	}
}

// achieved returns the part of the limit that was used between two times.
func (m *model) achieved(limit Rate, from, to time.Duration) float64 {
	n := 0
	for _, at := range m.sent {
		if at >= from && at < to {
			n++
		}
	}
	return float64(n) / (to - from).Seconds() / float64(limit)
}

func TestFleetModel(t *testing.T) {
	real := startRealRedis(t)
	for _, tt := range []struct {
		name     string
		replicas int
		limit    Rate
		burst    int
		callers  func(i int) int // default 20
		latency  time.Duration
		over     float64        // see windows
		least    float64        // of the limit, in 2 s to 5 s and 8.5 s to 10 s
		event    func(m *model) // after 5 s; its effects end before 8.5 s
		stopped  func(m *model, i int) bool
	}{
		{name: "1 replica", replicas: 1, limit: 500, least: 0.99},
		{name: "10 replicas", replicas: 10, limit: 500, least: 0.99},
		{name: "50 replicas", replicas: 50, limit: 200, least: 0.985},
		{name: "50 replicas at a low rate", replicas: 50, limit: 5, least: 0.9},
		{name: "burst", replicas: 4, limit: 100, burst: 10, least: 0.98},
		{name: "uneven load", replicas: 8, limit: 500, least: 0.98, callers: func(i int) int {
			return []int{200, 0, 1, 1}[i%4]
		}},
		{name: "a killed process", replicas: 4, limit: 400, least: 0.985, event: func(m *model) { m.processes[2].cut.Store(true) }},
		{name: "a stopped process", replicas: 3, limit: 300, least: 0.985, event: func(m *model) {
			m.processes[1].latency.Store(int64(5 * time.Second))
			time.Sleep(2 * time.Second)
			m.processes[1].latency.Store(0)
		}, stopped: func(m *model, i int) bool { return i == 1 && m.processes[1].latency.Load() > 0 }},
		// The estimate of Redis' clock varies with the latency: see docs/guarantees.md. One
		// run in 80 has a second that is more than 1% over.
		{name: "slow Redis", replicas: 5, limit: 500, latency: 40 * time.Millisecond, over: 0.03, least: 0.97},
		{name: "very slow Redis", replicas: 3, limit: 200, latency: 150 * time.Millisecond, over: 0.06, least: 0.5},
		{name: "Redis away", replicas: 4, limit: 200, least: 0.985, event: func(m *model) {
			m.server.away.Store(true)
			time.Sleep(2 * time.Second)
			m.server.away.Store(false)
		}},
		{name: "Redis loses all", replicas: 4, limit: 200, burst: 5, least: 0.985, event: func(m *model) { m.must(m.server.state.FlushDB(m.t.Context()).Err()) }},
		{name: "Redis restarts with an older state", replicas: 4, limit: 200, least: 0.985, event: func(m *model) {
			ctx, state := m.t.Context(), m.server.state
			old, err := state.HGetAll(ctx, fleetKey).Result()
			m.must(err)
			time.Sleep(500 * time.Millisecond)
			m.must(state.Del(ctx, fleetKey).Err())
			m.must(state.HSet(ctx, fleetKey, old).Err())
		}},
		{name: "Redis' clock goes back", replicas: 4, limit: 200, least: 0.985, event: func(m *model) { m.shift(-10 * time.Second) }},
		{name: "Redis' clock goes forward a little", replicas: 4, limit: 200, over: 0.25, least: 0.985, event: func(m *model) { m.shift(time.Second) }},
		{name: "Redis' clock goes forward", replicas: 4, limit: 200, least: 0.985, event: func(m *model) { m.shift(10 * time.Second) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			length := 6 * time.Second
			if tt.event != nil {
				length = 10 * time.Second
			}
			synctest.Test(t, func(t *testing.T) {
				m := newModel(t, real)
				ctx, cancel := context.WithTimeout(t.Context(), length)
				defer cancel()
				var wg sync.WaitGroup
				for i := range tt.replicas {
					p := m.add(Config{Rate: tt.limit, Burst: tt.burst})
					p.latency.Store(int64(tt.latency))
					callers := 20
					if tt.callers != nil {
						callers = tt.callers(i)
					}
					var stopped func() bool
					if tt.stopped != nil {
						stopped = func() bool { return tt.stopped(m, i) }
					}
					wg.Go(func() { m.drive(ctx, p, callers, 10*time.Millisecond, stopped) })
				}
				if tt.event != nil {
					time.Sleep(5 * time.Second)
					tt.event(m)
				}
				wg.Wait()
				m.windows(tt.limit, max(1, tt.burst), tt.over)
				calls := int64(0)
				for _, p := range m.processes {
					calls += p.calls.Load()
				}
				before := m.achieved(tt.limit, 2*time.Second, 5*time.Second)
				after := before
				if tt.event != nil {
					after = m.achieved(tt.limit, 8500*time.Millisecond, length)
				}
				t.Logf("%.1f %%, %.1f %% of the limit; fullest second %d; %.1f grants a call",
					100*before, 100*after, fullest(m.sent, time.Second), float64(len(m.sent))/float64(calls))
				if min(before, after) < tt.least {
					t.Errorf("%.1f %%, %.1f %% of the limit, want %.1f %%", 100*before, 100*after, 100*tt.least)
				}
			})
		})
	}
}

// shift acts as if Redis' TIME was set.
func (m *model) shift(d time.Duration) {
	m.must(m.server.state.HIncrByFloat(m.t.Context(), fleetKey, "shift", float64(microsOf(d))).Err())
}

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Error(err)
	}
}
