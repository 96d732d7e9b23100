package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
)

const (
	// maxOwnHold is how long a worker keeps its slices while it alone is on hold.
	maxOwnHold = 30 * time.Second

	// maxCrashes is how often a slice may crash its worker before its links fail.
	maxCrashes = 50

	// newerDelay is how long a worker leaves a task to workers of a newer release.
	newerDelay = time.Minute

	// refusedPause is the delay before the second attempt of a refused link, which decides.
	refusedPause = 500 * time.Millisecond
)

// errElsewhere means that a link needs no request.
var errElsewhere = errors.New("another worker has recorded the link's outcome")

// work counts what a worker holds.
type work struct {
	slices atomic.Int64
	unsent atomic.Int64  // links that were not sent yet
	asking atomic.Int64  // unsent links that wait for a slot
	busy   chan struct{} // receives when the first links arrive after idleness
}

// add counts links of a new slice.
func (h *work) add(links int) {
	if n := int64(links); h.unsent.Add(n) == n {
		select {
		case h.busy <- struct{}{}:
		default:
		}
	}
}

// sent notes that links are no longer unsent.
func (w *Worker) sent(links int) {
	w.work.unsent.Add(-int64(links))
	w.taker.freed()
}

// Unsent is the number of links in this worker's hands that were not sent yet.
func (w *Worker) Unsent() int { return int(w.work.unsent.Load() + w.taker.coming()) }

// Demand is the number of unsent links that do not wait for a slot yet.
func (w *Worker) Demand() int { return int(w.work.unsent.Load() - w.work.asking.Load()) }

// ProcessTask cancels or verifies one slice. It makes Worker an asynq.Handler.
func (w *Worker) ProcessTask(ctx context.Context, t *asynq.Task) error {
	in := &intake{t: w.taker}
	defer in.end(0)
	if t.Type() != task.TypeCancel && t.Type() != task.TypeVerify {
		return w.leave(fmt.Errorf("type %q: %w", t.Type(), task.ErrNewer))
	}
	s, err := task.Parse(t.Payload())
	if errors.Is(err, task.ErrNewer) {
		return w.leave(err)
	}
	if err != nil {
		// The ledger still has its links, and the feeder enqueues them again.
		w.log.Error("unreadable task dropped", "error", err)
		return nil
	}
	// A worker that is on hold alone keeps one slice to probe with and leaves others the rest.
	if n := w.work.slices.Add(1); n > 1 && w.heldAlone() {
		w.work.slices.Add(-1)
		return &task.Later{Delay: time.Second + rand.N(time.Second), Why: "this worker alone is on hold"}
	}
	defer w.work.slices.Add(-1)
	crashes, _ := asynq.GetRetryCount(ctx)
	if crashes > 0 && w.hasHigherCopy(s) {
		return nil
	}
	asked := time.Now()
	view, err := w.read(ctx, s)
	switch {
	case errors.Is(err, ledger.ErrNoBatch):
		w.log.Warn("task of a deleted batch dropped", "batch", s.Batch)
		return nil
	case errors.Is(err, ledger.ErrNewer):
		return w.leave(err)
	case err != nil:
		return &task.Later{Delay: time.Second, Why: err.Error()}
	case s.Incarnation != 0 && s.Incarnation != view.Incarnation: // a later batch has the same id
		w.log.Warn("task of a deleted batch dropped", "batch", s.Batch)
		return nil
	case view.Verifies != s.Verify: // the source of the batch decides
		w.log.Error("task of another kind than its batch dropped", "batch", s.Batch, "verify", s.Verify)
		return nil
	case view.State != ledger.Ready && view.State != ledger.Running:
		return nil // paused: the feeder enqueues its links again. done, aborted: nothing to do
	}
	replicationID, err := w.ledger.QueueReplicationID(ctx, task.PendingKey(s.Queue()))
	if err != nil {
		return &task.Later{Delay: time.Second, Why: err.Error()}
	}
	redeliveries := crashes + s.Redeliveries
	r := newSliceRun(ctx, w, s, view, asked, redeliveries > 0 || view.Suspect || replicationID != s.ReplicationID)
	r.in = in
	switch {
	case len(r.links) == 0:
		return r.end(nil)
	case w.cfg.Tracer != nil:
		return r.trace(t.Headers(), redeliveries)
	}
	return r.run(redeliveries)
}

// read reads a slice's records from the ledger.
func (w *Worker) read(ctx context.Context, s task.Slice) (ledger.SliceView, error) {
	view, err := w.ledger.Slice(ctx, s.Batch, s.Chunk, s.Index, len(s.Links))
	if view.FailedOver {
		w.log.Warn("redis failed over: links may have been sent without a record", "batch", s.Batch)
	}
	return view, err
}

