package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/task"
)

// laterError gives a slice back to the queue for a time. It is no failure:
// asynq's retry count stays, so that a count above 0 always means a crash.
type laterError struct {
	delay time.Duration
	why   string
}

func (e *laterError) Error() string { return e.why }

const (
	// stateAge is how old a batch's state may be when a request is sent;
	// stateRefresh is when it is read again ahead of need.
	stateAge     = time.Second
	stateRefresh = 500 * time.Millisecond

	// leaseTime is asynq's lease of a task. Near its end another process may
	// have the slice too: from leaseDoubt on an earlier attempt may be
	// another's, after leaseEnd nothing is sent.
	leaseDoubt = 20 * time.Second
	leaseEnd   = 27 * time.Second

	// slowCall is how long a call may be without an answer before it gives its
	// place among the calls in flight to another.
	slowCall = 5 * time.Second

	// alonePatience is how long a worker keeps its slices while it alone is on hold.
	alonePatience = 30 * time.Second

	// crashesMost is how often a slice may take its worker down.
	crashesMost = 50

	// sendersMost is how many slices send at the same time. The others in hand
	// wait for their turn: links of one chunk that go out together are recorded
	// together. More than one, since it may have to wait for its batch's state.
	sendersMost = 4
)

// Reasons to stop sending in the middle of a slice.
var (
	errStopping   = errors.New("the worker is stopping")
	errNotRunning = errors.New("the batch does not run")
	errLease      = errors.New("the task's lease is over")
)

// errElsewhere skips one link.
var errElsewhere = errors.New("another worker has written the link's outcome")

// retryDelay only reads what the handler decided.
func retryDelay(crashes int, err error, _ *asynq.Task) time.Duration {
	var later *laterError
	switch {
	case errors.As(err, &later):
		return later.delay
	case errors.Is(err, errLease), errors.Is(err, asynq.ErrLeaseExpired), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return 0
	}
	return min(time.Minute, time.Second<<min(crashes, 6)) // a panic
}

// isFailure is true only for what is no error of ours.
func isFailure(err error) bool {
	var later *laterError
	return !errors.As(err, &later)
}

// ProcessTask cancels one slice: it is an asynq.Handler.
func (w *Worker) ProcessTask(ctx context.Context, t *asynq.Task) error {
	if t.Type() != task.TypeCancel {
		return w.leave(fmt.Errorf("type %q: %w", t.Type(), task.ErrNewer))
	}
	s, err := task.Parse(t.Payload())
	if errors.Is(err, task.ErrNewer) {
		return w.leave(err)
	}
	if err != nil {
		// The ledger still has its links; repair enqueues them again.
		w.log.Error("unreadable task dropped", "error", err)
		return nil
	}
	// A process that is on hold by itself keeps one slice to probe with, and leaves
	// the others to those that can send.
	if open := w.slices.Add(1); open > 1 && w.heldAlone() {
		w.slices.Add(-1)
		return &laterError{delay: time.Second + rand.N(time.Second), why: "this worker is on hold by itself"}
	}
	defer w.slices.Add(-1)
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
		return &laterError{delay: time.Second, why: err.Error()}
	case s.Incarnation != 0 && s.Incarnation != view.Incarnation:
		w.log.Warn("task of a deleted batch dropped", "batch", s.Batch) // another has its id
		return nil
	case view.State != ledger.Ready && view.State != ledger.Running:
		return nil // paused: the ledger has its links. done, aborted: nothing to do
	}
	line, err := w.ledger.QueueReplicationID(ctx, task.PendingKey)
	if err != nil {
		return &laterError{delay: time.Second, why: err.Error()}
	}
	run := newSliceRun(ctx, w, s, view, asked, crashes+s.Redeliveries > 0 || line != s.ReplicationID)
	if len(run.links) == 0 {
		return run.end(nil)
	}
	if w.cfg.Tracer != nil {
		return run.workTraced(t.Headers(), crashes+s.Redeliveries)
	}
	return run.work(crashes + s.Redeliveries)
}

// read reads what the ledger knows of a slice.
func (w *Worker) read(ctx context.Context, s task.Slice) (ledger.SliceView, error) {
	view, err := w.ledger.Slice(ctx, s.Batch, s.Chunk, s.Index, len(s.Links))
	if view.FailedOver {
		w.log.Warn("redis failed over: links may have been sent that it knows nothing of", "batch", s.Batch)
	}
	return view, err
}

