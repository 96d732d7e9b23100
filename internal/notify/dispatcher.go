package notify

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"linkcancel/internal/ledger"
)

const (
	// The delay of a delivery that fails while others work doubles from firstBackoff to maxBackoff.
	firstBackoff, maxBackoff = 2 * time.Second, 10 * time.Minute
	// While a receiver takes nothing, the pause between attempts doubles from a second to maxPause.
	// After longFailures it is longPause.
	maxPause, longFailures, longPause = 30 * time.Second, 40, 5 * time.Minute
	// storeRetry is the delay between attempts to write to Redis.
	storeRetry = time.Second
	// reload is how often the outbox is read again.
	reload = time.Minute
)

// Results of attempts, for metrics.
const (
	Delivered = "delivered"
	Failed    = "failed" // and will be repeated
	GivenUp   = "given_up"
)

// Dispatcher delivers what is in the outbox while its process leads. Each receiver has a goroutine of
// its own, so that one that hangs delays nobody else.
type Dispatcher struct {
	receivers []*Receiver
	ledger    *ledger.Ledger
	log       *slog.Logger
	observe   func(result string)

	mu      sync.Mutex
	leading bool
	loaded  time.Time                              // when the outbox was read last
	waiting map[string]map[string]*ledger.Delivery // by receiver and event
	woken   map[string]chan struct{}               // by receiver
}

// NewDispatcher makes a dispatcher; Run starts it. observe is called with the result of each attempt.
func NewDispatcher(receivers []*Receiver, l *ledger.Ledger, log *slog.Logger, observe func(result string)) *Dispatcher {
	d := &Dispatcher{receivers: receivers, ledger: l, log: log, observe: observe, waiting: map[string]map[string]*ledger.Delivery{}, woken: map[string]chan struct{}{}}
	for _, r := range receivers {
		d.woken[r.Name] = make(chan struct{}, 1)
		d.waiting[r.Name] = map[string]*ledger.Delivery{}
	}
	return d
}

// Run delivers while the process leads, until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) {
	var serving sync.WaitGroup
	for _, r := range d.receivers {
		serving.Go(func() { d.serve(ctx, r) })
	}
	serving.Wait()
}

// Rest stops the deliveries: another process leads.
func (d *Dispatcher) Rest() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leading = false
}

