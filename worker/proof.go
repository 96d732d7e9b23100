package worker

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// evidence remembers whether the base URL has ever shown that it is the API's:
// by a 204, by a GET that shows a link, or by a page of the list. Until then a
// 404 or a refusal of its own proves nothing, since the path may be wrong.
type evidence struct {
	ledger *ledger.Ledger
	url    string // "": kept in this process alone

	mu    sync.Mutex
	has   bool
	known []string // links that the API has shown, listed or cancelled, at most knownMost
	next  int      // of known, the one that makes way for a newer

	denied map[string]struct{} // links with an answer that would need evidence, at most deniedMost
	since  time.Time           // of the first of them
}

const (
	// knownMost is how many links are remembered to ask the API for, knownAsked how
	// many are asked for before unproven answers may end a link.
	knownMost  = 8
	knownAsked = 3

	// deniedMost is how many links are sent without evidence before sending stops:
	// the first few of a file may really be missing. After deniedWait fewer do.
	deniedMost = 20
	deniedWait = 3 * time.Second
)

// load asks the ledger for evidence that another process has had.
func (e *evidence) load(ctx context.Context) {
	if e.url == "" {
		return
	}
	api, err := e.ledger.API(ctx)
	if err != nil || api.URL != e.url || api.Proved.IsZero() {
		return // found out again
	}
	e.mu.Lock()
	e.has = true
	e.mu.Unlock()
}

func (e *evidence) ok() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.has
}

// given takes in evidence; link is the link that was shown or cancelled, "" if
// it was a page of the list.
func (e *evidence) given(link string) (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first = !e.has
	e.has = true
	switch {
	case link == "":
	case len(e.known) < knownMost:
		e.known = append(e.known, link)
	default:
		e.known[e.next] = link
		e.next = (e.next + 1) % knownMost
	}
	return first
}

// some returns links that the API has shown, listed or cancelled before, n at most.
func (e *evidence) some(n int) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := slices.Clone(e.known)
	rand.Shuffle(len(known), func(i, k int) { known[i], known[k] = known[k], known[i] })
	return known[:min(n, len(known))]
}

// deny takes in that a link got an answer that counts only with evidence. enough:
// so many have that sending is to stop if the control brings none.
func (e *evidence) deny(link string) (enough bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.denied == nil {
		e.denied, e.since = map[string]struct{}{}, time.Now()
	}
	if len(e.denied) < deniedMost {
		e.denied[link] = struct{}{}
	}
	return len(e.denied) >= deniedMost || time.Since(e.since) >= deniedWait
}

// write tells the ledger, for the other processes.
func (e *evidence) write(ctx context.Context) error {
	if e.url == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return e.ledger.ProveAPI(ctx, e.url)
}

// kindLinks is how many links must have got unproven answers of a kind before
// these may end a link.
const kindLinks = 10

// batchProof is the proof that a slice's links go by.
type batchProof struct {
	w     *Worker
	batch string
	first *firstCancel
}

// answered is part of proof.
func (p *batchProof) answered(slot ratelimit.Slot, link, method string, v verdict) ratelimit.Kind {
	w := p.w
	if v.step == stepLocal {
		w.lacks.Do(func() { w.log.Warn("cannot send: this machine lacks resources", "error", v.saw) })
	}
	if !v.proven && v.status != 0 && v.kind != ratelimit.Transient {
		w.observe.Unproven(v.status)
	}
	positive := v.outcome == ledger.Cancelled || v.linkStatus != ""
	if positive {
		w.proved(link)
	}
	if v.kind == ratelimit.Proper && !positive && !w.evidence.ok() {
		return ratelimit.Unproven // a proper answer of an API that may be another
	}
	switch v.kind {
	case ratelimit.Proper:
		w.proper.set(slot)
		w.control.proper()
	case ratelimit.Unproven:
		w.control.plain(link, method+" answered "+v.saw)
	}
	return v.kind
}

// proved is part of proof.
func (p *batchProof) proved(link, saw string) bool {
	if p.w.evidence.ok() {
		return true
	}
	enough := p.w.evidence.deny(link)
	r, ok := p.w.control.result(p.w.stopping, enough, controlWait)
	if enough && ok && !r.good {
		p.w.unproved("a link's request was answered "+saw, r)
	}
	return p.w.evidence.ok()
}

// trusted is part of proof.
func (p *batchProof) trusted(kind string) (bool, string) {
	if p.w.cfg.TrustPlain404 {
		return true, ""
	}
	ctx, cancel := context.WithTimeout(p.w.stopping, 2*time.Second)
	defer cancel()
	k, err := p.w.ledger.Kind(ctx, p.batch, kind)
	switch {
	case err != nil:
		return false, "what is known of such answers cannot be read"
	case k.Contradicted:
		return false, "other links got such answers too, and then the API's own"
	case k.Links < kindLinks:
		return false, "too few links got such answers to tell them from a gateway's"
	case !p.w.control.shows():
		return false, "the API does not show links that it has shown before"
	}
	return true, ""
}

// proved takes in evidence for the base URL.
func (w *Worker) proved(link string) {
	if !w.evidence.given(link) {
		return
	}
	w.control.provedNow()
	w.background.Go(func() {
		if err := w.evidence.write(w.stopping); err != nil && w.stopping.Err() == nil {
			w.log.Warn("cannot write that the API has answered", "error", err)
		}
	})
}