// newerDelay is for how long a worker leaves a task to workers of a newer release.
const newerDelay = time.Minute

// leave leaves a task to workers of a newer release.
func (w *Worker) leave(why error) error {
	w.newer.Do(func() { w.log.Warn("task of a newer release left alone", "error", why) })
	return &laterError{delay: newerDelay, why: why.Error()}
}

// heldAlone says whether this process alone has been on hold for so long that its
// work was given back: its key is refused, or it gets no answers of the API.
func (w *Worker) heldAlone() bool {
	hold := w.limiter.Status().Hold
	return hold.Own && time.Since(hold.Since) > alonePatience
}

// hasHigherCopy says whether repair has enqueued a later copy of the task.
func (w *Worker) hasHigherCopy(s task.Slice) bool {
	s.Redeliveries++
	_, err := w.inspector.GetTaskInfo(task.QueueCancel, s.ID())
	return err == nil
}

// sliceRun is one run of one slice.
type sliceRun struct {
	ctx     context.Context // ends with the task's lease
	waits   context.Context // ends when the worker has to stop, too
	w       *Worker
	slice   task.Slice
	links   []*link         // those without an outcome that may be sent
	resting []time.Duration // how long the others have to wait yet
	created time.Time       // the batch
	proof   *batchProof
	started time.Time
	span    trace.Span // nil: no traces

	// redelivered: another worker may have the slice too, or have had it: one that was
	// stopped and goes on still writes down the answers that it had.
	redelivered bool
	looking     sync.Mutex // held while the ledger is read
	seen        struct {
		sync.Mutex
		at      time.Time // or later
		records []ledger.Record
	}

	calls    sync.WaitGroup
	writes   sync.WaitGroup
	mu       sync.Mutex
	backoffs map[int]time.Duration // by attempt: the links of a slice share it
	lost     error                 // an outcome could not be written
	panicky  any
}

func newSliceRun(ctx context.Context, w *Worker, s task.Slice, view ledger.SliceView, asked time.Time, shared bool) *sliceRun {
	r := &sliceRun{ctx: ctx, w: w, slice: s, started: time.Now(), redelivered: shared, created: view.Created, backoffs: map[int]time.Duration{}}
	r.proof = &batchProof{w: w, batch: s.Batch, first: w.firsts.of(s.Batch, view.Incarnation)}
	r.seen.at, r.seen.records = asked, view.Records
	for i, id := range s.Links {
		record := view.Records[i]
		if record.Outcome != ledger.None {
			continue
		}
		if rest := record.Rest(view.Created, view.Now); rest > 0 {
			r.resting = append(r.resting, rest)
			continue
		}
		// Who was at work when a process crashed may have sent it, or who has the
		// slice too since the queue's server failed over.
		record.Ambiguous = record.Ambiguous || shared
		l := &link{id: id, position: s.Index + i, record: record}
		if record.Plains > 0 {
			l.plain = view.Kinds[record.LinkStatus].Text
		}
		r.links = append(r.links, l)
	}
	return r
}

// work takes the slice as far as this run can; it took its worker down so often
// already.
func (r *sliceRun) work(crashes int) error {
	if crashes > crashesMost {
		r.failAll(fmt.Sprintf("crashes its worker (%d times)", crashes))
		return r.end(nil)
	}
	return r.end(r.send())
}

// send sends the slice's links in order and waits for all answers. It returns
// why it stopped, nil if every link had its turn.
func (r *sliceRun) send() (stop error) {
	w := r.w
	if n := int64(len(r.links)); w.unsent.Add(n) == n {
		select {
		case w.busy <- struct{}{}:
		default:
		}
	}
	var cancel context.CancelFunc
	r.waits, cancel = context.WithCancel(w.stopping)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	sent, stop := r.sendInTurn()
	w.unsent.Add(-int64(len(r.links) - sent))
	for _, l := range r.links[sent:] {
		l.back = true
	}
	r.calls.Wait()
	return stop
}

// sendInTurn sends the links when those of earlier slices have been sent, and
// returns how many it sent and why it stopped.
func (r *sliceRun) sendInTurn() (sent int, stop error) {
	w := r.w
	if err := r.take(w.senders); err != nil {
		return 0, err
	}
	defer func() { <-w.senders }()
	for _, l := range r.links {
		if err := r.take(w.tokens); err != nil {
			return sent, err
		}
		slot, err := r.ask(l)
		if errors.Is(err, errElsewhere) {
			<-w.tokens
			l.finished = true
			w.unsent.Add(-1)
			sent++
			continue
		}
		if err != nil {
			<-w.tokens
			return sent, err
		}
		r.calls.Add(1)
		w.start(sending{r, l, slot})
		sent++
	}
	return sent, nil
}

