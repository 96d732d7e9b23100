package worker

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/sandbox"
)

// Only answers to later requests with the same key decide about a refusal.
func TestLastProven(t *testing.T) {
	t.Parallel()
	slot := func(seq uint64) ratelimit.Slot { return ratelimit.NewSlot(time.Now(), seq) }
	var p lastProven
	if p.ever() {
		t.Error("there was an answer before the first")
	}
	p.set(slot(5), 1)
	p.set(slot(4), 1) // its answer came late
	for _, tt := range []struct {
		seq, key uint64
		want     bool
	}{{3, 1, true}, {4, 1, true}, {5, 1, false}, {6, 1, false}, {3, 0, false}, {3, 2, false}} {
		if got := p.after(t.Context(), slot(tt.seq), tt.key, 0); got != tt.want {
			t.Errorf("after slot %d of key %d: %v", tt.seq, tt.key, got)
		}
	}
	if !p.ever() {
		t.Error("there was none")
	}
}

// That no control has succeeded yet does not show that the key may send none: an outdated key is
// refused, too. It takes a later request with the same key that worked.
func TestBlind(t *testing.T) {
	t.Parallel()
	w := &Worker{}
	c := newControl(w)
	w.lastProven.set(ratelimit.NewSlot(time.Now(), 4), 1)
	if c.blind(1) {
		t.Error("blind before the first control")
	}
	c.refusedSeq, c.refusedKey = 5, 1
	if c.blind(1) {
		t.Error("blind, though nothing has worked since a control was refused")
	}
	w.lastProven.set(ratelimit.NewSlot(time.Now(), 6), 1)
	if !c.blind(1) || c.blind(2) || c.blind(0) {
		t.Error("a later request worked with key 1, and only with it")
	}
	c.everGood = true
	if c.blind(1) {
		t.Error("blind, though a control has succeeded")
	}
}

// One refused link does not make a key bad, and a bad key is reported once.
func TestBadKeyAtTheSecondRefusal(t *testing.T) {
	t.Parallel()
	calls := 0
	w := &Worker{cfg: Config{BadKey: func(error) { calls++ }}}
	for n, want := range []int{0, 1, 1} {
		w.refused(&unattributed{verdict: verdict{saw: "401"}})
		if calls != want {
			t.Errorf("after %d refusals BadKey was called %d times, want %d", n+1, calls, want)
		}
	}
	calls = 0
	w = &Worker{cfg: w.cfg}
	w.lastProven.set(ratelimit.NewSlot(time.Now(), 1), 1)
	w.refused(&unattributed{})
	w.refused(&unattributed{})
	if calls > 0 {
		t.Error("BadKey was called, though the API had accepted the key")
	}
}

// Until the base URL has shown that it is the API's, the limiter takes no answer
// for one of the API.
func TestProvenAnswersNeedEvidence(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		api := sandbox.New(sandbox.Config{Gateway: sandbox.Gateway{Answer: says(t, "404:html"), Share: 1}})
		p := f.work(Config{}, memory{api}, nil)
		proof := &batchProof{w: p.w, batch: "b1"}
		slot := ratelimit.NewSlot(time.Now(), 1)
		refused := verdict{proven: true, status: 404, kind: ratelimit.OK, saw: "404"}
		if got := proof.answered(slot, "pl_1", "DELETE", refused); got != ratelimit.Unproven {
			t.Errorf("without evidence: %v", got)
		}
		cancelled := verdict{step: stepDone, outcome: ledger.Cancelled, proven: true, status: 204, kind: ratelimit.OK}
		if got := proof.answered(slot, "pl_2", "DELETE", cancelled); got != ratelimit.OK {
			t.Errorf("the evidence itself: %v", got)
		}
		if got := proof.answered(slot, "pl_1", "DELETE", refused); got != ratelimit.OK {
			t.Errorf("with evidence: %v", got)
		}
	})
}

func TestClassifyControl(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		good bool
		kind ratelimit.Kind
	}{
		{"a page", nil, true, ratelimit.OK},
		{"the API's own 404", answered(404), false, ratelimit.Unproven},
		{"a gateway's 404", unproven(404), false, ratelimit.Unproven},
		{"401", answered(401), false, ratelimit.Unauthorized},
		{"429", answered(429), false, ratelimit.Throttled},
		{"500", answered(500), false, ratelimit.Transient},
		{"no answer", errCut, false, ratelimit.Transient},
		{"no ports left", errLocal, false, ratelimit.Unused},
	} {
		r, answer := classifyControl(tt.err)
		if r.good != tt.good || r.kind != tt.kind || answer.Kind != tt.kind {
			t.Errorf("%s: %+v, %+v", tt.name, r, answer)
		}
	}
}

// A kind of answer that one link got, and then the API's own, ends no other link.
func TestContradictedKind(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fleet) {
		links := names(60)
		locked := map[string]sandbox.Answer{}
		for _, id := range links[20:40] {
			locked[id] = says(t, "404:html")
		}
		api := sandbox.New(sandbox.Config{IDs: links, Poison: locked})
		api.Script(links[50], says(t, "404:html"))
		before := truth(api)
		b := f.batch("b1", links...)
		f.work(Config{Rate: 50, Concurrency: 8, Attempts: 4}, memory{api}, nil)
		f.feed(50)
		f.done(b.ID)
		f.check(b.ID, api, before)
		f.want(b.ID, ledger.Counts{ledger.Cancelled: 40, ledger.Failed: 20})
	})
}

// A refusal that came during a hold for the key says nothing about the link, also if the key works by the
// time that it is looked at: an API may take a new key a moment after it is in the file.
func TestRefusedDuringAHold(t *testing.T) {
	t.Parallel()
	for held, want := range map[bool]bool{true: true, false: false} {
		w := &Worker{cfg: Config{KeyVersion: func() uint64 { return 1 }}, limiter: scriptLimiter{}, stopCtx: t.Context()}
		w.control = newControl(w)
		w.lastProven.seq, w.lastProven.key = 1, 1 // a later request with the key worked
		u := &unattributed{verdict: verdict{kind: ratelimit.Unauthorized, status: 401, proven: true, key: 1}, repeat: true, held: held}
		if got := w.concernsAll(u); got != want {
			t.Errorf("held: %v: concerns all: %v", held, got)
		}
	}
}

// The same if the hold begins and ends while another link, or the control, is to show whether the key is good.
func TestRefusedBeforeAHold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ held, control, want bool }{
		{held: true, want: true}, {held: false, want: false},
		{held: true, control: true, want: true}, {held: false, control: true, want: false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &Worker{cfg: Config{KeyVersion: func() uint64 { return 1 }}, limiter: scriptLimiter{}, stopCtx: t.Context()}
			flown := &flight{done: make(chan struct{}), result: controlResult{kind: ratelimit.OK, proven: true, key: 1}}
			w.control = newControl(w)
			w.control.flight = flown
			u := &unattributed{verdict: verdict{kind: ratelimit.Unauthorized, status: 401, proven: true, key: 1}, repeat: true}
			var got bool
			var asks sync.WaitGroup
			asks.Go(func() { got = w.concernsAll(u) })
			synctest.Wait()
			if tc.held {
				w.keyHolds.Add(1)
			}
			if tc.control {
				close(flown.done)
			} else {
				w.lastProven.set(ratelimit.NewSlot(time.Now(), 2), 1)
			}
			asks.Wait()
			if got != tc.want {
				t.Errorf("%+v: concerns all: %v", tc, got)
			}
		})
	}
}