// leave leaves a task to workers of a newer release.
func (w *Worker) leave(why error) error {
	w.newer.Do(func() { w.log.Warn("task of a newer release left alone", "error", why) })
	return &task.Later{Delay: newerDelay, Why: why.Error()}
}

// heldAlone says whether this process alone has been on hold for long: the API
// refuses its key, or this process gets no answers although others do.
func (w *Worker) heldAlone() bool {
	hold := w.limiter.Status().Hold
	return hold.Own && time.Since(hold.Since) > maxOwnHold
}

// hasHigherCopy says whether the feeder has enqueued a later copy of the task.
func (w *Worker) hasHigherCopy(s task.Slice) bool {
	s.Redeliveries++
	_, err := w.inspector.GetTaskInfo(s.Queue(), s.ID())
	return err == nil
}

// sliceRun is one run of one slice.
type sliceRun struct {
	w       *Worker
	gate    gate
	slice   task.Slice
	links   []*link         // without an outcome, and due
	resting []time.Duration // for each link that is not due yet, until it is
	proof   *batchProof
	span    trace.Span // nil: no traces
	in      *intake

	calls    sync.WaitGroup
	writes   sync.WaitGroup
	mu       sync.Mutex
	backoffs map[int]time.Duration // by attempt; the links of a slice share them
	lost     error                 // why an outcome could not be recorded
	panicked any                   // the value of a panic
}

// newSliceRun prepares a run. view was read at asked or later. redelivered: as in gate.
func newSliceRun(ctx context.Context, w *Worker, s task.Slice, view ledger.SliceView, asked time.Time, redelivered bool) *sliceRun {
	r := &sliceRun{w: w, slice: s, backoffs: map[int]time.Duration{}}
	r.gate.w, r.gate.slice, r.gate.ctx, r.gate.started, r.gate.redelivered = w, s, ctx, time.Now(), redelivered
	r.gate.seen.at, r.gate.seen.records = asked, view.Records
	r.proof = &batchProof{w: w, batch: s.Batch, first: w.firsts.of(firstKey{s.Batch, view.Incarnation})}
	for i, id := range s.Links {
		record := view.Records[i]
		if record.Outcome != ledger.None {
			continue
		}
		if rest := record.Rest(view.Created, view.Now); rest > 0 {
			r.resting = append(r.resting, rest)
			continue
		}
		record.Ambiguous = !s.Verify && (record.Ambiguous || redelivered)
		l := &link{id: id, position: s.Index + i, record: record, verify: s.Verify}
		if record.Plains > 0 {
			l.plain = view.Kinds[record.LinkStatus].Text
		}
		r.links = append(r.links, l)
	}
	return r
}

// run sends the slice's links and waits for the record. Too many redeliveries fail it.
func (r *sliceRun) run(redeliveries int) error {
	if redeliveries > maxCrashes {
		r.failAll(fmt.Sprintf("crashes its worker (%d times)", redeliveries))
		return r.end(nil)
	}
	return r.end(r.send())
}

// send sends the links in order and waits for all answers. It returns why it stopped early, or nil.
func (r *sliceRun) send() (stop error) {
	work := &r.w.work
	work.add(len(r.links))
	r.in.end(len(r.links))
	var cancel context.CancelFunc
	r.gate.waitCtx, cancel = context.WithCancel(r.w.stopCtx)
	defer cancel()
	defer context.AfterFunc(r.gate.ctx, cancel)()
	sent, stop := r.sendInTurn()
	r.w.sent(len(r.links) - sent)
	for _, l := range r.links[sent:] {
		l.back = true
	}
	r.calls.Wait()
	return stop
}

// sendInTurn waits for earlier slices, then sends. It returns how many and why it stopped.
func (r *sliceRun) sendInTurn() (sent int, stop error) {
	slots := &r.w.slots
	r.readTexts()
	if err := r.gate.take(slots.sender); err != nil {
		return 0, err
	}
	defer func() { <-slots.sender }()
	for _, l := range r.links {
		if err := r.gate.take(slots.calls); err != nil {
			return sent, err
		}
		slot, err := r.acquire(l)
		switch {
		case errors.Is(err, errElsewhere):
			<-slots.calls
			l.finished = true
			r.w.sent(1)
		case err != nil:
			<-slots.calls
			return sent, err
		default:
			r.start(l, slot)
		}
		sent++
	}
	return sent, nil
}

