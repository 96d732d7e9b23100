package ratelimit

import "time"

const (
	// failureDelay is how long failures that cannot yet be an outage wait for a call.
	failureDelay = 10 * time.Millisecond
	// countedTime is how much time the answers counted in one event may span.
	countedTime = 50 * time.Millisecond
)

// outbox holds what happened until the script knows of it.
type outbox struct {
	pending  []event
	failures int           // Transient ones in pending
	urgent   bool          // send pending at once
	sendBy   instant       // send pending by then
	carried  chan struct{} // closed when a call has carried pending

	// The events of the latest call, until its reply. A call without a reply may have been
	// executed, so they are sent again under the same number, which the script executes once.
	number      uint64
	unconfirmed []event
	confirmed   chan struct{} // nil: no call awaits a reply
}

// add adds an event. Good and unproven answers of about the same time become one event.
func (o *outbox) add(e event) {
	switch e.kind {
	case "transient":
		o.failures++
		o.sendBy = min(o.sendBy, e.at+failureDelay)
	case "proper", "unproven":
		e.count = 1
		for i := len(o.pending) - 1; i >= 0 && !e.alone; i-- {
			last := &o.pending[i]
			if last.count == 0 || last.kind == e.kind && !last.alone && e.at-last.at >= countedTime {
				break // the order of other kinds matters
			}
			if last.kind == e.kind && !last.alone {
				last.count++
				last.seq = max(last.seq, e.seq)
				return
			}
		}
	}
	o.pending = append(o.pending, e)
}

// next returns the events for the next call, and its number.
func (o *outbox) next() (uint64, []event) {
	if o.confirmed == nil {
		o.number++
		o.unconfirmed, o.confirmed = o.pending, o.carried
		o.pending, o.carried = nil, make(chan struct{})
		o.failures, o.urgent, o.sendBy = 0, false, never
	}
	return o.number, o.unconfirmed
}

// confirm notes that the latest call had a reply.
func (o *outbox) confirm() {
	close(o.confirmed)
	o.unconfirmed, o.confirmed = nil, nil
}
