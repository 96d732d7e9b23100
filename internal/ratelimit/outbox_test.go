package ratelimit

import "testing"

// A call without a reply may have been executed, so its events are sent again under its number, alone.
func TestOutboxRepeats(t *testing.T) {
	o := outbox{sendBy: never, carried: make(chan struct{})}
	call := func(number uint64, seqs ...uint64) {
		t.Helper()
		got, events := o.next()
		ok := got == number && len(events) == len(seqs)
		for i := range seqs {
			ok = ok && events[i].seq == seqs[i]
		}
		if !ok {
			t.Errorf("call %d with %+v, want %d with %v", got, events, number, seqs)
		}
	}
	o.add(event{kind: "throttled", seq: 1})
	call(1, 1)
	o.add(event{kind: "throttled", seq: 2})
	call(1, 1)
	o.confirm()
	call(2, 2)
	o.confirm()
	call(3)
}