// Lead reads the outbox if that was not done lately, and starts the deliveries. What is for receivers
// that are not configured is given up after a day.
func (d *Dispatcher) Lead(ctx context.Context, now time.Time) error {
	d.mu.Lock()
	fresh := d.leading && now.Sub(d.loaded) < reload
	d.mu.Unlock()
	if fresh {
		return nil
	}
	all, err := d.ledger.Deliveries(ctx)
	if err != nil {
		return err
	}
	for _, one := range all {
		if _, known := d.woken[one.Receiver]; !known && now.Sub(one.Created) > maxAge {
			one.Ended, one.Error = now.UTC(), cmp.Or(one.Error, "the receiver is not configured any more")
			if err := d.ledger.EndDelivery(ctx, one); err != nil {
				return err
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.leading { // another process may have delivered what this one knows
		for _, r := range d.receivers {
			d.waiting[r.Name] = map[string]*ledger.Delivery{}
		}
	}
	d.leading, d.loaded = true, now
	d.add(all)
	return nil
}

// Put puts events into the outbox, for all receivers.
func (d *Dispatcher) Put(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	var all []ledger.Delivery
	for _, e := range events {
		for _, r := range d.receivers {
			one, err := r.Delivery(e)
			if err != nil {
				return err
			}
			all = append(all, one)
		}
	}
	if err := d.ledger.PutDeliveries(ctx, all); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(all)
	return nil
}

// add adds deliveries that are not known yet, and wakes their receivers.
func (d *Dispatcher) add(all []ledger.Delivery) {
	for _, one := range all {
		mine, known := d.waiting[one.Receiver]
		if !known {
			continue
		}
		if _, there := mine[one.ID]; !there {
			mine[one.ID] = &one
		}
		select {
		case d.woken[one.Receiver] <- struct{}{}:
		default:
		}
	}
}

// serve delivers to one receiver.
func (d *Dispatcher) serve(ctx context.Context, r *Receiver) {
	failures := 0
	for ctx.Err() == nil {
		one, wait := d.next(r.Name, time.Now(), failures > 0)
		if one == nil {
			d.sleep(ctx, r.Name, wait)
			continue
		}
		status, err := r.Send(ctx, *one)
		if ctx.Err() != nil {
			return // it may be sent again, by the next leader
		}
		one.Attempts++
		one.Status, one.Error = status, ""
		now := time.Now()
		recovered := err == nil && failures > 0
		switch {
		case err == nil:
			if recovered {
				d.log.Info("notifications are delivered again", "receiver", r.Name)
			}
			failures = 0
			one.OK, one.Ended = true, now.UTC()
			d.observe(Delivered)
		case now.Sub(one.Created) > maxAge:
			one.Error, one.Ended = err.Error(), now.UTC()
			d.log.Error("notification given up", "receiver", r.Name, "type", one.Type, "about", one.Subject, "attempts", one.Attempts, "error", err)
			d.observe(GivenUp)
		default:
			if failures++; failures == 1 {
				d.log.Warn("notification not delivered, trying for a day", "receiver", r.Name, "type", one.Type, "about", one.Subject, "error", err)
			}
			one.Error, one.Next = err.Error(), now.Add(backoff(one.Attempts)).UTC()
			d.observe(Failed)
		}
		d.store(ctx, *one)
		d.end(r.Name, one, recovered)
		if failures > 0 {
			d.rest(ctx, r.Name, failures)
		}
	}
}

// backoff is the delay after so many attempts.
func backoff(attempts int) time.Duration {
	longest := min(maxBackoff, firstBackoff<<min(attempts-1, 10))
	return longest/2 + rand.N(longest/2)
}

// pauseAfter is the pause after so many failures in a row of a receiver.
func pauseAfter(failures int) time.Duration {
	if failures > longFailures {
		return longPause
	}
	return min(maxPause, time.Second<<min(failures-1, 6))
}

// rest waits after failures in a row of a receiver. What was never tried is tried soon: the receiver
// may refuse one notification only.
func (d *Dispatcher) rest(ctx context.Context, receiver string, failures int) {
	pause(ctx, pauseAfter(1))
	for rested := pauseAfter(1); rested < pauseAfter(failures) && ctx.Err() == nil && !d.fresh(receiver); rested += pauseAfter(1) {
		pause(ctx, pauseAfter(1))
	}
}

// fresh reports whether a subject's next delivery was never tried.
func (d *Dispatcher) fresh(receiver string) bool {
	one, _ := d.next(receiver, time.Now(), true)
	return one != nil && one.Attempts == 0
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// sleep waits until there is something to deliver.
func (d *Dispatcher) sleep(ctx context.Context, receiver string, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.woken[receiver]:
	case <-ctx.Done():
	}
}

// store writes the result of an attempt. It tries until Redis takes it, or another process leads,
// which delivers it again.
func (d *Dispatcher) store(ctx context.Context, one ledger.Delivery) {
	write := d.ledger.SaveDelivery
	if !one.Ended.IsZero() {
		write = d.ledger.EndDelivery
	}
	for write(ctx, one) != nil && ctx.Err() == nil {
		d.mu.Lock()
		leading := d.leading
		d.mu.Unlock()
		if !leading {
			return
		}
		pause(ctx, storeRetry)
	}
}

// end forgets a delivery that has ended. recovered: the receiver took nothing before it, so that the
// others are due.
func (d *Dispatcher) end(receiver string, one *ledger.Delivery, recovered bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !one.Ended.IsZero() {
		delete(d.waiting[receiver], one.ID)
	}
	if recovered {
		for _, other := range d.waiting[receiver] {
			other.Next = one.Ended
		}
	}
}

// next returns a delivery that is due, or how long to wait for one. About one subject, the oldest comes
// first. Of several subjects, the one with the fewest attempts does. down: the receiver takes nothing,
// so any delivery shows whether it is back.
func (d *Dispatcher) next(receiver string, now time.Time, down bool) (*ledger.Delivery, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.leading {
		return nil, time.Second
	}
	first := map[string]*ledger.Delivery{} // by subject
	for _, one := range d.waiting[receiver] {
		if head := first[one.Subject]; head == nil || one.Number < head.Number {
			first[one.Subject] = one
		}
	}
	var chosen *ledger.Delivery
	wait := reload
	for _, one := range first {
		if left := one.Next.Sub(now); left > 0 && !down {
			wait = min(wait, left)
			continue
		}
		if chosen == nil || cmp.Or(cmp.Compare(one.Attempts, chosen.Attempts), one.Created.Compare(chosen.Created), cmp.Compare(one.ID, chosen.ID)) < 0 {
			chosen = one
		}
	}
	return chosen, wait
}