// sending is a link that has its place and its slot.
type sending struct {
	run  *sliceRun
	link *link
	slot ratelimit.Slot
}

// start takes a link further on a goroutine of its own: one that has ended
// another, if it is idle, because its stack has grown already.
func (w *Worker) start(s sending) {
	select {
	case w.idle <- s:
	default:
		go w.sendLinks(s)
	}
}

func (w *Worker) sendLinks(s sending) {
	p := callSlot{w: w}
	for {
		p.hold()
		s.run.one(s.link, s.slot)
		p.release()
		s.run.conclude(s.link)
		s.run.calls.Done()
		select {
		case s = <-w.idle:
		case <-w.stopping.Done():
			return
		}
	}
}

// ask waits for a slot to send l with.
func (r *sliceRun) ask(l *link) (ratelimit.Slot, error) {
	// The limiter must not take a link that has its slot already for one that
	// still wants one: so it leaves unsent before it ends asking.
	r.w.asking.Add(1)
	defer r.w.asking.Add(-1)
	if r.doneElsewhere(l) {
		return ratelimit.Slot{}, errElsewhere
	}
	if l.record.Settling || l.record.Attempts > 0 { // now, since a slot must be used at once
		l.text, _ = r.w.ledger.ErrorText(r.ctx, r.slice.Batch, r.slice.Chunk, l.position)
	}
	slot, err := r.gate()
	if err != nil {
		return slot, err
	}
	if r.doneElsewhere(l) {
		err = errElsewhere
	} else {
		err = r.journalStart(l)
	}
	if err != nil {
		r.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
		return slot, err
	}
	r.w.unsent.Add(-1)
	return slot, nil
}

// journalStart tells the journal that a DELETE of l is about to leave. A link
// that settles is only asked for, which changes nothing.
func (r *sliceRun) journalStart(l *link) error {
	if r.w.cfg.Journal == nil || l.record.Settling {
		return nil
	}
	err := r.w.cfg.Journal.Started(r.slice.Chunk, l.position, 1)
	if err != nil {
		r.fail(err)
	}
	return err
}

// one takes one link as far as this run can.
func (r *sliceRun) one(l *link, slot ratelimit.Slot) {
	defer r.recover(l)
	if r.leaseAge() > leaseDoubt {
		l.record.Ambiguous = true
	}
	if r.span != nil {
		r.cancelTraced(l, slot)
	} else {
		c := r.canceler(r.w.calls)
		c.run(l, slot)
	}
}

// recover takes in a panic while l was in hand.
func (r *sliceRun) recover(l *link) {
	p := recover()
	if p == nil {
		return
	}
	r.w.log.Error("panic while cancelling", "batch", r.slice.Batch, "link", l.id, "stack", string(debug.Stack()))
	r.mu.Lock()
	r.panicky = p
	r.mu.Unlock()
	// It may have been sent. The next run knows by asynq's count; a journal
	// knows by this note alone.
	l.record.Ambiguous, l.touched, l.trouble = true, true, nil
	l.ambiguous++
}

// conclude finds out whose trouble an answer was, which may take a second, and
// hands what became of the link to the recorder. The link has given its place
// among the calls in flight back.
func (r *sliceRun) conclude(l *link) {
	if r.resolve(l) {
		return
	}
	if l.touched {
		r.write(l)
	}
}

// resolve ends what began with a trouble. sent: the link was sent again.
func (r *sliceRun) resolve(l *link) (sent bool) {
	defer r.recover(l)
	if l.trouble != nil {
		c := r.canceler(r.w.calls)
		c.resolve(l, r.w.troubled(l.trouble))
	}
	if !l.soon {
		return false
	}
	l.soon = false
	return r.sendAgain(l)
}

// refusedPause is how long a link that the API refused waits for its second
// attempt, which decides.
const refusedPause = 500 * time.Millisecond

// sendAgain sends a link again within this run; false if that may not be.
func (r *sliceRun) sendAgain(l *link) bool {
	if !r.w.pause(refusedPause) || r.take(r.w.tokens) != nil {
		return false
	}
	slot, err := r.gate()
	if err != nil {
		<-r.w.tokens
		return false
	}
	l.wait = 0
	r.calls.Add(1)
	r.w.start(sending{r, l, slot})
	return true
}