// readTexts reads the error texts of links that were tried before. Without one, a link only has a poorer text.
func (r *sliceRun) readTexts() {
	var tried []*link
	var positions []int
	for _, l := range r.links {
		if l.record.Settling || l.record.Attempts > 0 {
			tried, positions = append(tried, l), append(positions, l.position)
		}
	}
	texts, _ := r.w.ledger.ErrorTexts(r.gate.ctx, r.slice.Batch, r.slice.Chunk, positions)
	for i, text := range texts {
		tried[i].text = text
	}
}

// acquire waits for a slot to send l with.
func (r *sliceRun) acquire(l *link) (ratelimit.Slot, error) {
	// First unsent, then asking: otherwise a second slot could be reserved for a link.
	work := &r.w.work
	work.asking.Add(1)
	defer work.asking.Add(-1)
	if r.gate.doneElsewhere(l) {
		return ratelimit.Slot{}, errElsewhere
	}
	slot, err := r.gate.pass()
	if err != nil {
		return slot, err
	}
	if r.gate.doneElsewhere(l) {
		err = errElsewhere
	} else {
		err = r.journalStart(l)
	}
	if err != nil {
		r.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return slot, err
	}
	r.w.sent(1)
	return slot, nil
}

// journalStart notes that a DELETE of l is about to leave. A link that settles or is verified is only read.
func (r *sliceRun) journalStart(l *link) error {
	if r.w.cfg.Journal == nil || l.record.Settling || l.verify {
		return nil
	}
	err := r.w.cfg.Journal.Started(r.slice.Chunk, l.position, 1)
	if err != nil {
		r.fail(err)
	}
	return err
}

// sending is a link with its call slot and its limiter slot.
type sending struct {
	run  *sliceRun
	link *link
	slot ratelimit.Slot
}

// start sends l on an idle goroutine, whose stack has grown, or a new one.
func (r *sliceRun) start(l *link, slot ratelimit.Slot) {
	r.calls.Add(1)
	s := sending{r, l, slot}
	select {
	case r.w.idle <- s:
	default:
		go r.w.sendLinks(s)
	}
}

func (w *Worker) sendLinks(s sending) {
	c := callSlot{slots: &w.slots}
	for {
		c.hold()
		s.run.cancel(s.link, s.slot)
		c.release()
		s.run.conclude(s.link)
		s.run.calls.Done()
		select {
		case s = <-w.idle:
		case <-w.stopCtx.Done():
			return
		}
	}
}

// cancel advances one link as far as this run can.
func (r *sliceRun) cancel(l *link, slot ratelimit.Slot) {
	defer r.recover(l)
	if r.gate.leaseAge() > leaseDoubt && !l.verify {
		l.record.Ambiguous = true
	}
	callCtx := r.w.callCtx
	if r.span != nil {
		var span trace.Span
		callCtx, span = r.startLink(l)
		defer func() { endLink(span, l) }() // in a function: as in trace
	}
	c := r.canceler(callCtx)
	c.run(l, slot)
}

// recover handles a panic during a call for l.
func (r *sliceRun) recover(l *link) {
	p := recover()
	if p == nil {
		return
	}
	r.w.log.Error("panic while cancelling", "batch", r.slice.Batch, "link", l.id, "stack", string(debug.Stack()))
	r.mu.Lock()
	r.panicked = p
	r.mu.Unlock()
	l.touched, l.unattributed = true, nil
	if !l.verify {
		// The request may have been sent. asynq's retry count shows it; a journal needs this record.
		l.record.Ambiguous = true
		l.ambiguous++
	}
}

// conclude attributes an answer, for up to a second, without a call slot, and records the link.
func (r *sliceRun) conclude(l *link) {
	if again := r.resolve(l); !again && l.touched {
		r.record(l)
	}
}

// resolve handles an unattributed answer. again: the link is sent again.
func (r *sliceRun) resolve(l *link) (again bool) {
	defer r.recover(l)
	if l.unattributed != nil {
		c := r.canceler(r.w.callCtx)
		c.applyOwn(l, r.w.concernsAll(l.unattributed))
	}
	if !l.soon {
		return false
	}
	l.soon = false
	return r.sendAgain(l)
}

// sendAgain sends a link again within this run, if it can.
func (r *sliceRun) sendAgain(l *link) bool {
	calls := r.w.slots.calls
	if !r.w.pause(refusedPause) || r.gate.take(calls) != nil {
		return false
	}
	slot, err := r.gate.pass()
	if err != nil {
		<-calls
		return false
	}
	l.wait = 0
	r.start(l, slot)
	return true
}

