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

// evidence records whether the base URL has ever proved to be the API's: by a 204,
// by a GET that shows a link, or by a page of the list. Before that a proven 404 or
// refusal proves nothing about a link, because the path may be wrong.
type evidence struct {
	ledger *ledger.Ledger
	url    string // "": kept in this process alone

	mu    sync.Mutex
	has   bool
	known []string // at most maxKnown links that the API showed, listed or cancelled
	next  int      // the index in known to replace next

	denied map[string]struct{} // at most maxDenied links whose answer needs evidence
	since  time.Time           // of the first of them
}

const (
	// maxKnown is how many known links are kept. knownAsked of them must still be shown.
	maxKnown   = 8
	knownAsked = 3

	// maxDenied is how many links are sent without evidence before sending stops: the first few of
	// a file may really be missing. After deniedWait, sending stops with fewer links.
	maxDenied  = 20
	deniedWait = 3 * time.Second
)

// load reads from the ledger whether another process found evidence.
func (e *evidence) load(ctx context.Context) {
	if e.url == "" {
		return
	}
	api, err := e.ledger.API(ctx)
	if err != nil || api.URL != e.url || api.Proved.IsZero() {
		return // this process looks for evidence itself
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

// given records evidence. link is the link shown or cancelled, "" for a page of the list.
func (e *evidence) given(link string) (first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first = !e.has
	e.has = true
	switch {
	case link == "":
	case len(e.known) < maxKnown:
		e.known = append(e.known, link)
	default:
		e.known[e.next] = link
		e.next = (e.next + 1) % maxKnown
	}
	return first
}

// some returns at most n links that the API showed, listed or cancelled before.
func (e *evidence) some(n int) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := slices.Clone(e.known)
	rand.Shuffle(len(known), func(i, k int) { known[i], known[k] = known[k], known[i] })
	return known[:min(n, len(known))]
}

// deny records a link that needs evidence. enough: stop if the control brings none.
func (e *evidence) deny(link string) (enough bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.denied == nil {
		e.denied, e.since = map[string]struct{}{}, time.Now()
	}
	if len(e.denied) < maxDenied {
		e.denied[link] = struct{}{}
	}
	return len(e.denied) >= maxDenied || time.Since(e.since) >= deniedWait
}

// write records the evidence in the ledger, for the other processes.
func (e *evidence) write(ctx context.Context) error {
	if e.url == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return e.ledger.ProveAPI(ctx, e.url)
}

// kindLinks is how many links need plain answers of a kind before these may end a link.
const kindLinks = 10

// batchProof implements proof for the links of one batch.
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
	if v.kind == ratelimit.OK && !positive && !w.evidence.ok() {
		return ratelimit.Unproven // the answer may come from another API
	}
	switch v.kind {
	case ratelimit.OK:
		w.lastProven.set(slot, v.key)
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
	r, ok := p.w.control.result(p.w.stopCtx, enough, controlWait)
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
	ctx, cancel := context.WithTimeout(p.w.stopCtx, 2*time.Second)
	defer cancel()
	k, err := p.w.ledger.Kind(ctx, p.batch, kind)
	switch {
	case err != nil:
		return false, "what is known of such answers cannot be read"
	case k.Contradicted:
		return false, "other links got such answers too, and then the API's own"
	case k.Links < kindLinks:
		return false, "too few links got such answers to distinguish them from a gateway's"
	case !p.w.control.shows():
		return false, "the API does not show links that it has shown before"
	}
	return true, ""
}

// proved records evidence that the base URL is the API's.
func (w *Worker) proved(link string) {
	if !w.evidence.given(link) {
		return
	}
	w.control.provedNow()
	w.background.Go(func() {
		if err := w.evidence.write(w.stopCtx); err != nil && w.stopCtx.Err() == nil {
			w.log.Warn("cannot record that the API has answered", "error", err)
		}
	})
}