// canceler takes links further; calls is the context of its requests.
func (r *sliceRun) canceler(calls context.Context) canceler {
	return canceler{
		api: r.w.api, limiter: r.w.limiter, attempts: r.w.cfg.Attempts, observe: r.w.observe,
		proof: r.proof, gate: r.gate, calls: calls, backoff: r.backoff, took: &r.w.took,
	}
}

// backoff is the delay after attempt n, the same for all links of this run.
func (r *sliceRun) backoff(n int) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait, ok := r.backoffs[n]
	if !ok {
		wait = backoff(n)
		r.backoffs[n] = wait
	}
	return wait
}

func (r *sliceRun) write(l *link) {
	entry := ledger.Entry{
		Batch: r.slice.Batch, Chunk: r.slice.Chunk, Position: l.position, Link: l.id,
		Record: l.record, LinkStatus: l.status, Error: l.text, Proven: l.proven,
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
		ambiguous: l.ambiguous, settled: l.settled,
		finish: func(err error) {
			if err != nil {
				r.fail(err)
			}
			r.writes.Done()
		},
	})
}

func (r *sliceRun) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = err
	if !errors.Is(err, ledger.ErrNoBatch) && !errors.Is(err, errNotWritten) {
		r.w.stop(err) // the journal cannot be written
	}
}

// failAll ends every link without sending it.
func (r *sliceRun) failAll(why string) {
	for _, l := range r.links {
		l.record.Outcome, l.record.Settling, l.text = ledger.Failed, false, why
		l.finished, l.touched = true, true
		r.write(l)
	}
}

// end waits until everything is written and says what becomes of the task.
func (r *sliceRun) end(stop error) error {
	r.writes.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panicky != nil {
		panic(r.panicky) // asynq counts it: that is how crashes are told
	}
	if errors.Is(r.lost, ledger.ErrNoBatch) {
		return nil
	}
	if r.lost != nil {
		return fmt.Errorf("write outcomes: %w", r.lost) // counted: the next run knows nothing of this one
	}
	left, wait := r.left()
	switch {
	case left == 0:
		r.w.resting.set(r.slice.ID(), restingSlice{})
		return nil
	case errors.Is(stop, errNotRunning):
		return r.afterPause(left)
	case errors.Is(stop, errLease), r.ctx.Err() != nil, r.leaseAge() > leaseDoubt:
		// Counted: others may have the slice by now, and have sent what is left.
		return fmt.Errorf("%d links given back: %w", left, errLease)
	case stop != nil:
		return &laterError{why: fmt.Sprintf("%d links given back: %v", left, stop)}
	}
	r.w.resting.set(r.slice.ID(), restingSlice{links: left, until: time.Now().Add(wait), text: r.leftText()})
	return &laterError{delay: wait, why: fmt.Sprintf("%d links to be tried again", left)}
}

// leftText is why one of the links is to be tried again.
func (r *sliceRun) leftText() string {
	for _, l := range r.links {
		if !l.finished && l.text != "" {
			return l.text
		}
	}
	return ""
}

// left counts the links without an outcome, and says how long the first of them
// has to wait.
func (r *sliceRun) left() (left int, wait time.Duration) {
	wait = -1
	add := func(w time.Duration) {
		left++
		if wait < 0 || w < wait {
			wait = w
		}
	}
	for _, l := range r.links {
		if !l.finished {
			add(l.wait)
		}
	}
	for _, rest := range r.resting {
		add(rest)
	}
	return left, max(0, wait)
}

// afterPause: the batch was seen paused, aborted or deleted. If it runs again
// by now the task stays, else it goes: the ledger has its links.
func (r *sliceRun) afterPause(left int) error {
	state, err := r.w.states.get(r.ctx, r.slice.Batch, 0)
	if err == nil && (state == ledger.Running || state == ledger.Ready) {
		return &laterError{why: fmt.Sprintf("%d links given back: the batch was paused for a moment", left)}
	}
	return nil
}

// callSlot is a call's callSlot among those in flight. A call that gets no answer for
// slowCall gives its callSlot to another, so that a few that hang do not slow the
// rest; as many again may do so.
type callSlot struct {
	w     *Worker
	timer *time.Timer

	mu    sync.Mutex
	since time.Time
	in    chan struct{} // the process's places or those for slow calls; nil: none
}