// canceler returns a canceler whose requests use callCtx.
func (r *sliceRun) canceler(callCtx context.Context) canceler {
	permit := &ratelimit.Permit{Report: r.w.limiter.Report, Acquire: r.gate.again}
	callCtx = plexy.WithPermit(callCtx, permit)
	return canceler{
		permit: permit,
		api:    r.w.api, limiter: r.w.limiter, attempts: r.w.cfg.Attempts, observe: r.w.observe,
		proof: r.proof, key: r.w.cfg.KeyVersion, gate: r.gate.pass, callCtx: callCtx, backoff: r.backoff, took: &r.w.took,
	}
}

// backoff is the delay after attempt n, the same for all links of this run.
func (r *sliceRun) backoff(n int) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait, ok := r.backoffs[n]
	if !ok {
		wait = task.Backoff(n)
		r.backoffs[n] = wait
	}
	return wait
}

// record hands a link to the recorder.
func (r *sliceRun) record(l *link) {
	entry := ledger.Entry{
		Link:  l.id,
		Batch: r.slice.Batch, Chunk: r.slice.Chunk, Position: l.position,
		Record: l.record, LinkStatus: l.status, Error: l.text, Proven: l.proven,
		Payable: l.record.Outcome == ledger.NotCancellable && !plexy.Ended(l.status),
	}
	if !l.finished {
		entry.Wait = l.wait
		if l.record.Plains > 0 {
			entry.Kind = l.plain
		}
	}
	r.writes.Add(1)
	r.w.recorder.write(recordCall{
		Entry:     entry,
		ambiguous: l.ambiguous, settled: l.settled, verify: l.verify,
		finish: func(err error) {
			if err != nil {
				r.fail(err)
			}
			r.writes.Done()
		},
	})
}

// fail notes that an outcome could not be recorded. Without a journal, the worker stops.
func (r *sliceRun) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = err
	if !errors.Is(err, ledger.ErrNoBatch) && !errors.Is(err, errNotWritten) {
		r.w.stop(err)
	}
}

// failAll fails every link without sending it.
func (r *sliceRun) failAll(why string) {
	for _, l := range r.links {
		outcome := ledger.Failed
		switch {
		case l.verify && l.record.Settling:
			outcome, l.status = ledger.StillPayable, "active"
		case l.verify:
			outcome = ledger.Unknown
		}
		l.record.Outcome, l.record.Settling, l.text = outcome, false, why
		l.finished, l.touched = true, true
		r.record(l)
	}
}

// end waits until everything is recorded and returns asynq's result for the task.
func (r *sliceRun) end(stop error) error {
	r.writes.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panicked != nil {
		panic(r.panicked) // so that asynq counts it as a crash
	}
	if errors.Is(r.lost, ledger.ErrNoBatch) {
		return nil
	}
	if r.lost != nil {
		return fmt.Errorf("write outcomes: %w", r.lost) // counted as a crash: the next run cannot know what this one did
	}
	left, wait := r.left()
	switch {
	case left == 0:
		r.w.resting.set(r.slice.ID(), restingSlice{})
		return nil
	case errors.Is(stop, errNotRunning):
		return r.afterPause(left)
	case errors.Is(stop, errLease), r.gate.ctx.Err() != nil, r.gate.leaseAge() > leaseDoubt:
		// Counted as a crash: another worker may have the slice by now.
		return fmt.Errorf("%d links given back: %w", left, errLease)
	case stop != nil:
		return &task.Later{Why: fmt.Sprintf("%d links given back: %v", left, stop)}
	}
	r.w.resting.set(r.slice.ID(), restingSlice{links: left, until: time.Now().Add(wait), text: r.leftText()})
	return &task.Later{Delay: wait, Why: fmt.Sprintf("%d links to be tried again", left)}
}

// leftText is the error text of one of the links that are left.
func (r *sliceRun) leftText() string {
	for _, l := range r.links {
		if !l.finished && l.text != "" {
			return l.text
		}
	}
	return ""
}

// left counts the links without an outcome. wait is the time until the first of them is due.
func (r *sliceRun) left() (left int, wait time.Duration) {
	waits := slices.Clone(r.resting)
	for _, l := range r.links {
		if !l.finished {
			waits = append(waits, l.wait)
		}
	}
	if len(waits) == 0 {
		return 0, 0
	}
	return len(waits), max(0, slices.Min(waits))
}

// afterPause ends a run that saw the batch paused, aborted or deleted. If it runs again, the task
// stays in the queue. Otherwise the feeder enqueues its links on a resume.
func (r *sliceRun) afterPause(left int) error {
	state, err := r.w.states.get(r.gate.ctx, r.slice.Batch, 0)
	if err == nil && (state == ledger.Running || state == ledger.Ready) {
		return &task.Later{Why: fmt.Sprintf("%d links given back: the batch was paused for a moment", left)}
	}
	return nil
}
