package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/time/rate"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

const (
	// taskCheck is how long asynq waits after it found its queues empty, before the taker decides. A second
	// is how often asynq asks the taker whether to look for delayed tasks.
	taskCheck    = 2 * time.Millisecond
	delayedCheck = time.Second
	// shutdownMore is how much longer than the drain timeout a shutdown may take.
	shutdownMore = 2 * time.Second
)

// Worker drains slices from the queue.
type Worker struct {
	cfg       Config
	api       Canceler
	limiter   Limiter
	ledger    *ledger.Ledger
	broker    *broker.Broker
	inspector *asynq.Inspector
	hook      *broker.ServerHook
	log       *slog.Logger
	observe   Observer

	states     *states
	recorder   *recorder
	evidence   evidence
	control    *control
	lastProven lastProven
	firsts     recent[firstKey, firstCancel]
	refusals   atomic.Int64 // links refused while sending is on hold for the key
	keyHolds   atomic.Int64 // holds for the key that began
	took       average      // of calls
	resting    resting
	taker      *taker

	work       work
	slots      callSlots
	idle       chan sending // to a goroutine that waits for a link
	taking     atomic.Bool
	background sync.WaitGroup // Run waits for it

	// Warnings that would repeat are limited.
	newer rate.Sometimes // a task of a newer release was left alone
	lacks rate.Sometimes // this machine lacks resources

	stopCtx context.Context // ends every wait
	stop    context.CancelCauseFunc
	callCtx context.Context // of requests; ends with the drain timeout
	cut     context.CancelFunc
}

// New returns a worker. Run starts it.
func New(cfg Config, b *broker.Broker, l *ledger.Ledger, api Canceler, limiter Limiter) (*Worker, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("worker configuration: %w", err)
	}
	w := &Worker{
		cfg: cfg, api: api, limiter: limiter, ledger: l, broker: b,
		inspector: asynq.NewInspectorFromRedisClient(b.Client()),
		log:       cfg.Log, observe: cfg.Observer, states: &states{ledger: l},
		evidence: evidence{ledger: l, url: cfg.API},
		work:     work{busy: make(chan struct{}, 1)},
		slots:    newCallSlots(cfg.Concurrency),
		idle:     make(chan sending),
	}
	w.taker = newTaker(w)
	w.hook = broker.NewServerHook(w.taker)
	w.control = newControl(w)
	w.newer.First, w.newer.Interval = 1, newerDelay
	w.lacks.First, w.lacks.Interval = 1, time.Minute
	w.recorder = newRecorder(l, cfg.Journal, w.states, cfg.Observer, cfg.Log, w.working)
	if cfg.ShowsFailures {
		w.recorder.failures.level = slog.LevelInfo
		w.recorder.linger = lingerShown
	}
	w.stopCtx, w.stop = context.WithCancelCause(context.Background())
	w.callCtx, w.cut = context.WithCancel(context.Background())
	return w, nil
}

// Taking says whether the worker takes tasks: between the start and stop of its server.
func (w *Worker) Taking() bool { return w.taking.Load() }

// Run works until ctx ends, then drains: it ends every wait, lets calls in flight finish within the
// drain timeout, and returns what is left to the queue. The error is then nil.
func (w *Worker) Run(ctx context.Context) error {
	w.evidence.load(ctx)
	server := w.broker.NewServer(w.hook, w.log, asynq.Config{
		// A slice stays open while one of its calls hangs. The call slots bound the
		// calls, and twice as many slices keep the other links moving.
		Concurrency:              2 * w.cfg.Concurrency,
		Queues:                   task.Queues,
		TaskCheckInterval:        taskCheck,
		DelayedTaskCheckInterval: delayedCheck,
		ShutdownTimeout:          w.cfg.DrainTimeout + shutdownMore,
	})
	defer server.Close()

	// The recorder and the heartbeats outlive ctx: they are needed until the drain ends.
	lateCtx, stopLate := context.WithCancel(context.Background())
	defer w.background.Wait()
	defer stopLate()
	w.background.Go(func() { w.recorder.run(lateCtx) })
	w.background.Go(newHeartbeats(w, lateCtx).run)

	if err := server.Start(w); err != nil {
		w.stop(err)
		return fmt.Errorf("start the queue server: %w", err)
	}
	w.taking.Store(true)
	select {
	case <-ctx.Done():
		w.stop(errStopping)
	case <-w.stopCtx.Done(): // the journal cannot be written
	}
	w.taking.Store(false)

	server.Stop()
	cutCalls := time.AfterFunc(w.cfg.DrainTimeout, w.cut)
	defer cutCalls.Stop()
	// Outcomes that Redis did not take are lost. The next run treats the links as ambiguous.
	server.Shutdown(w.cfg.DrainTimeout+shutdownMore/2, stopLate)
	w.cut()
	if err := context.Cause(w.stopCtx); !errors.Is(err, errStopping) {
		return err
	}
	return nil
}

// working says whether links in hand were not sent yet, or not answered.
func (w *Worker) working() bool { return w.work.unsent.Load() > 0 || w.slots.inFlight() > 0 }

// Tell says that so many slices were put into the queue, 0 if their number is not known. Without it a worker
// looks every 2 s.
func (w *Worker) Tell(slices int) { w.taker.tell(slices) }

// Load describes the calls in flight.
type Load struct {
	InFlight, Concurrency int
	Took                  time.Duration // a mean of the latest calls; 0 before the first
	Resting               int           // links that wait for their next attempt
	RestText              string        // the error text of one of them
}

// Load returns the present load.
func (w *Worker) Load() Load {
	l := Load{InFlight: w.slots.inFlight(), Concurrency: w.cfg.Concurrency, Took: w.took.get()}
	l.Resting, l.RestText = w.resting.sum(time.Now())
	return l
}

// pause waits for d. It returns false if the worker begins to stop meanwhile.
func (w *Worker) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.stopCtx.Done():
		return false
	}
}