// hold takes over a place that was taken among the process's.
func (p *callSlot) hold() {
	p.mu.Lock()
	p.in, p.since = p.w.tokens, time.Now()
	p.mu.Unlock()
	if p.timer == nil {
		p.timer = time.AfterFunc(slowCall, p.slow)
	} else {
		p.timer.Reset(slowCall)
	}
}

func (p *callSlot) slow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in == nil || time.Since(p.since) < slowCall { // of an earlier call
		return
	}
	select {
	case p.w.slow <- struct{}{}:
		<-p.in
		p.in = p.w.slow
	default:
	}
}

func (p *callSlot) release() {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	<-p.in
	p.in = nil
}

// take takes one of the process's places.
func (r *sliceRun) take(places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-r.w.stopping.Done():
		return errStopping
	case <-r.ctx.Done():
		return errLease
	}
}

// gate waits until one request of the slice may be sent: the batch runs, the
// lease holds, and the limiter has granted a slot that is not stale.
func (r *sliceRun) gate() (ratelimit.Slot, error) {
	for {
		if err := r.batchRuns(stateRefresh); err != nil {
			return ratelimit.Slot{}, err
		}
		if err := r.refreshState(stateRefresh); err != nil {
			return ratelimit.Slot{}, err
		}
		began := time.Now()
		slot, err := r.w.limiter.Acquire(r.waits)
		if err != nil {
			return ratelimit.Slot{}, r.why(err)
		}
		r.w.observe.Waited(time.Since(began))
		if err := r.maySend(); err != nil {
			r.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
			return ratelimit.Slot{}, err
		}
		if !slot.Stale() {
			return slot, nil
		}
		r.w.limiter.Report(slot, ratelimit.Answer{Kind: ratelimit.Unused})
	}
}

func (r *sliceRun) maySend() error {
	if r.leaseAge() > leaseEnd {
		return errLease
	}
	if err := r.refreshState(stateAge); err != nil {
		return err
	}
	return r.batchRuns(stateAge)
}

// refreshState reads the records of a shared slice again, unless they are as they were no
// longer than maxAge ago.
func (r *sliceRun) refreshState(maxAge time.Duration) error {
	if !r.redelivered {
		return nil
	}
	r.looking.Lock()
	defer r.looking.Unlock()
	for {
		now := time.Now()
		r.seen.Lock()
		age := now.Sub(r.seen.at)
		r.seen.Unlock()
		if age <= maxAge {
			return nil
		}
		view, err := r.w.read(r.waits, r.slice)
		switch {
		case err == nil:
			r.w.states.set(r.slice.Batch, view.State, now)
			r.seen.Lock()
			r.seen.at, r.seen.records = now, view.Records
			r.seen.Unlock()
			return nil
		case errors.Is(err, ledger.ErrNoBatch), errors.Is(err, ledger.ErrNewer):
			return errNotRunning
		}
		if err := r.retryWait(); err != nil {
			return err
		}
	}
}

// doneElsewhere says whether another worker has written l's outcome, as of the last look.
func (r *sliceRun) doneElsewhere(l *link) bool {
	if !r.redelivered {
		return false
	}
	r.seen.Lock()
	defer r.seen.Unlock()
	return r.seen.records[l.position-r.slice.Index].Outcome != ledger.None
}

// leaseAge is how long ago the task's lease began or was renewed.
func (r *sliceRun) leaseAge() time.Duration {
	renewed := r.w.hook.LastRenewal()
	if renewed.Before(r.started) {
		renewed = r.started
	}
	return time.Since(renewed)
}

// batchRuns checks the batch's state as it was no longer than maxAge ago. While
// Redis cannot tell, it waits: then nothing is sent.
func (r *sliceRun) batchRuns(maxAge time.Duration) error {
	for {
		state, err := r.w.states.get(r.waits, r.slice.Batch, maxAge)
		switch {
		case err == nil && (state == ledger.Running || state == ledger.Ready):
			return nil
		case err == nil, errors.Is(err, ledger.ErrNoBatch):
			return errNotRunning
		}
		if err := r.retryWait(); err != nil {
			return err
		}
	}
}

// retryWait waits before Redis is asked again.
func (r *sliceRun) retryWait() error {
	select {
	case <-time.After(200 * time.Millisecond):
		return nil
	case <-r.waits.Done():
		return r.why(r.waits.Err())
	}
}

// why names the reason of a wait that was ended.
func (r *sliceRun) why(err error) error {
	switch {
	case r.w.stopping.Err() != nil:
		return errStopping
	case r.ctx.Err() != nil:
		return errLease
	}
	return err
}
