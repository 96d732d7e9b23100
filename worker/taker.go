package worker

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"linkcancel/internal/task"
	"linkcancel/internal/tick"
)

const (
	// inHand is how much work a worker takes, in time at the fleet's rate, and inHandMost how many links. The
	// rest stays in the queue, for other workers and out of this one's memory.
	inHand     = 500 * time.Millisecond
	inHandMost = 4000
	// lookAgain is how long a worker waits before it looks into empty queues again. It looks earlier when
	// it hears that there is work. An earlier release does not tell it. Under such a leader it looks every
	// lookUntold for some time after its latest slice.
	lookAgain  = 2 * time.Second
	lookUntold = 200 * time.Millisecond
	untold     = 10 * time.Second
	// lookLeading is the same for the process that leads. Nobody else puts slices into the queues.
	lookLeading = 10 * time.Second
	// moveAgain is how often delayed tasks are moved by a process that does not lead. The leader does it
	// all the time, but may be of a release that does not.
	moveAgain = 10 * time.Second
)

// taker is the broker.Pacer of a worker. asynq asks from one goroutine.
type taker struct {
	w     *Worker
	place int                  // of the latest queue in asynq's present pass over them, from 1
	over  bool                 // nothing is asked in the rest of it
	empty int                  // queues in a row that had no task
	found atomic.Int64         // when one had one, in Unix ns
	left  atomic.Int64         // of a leader: slices in the queues at most; negative: unknown
	told  chan struct{}        // receives when there may be work in the queue
	heard atomic.Int64         // when it was last told so, in Unix ns
	room  chan struct{}        // receives when the worker has room for another slice
	waits atomic.Bool          // for room
	taken atomic.Int64         // slices taken whose links are not counted in work yet
	size  atomic.Int64         // links of the latest slice
	moved map[string]time.Time // when delayed tasks were last moved, by key
}

func newTaker(w *Worker) *taker {
	t := &taker{w: w, told: make(chan struct{}, 1), room: make(chan struct{}, 1), moved: map[string]time.Time{}}
	t.left.Store(-1)
	return t
}

// tell says that there may be work in the queue: so many slices more, or 0 if that is not known.
func (t *taker) tell(slices int) {
	t.heard.Store(time.Now().UnixNano())
	if slices > 0 {
		t.count(int64(slices))
	} else {
		t.left.Store(-1)
	}
	t.wake()
}

// count adds to the slices in the queues, if their number is known.
func (t *taker) count(n int64) {
	for {
		old := t.left.Load()
		if old < 0 || t.left.CompareAndSwap(old, max(0, old+n)) {
			return
		}
	}
}

func (t *taker) wake() {
	select {
	case t.told <- struct{}{}:
	default:
	}
}

// AwaitTask waits until the worker has room, and the queues may have a task. After a wait asynq's pass over
// the queues is over.
func (t *taker) AwaitTask() (waited bool) {
	if t.place++; t.place > len(task.Queues) {
		t.place = 1
	}
	if t.place == 1 {
		t.over = false
	}
	t.over = t.over || t.await()
	return t.over
}

func (t *taker) await() (waited bool) {
	stop := t.w.stopCtx.Done()
	if !t.w.cfg.Leads() {
		t.left.Store(-1)
	}
	if t.empty >= len(task.Queues) || t.left.Load() == 0 {
		t.empty = 0
		timer := time.NewTimer(t.pause())
		select {
		case <-t.told:
			t.left.CompareAndSwap(0, -1) // this work may have come during the latest look
		case <-timer.C:
			t.left.Store(-1)
		case <-stop:
		}
		timer.Stop()
		waited = true
	} else if t.place == 1 {
		select {
		case <-t.told: // this look finds that work
		default:
		}
	}
	for t.w.stopCtx.Err() == nil {
		t.waits.Store(true)
		if t.hasRoom() {
			break
		}
		timer := time.NewTimer(lookAgain)
		select {
		case <-t.room:
		case <-timer.C:
		case <-stop:
		}
		timer.Stop()
		waited = true
	}
	t.waits.Store(false)
	return waited
}

// pause is how long to wait before a look into empty queues.
func (t *taker) pause() time.Duration {
	if t.w.cfg.Leads() {
		return tick.In(lookLeading)
	}
	wait := lookAgain
	if since(&t.found) < untold && since(&t.heard) > untold {
		wait = lookUntold
	}
	return wait + rand.N(wait/2)
}

// Asked notes whether a queue had a task.
func (t *taker) Asked(found bool) {
	if !found {
		if t.empty++; t.empty == len(task.Queues) {
			t.left.Store(0)
		}
		return
	}
	t.place, t.empty = 0, 0
	t.count(-1)
	t.taken.Add(1)
	t.found.Store(time.Now().UnixNano())
}

// intake is a slice between the queue and the count of unsent links.
type intake struct {
	t    *taker
	over atomic.Bool
}

// end notes that the slice's links are counted, or that it has none to send.
func (i *intake) end(links int) {
	if i.over.Swap(true) {
		return
	}
	if links > 0 {
		i.t.size.Store(int64(links))
	}
	i.t.taken.Add(-1)
	i.t.freed()
}

// freed lets AwaitTask look at the room again.
func (t *taker) freed() {
	if !t.waits.Load() || !t.hasRoom() {
		return
	}
	select {
	case t.room <- struct{}{}:
	default:
	}
}

func (t *taker) hasRoom() bool {
	most := max(1, min(float64(t.w.limiter.Status().Rate)*inHand.Seconds(), inHandMost))
	return float64(t.w.Unsent()) < most
}

// coming is about how many links are not counted in work yet. asynq may drop a task that it cannot read
// without a word, so that what was taken long ago does not count.
func (t *taker) coming() int64 {
	if since(&t.found) > untold {
		return 0
	}
	return max(0, t.taken.Load()) * max(1, t.size.Load())
}

// since returns the time since a number of Unix ns.
func since(at *atomic.Int64) time.Duration { return time.Since(time.Unix(0, at.Load())) }

// Moves says whether to move delayed tasks.
func (t *taker) Moves(key string) bool {
	if time.Since(t.moved[key]) < moveAgain && !t.w.cfg.Delayed() {
		return false
	}
	t.moved[key] = time.Now()
	return true
}

// Moved looks into the queues at once.
func (t *taker) Moved() {
	t.left.Store(-1)
	t.wake()
}
