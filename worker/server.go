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
	// taskCheck is how often an idle server looks for work, delayedCheck how
	// often it moves tasks whose time has come.
	taskCheck    = 200 * time.Millisecond
	delayedCheck = time.Second
	// shutdownMore is what the end may take above the drain timeout.
	shutdownMore = 2 * time.Second
	beatEvery    = 500 * time.Millisecond
	beatIdle     = 2 * time.Second // with nothing in hand
	// At fastRate and above the feeder's look-ahead has not grown with the rate:
	// with older heartbeats it would run dry.
	beatFast = 100 * time.Millisecond
	fastRate = 10_000
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
	states    *states
	recorder  *recorder

	evidence evidence
	control  *control
	proper   lastProper
	firsts   firsts
	refusals atomic.Int64 // links refused while sending is on hold for the key
	took     average      // of calls
	resting  resting

	background sync.WaitGroup // what Run waits for at its end

	senders  chan struct{}  // places for slices that send
	tokens   chan struct{}  // places for calls in flight
	slow     chan struct{}  // places for calls that hang
	idle     chan sending   // to a goroutine that waits for a link
	slices   atomic.Int64   // in hand
	unsent   atomic.Int64   // links in hand that are not sent yet
	asking   atomic.Int64   // those of them that ask for a slot at present
	busy     chan struct{}  // the first links after idleness are in hand
	taking   atomic.Bool    // tasks are taken from the queue
	key      string         // the fingerprint of the key at the last heartbeat
	keySince time.Time      // since when
	silent   bool           // the last heartbeat could not be written
	newer    rate.Sometimes // to tell of tasks that are left alone
	lacks    rate.Sometimes // to tell of what this machine has run out of

	stopping context.Context // ends every wait
	stop     context.CancelCauseFunc
	calls    context.Context // of the requests: cut at the end of the drain
	cut      context.CancelFunc
}

// New makes a worker; Run starts it.
func New(cfg Config, b *broker.Broker, l *ledger.Ledger, api Canceler, limiter Limiter) (*Worker, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("worker configuration: %w", err)
	}
	w := &Worker{
		cfg: cfg, api: api, limiter: limiter, ledger: l, broker: b,
		inspector: asynq.NewInspectorFromRedisClient(b.Client()),
		hook:      &broker.ServerHook{},
		log:       cfg.Log, observe: cfg.Observer, states: newStates(l),
		evidence: evidence{ledger: l, url: cfg.API},
		firsts:   firsts{known: map[firstKey]*firstCancel{}},
		senders:  make(chan struct{}, sendersMost),
		tokens:   make(chan struct{}, cfg.Concurrency),
		slow:     make(chan struct{}, cfg.Concurrency),
		idle:     make(chan sending),
		busy:     make(chan struct{}, 1),
	}
	w.control = newControl(w)
	w.newer.First, w.newer.Interval = 1, newerDelay
	w.lacks.First, w.lacks.Interval = 1, time.Minute
	w.recorder = newRecorder(l, cfg.Journal, w.states, cfg.Observer, cfg.Log)
	w.stopping, w.stop = context.WithCancelCause(context.Background())
	w.calls, w.cut = context.WithCancel(context.Background())
	return w, nil
}

// Unsent is the number of links in hand that are not sent yet.
func (w *Worker) Unsent() int { return int(w.unsent.Load()) }

// Demand is the number of links in hand that have yet to ask for a slot.
func (w *Worker) Demand() int { return int(w.unsent.Load() - w.asking.Load()) }

// Taking says whether the worker takes tasks: it does from the start of its queue
// server until it has to end.
func (w *Worker) Taking() bool { return w.taking.Load() }

// Run works until ctx ends, then drains: it takes no more tasks, ends every
// wait, lets calls in flight finish within the drain timeout, and gives back
// what is left. The error is nil after an ordinary end.
func (w *Worker) Run(ctx context.Context) error {
	client := w.broker.NewServerClient(w.hook)
	defer client.Close()
	w.evidence.load(ctx)
	server := asynq.NewServerFromRedisClient(client, asynq.Config{
		// A slice stays open while one of its calls hangs. The tokens bound the
		// calls; twice as many slices keep the other links flowing.
		Concurrency:              2 * w.cfg.Concurrency,
		Queues:                   map[string]int{task.QueueCancel: 1},
		TaskCheckInterval:        taskCheck,
		DelayedTaskCheckInterval: delayedCheck,
		ShutdownTimeout:          w.cfg.DrainTimeout + shutdownMore,
		RetryDelayFunc:           retryDelay,
		IsFailure:                isFailure,
		Logger:                   broker.NewAsynqLogger(w.log),
		LogLevel:                 asynq.WarnLevel,
	})

	background := &w.background
	recording, stopRecording := context.WithCancel(context.Background())
	defer stopRecording()
	background.Go(func() { w.recorder.run(recording) })
	beating, stopBeating := context.WithCancel(context.Background())
	defer stopBeating()
	w.sendHeartbeat(beating)
	background.Go(func() { w.beats(beating) })

	if err := server.Start(w); err != nil {
		w.stop(err)
		stopRecording()
		stopBeating()
		background.Wait()
		return fmt.Errorf("start the queue server: %w", err)
	}
	w.taking.Store(true)
	select {
	case <-ctx.Done():
		w.stop(errStopping)
	case <-w.stopping.Done(): // the journal cannot be written
	}
	w.taking.Store(false)

	server.Stop()
	timer := time.AfterFunc(w.cfg.DrainTimeout, w.cut)
	// What the recorder cannot write by then is lost to memory, not to the
	// ledger: such a slice is known to have crashed.
	// And a Redis that is away would be waited for until the leases end.
	last := time.AfterFunc(w.cfg.DrainTimeout+shutdownMore/2, func() {
		stopRecording()
		stopBeating()
		w.hook.GiveUp()
	})
	server.Shutdown()
	timer.Stop()
	last.Stop()
	w.cut()
	stopRecording()
	stopBeating()
	background.Wait()
	if err := context.Cause(w.stopping); !errors.Is(err, errStopping) {
		return err
	}
	return nil
}

// Load is what the requests in flight are like.
type Load struct {
	InFlight, Concurrency int
	Took                  time.Duration // a mean of the latest calls; 0 before the first
	Resting               int           // links that wait to be tried again
	RestText              string        // why one of them does
}

// Load tells how busy the worker is with calls.
func (w *Worker) Load() Load {
	l := Load{InFlight: len(w.tokens) + len(w.slow), Concurrency: w.cfg.Concurrency, Took: w.took.get()}
	l.Resting, l.RestText = w.resting.sum(time.Now())
	return l
}

// beats publishes heartbeats, so that the feeder knows what this worker
// holds and how fast it is.
func (w *Worker) beats(ctx context.Context) {
	ticker := time.NewTicker(beatFast)
	defer ticker.Stop()
	last, told := time.Now(), true // when, and whether with something in hand
	for {
		select {
		case <-w.busy: // the feeder takes an idle worker at its word
			last, told = time.Now(), true
			w.sendHeartbeat(ctx)
		case <-ticker.C:
			busy, due := w.Unsent() > 0, beatEvery
			switch {
			case !busy && !told:
				due = beatIdle
			case w.limiter.Status().Rate >= fastRate:
				due = beatFast
			}
			if time.Since(last) >= due-beatFast/2 {
				last, told = time.Now(), busy
				w.sendHeartbeat(ctx)
			}
		case <-ctx.Done():
			gone, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = w.ledger.Deregister(gone, w.cfg.ID) // it expires by itself otherwise
			return
		}
	}
}

func (w *Worker) sendHeartbeat(ctx context.Context) {
	err := w.ledger.Heartbeat(ctx, w.heartbeat())
	switch {
	case ctx.Err() != nil:
	case err != nil && !w.silent:
		w.log.Warn("cannot write heartbeat", "error", err)
		w.silent = true
	case err == nil && w.silent:
		w.log.Info("heartbeat is written again")
		w.silent = false
	}
}

// heartbeat is what the worker tells the fleet of itself.
func (w *Worker) heartbeat() ledger.WorkerBeat {
	hold, load := w.limiter.Status().Hold, w.Load()
	beat := ledger.WorkerBeat{
		ID: w.cfg.ID, Rate: w.cfg.Rate, Unsent: w.Unsent(), Slots: w.cfg.Concurrency,
		Hold: string(hold.Reason), Own: hold.Own, Cause: hold.Cause,
		API: w.cfg.Host, Version: w.cfg.Version, KeySource: w.cfg.KeySource,
		InFlight: load.InFlight, Concurrency: load.Concurrency, TookMillis: load.Took.Milliseconds(),
	}
	if w.cfg.Key != nil {
		if key := w.cfg.Key(); key != w.key {
			w.key, w.keySince = key, time.Now()
		}
		beat.Key, beat.KeySince = w.key, w.keySince.Unix()
	}
	return beat
}
