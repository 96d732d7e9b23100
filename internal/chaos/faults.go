package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/sandbox"
)

// do brings a fault about, and ends it.
func (r *round) do(ctx context.Context, n int, e event) {
	var err error
	switch e.kind {
	case workerKilled, workerEnded, workerStopped:
		r.process(ctx, e)
	case connectionsCut, commandCut, replyCut, connectionSlow, connectionThin, halfOpen:
		err = r.network(ctx, e)
	case redisKilled, redisFull:
		err = r.redisFault(ctx, e)
	case failedOver:
		err = r.failover(ctx, e)
	case apiOutage, apiDown, apiBusy, apiHangs, apiMute, apiErrs:
		err = r.apiFault(ctx, n, e)
	case apiGateway:
		err = r.gateway(ctx, e)
	case apiMoved:
		r.api.box.Move()
		r.happened(e.kind, time.Now(), "")
	case poisoned:
		err = r.poison(ctx, e)
	case keyRotated:
		err = r.rotation(ctx, e)
	case importerKilled, importerEnded, importerHalted:
		err = r.importHit(ctx, r.take(400), e)
	case sweeperKilled, sweeperEnded, sweeperHalted:
		err = r.sweepHit(ctx, e)
	case batchPaused:
		err = r.pause(ctx, e)
	case batchAborted:
		err = r.abort(ctx, e)
	case fleetHeld:
		err = r.hold(ctx, e)
	case rateSet:
		err = r.setRate(ctx, e)
	case otherCancels:
		r.cancelElsewhere(e)
	case windowSet:
		err = r.window(ctx, e)
	case verified:
		err = r.verification(ctx, n, e)
	case receiverIll:
		err = r.receiverFault(ctx, e)
	}
	if err != nil && ctx.Err() == nil {
		r.fail(fmt.Errorf("%s: %w", e.kind, err))
	}
}

// free picks a worker that is not under such a fault, if there is one, and locks it.
func (r *round) free(e event, lock func(*worker) *sync.Mutex) *worker {
	first := e.pick(len(r.workers))
	for i := range r.workers {
		if w := r.workers[(first+i)%len(r.workers)]; lock(w).TryLock() {
			return w
		}
	}
	lock(r.workers[first]).Lock()
	return r.workers[first]
}

// process ends or stops a worker.
func (r *round) process(ctx context.Context, e event) {
	w := r.free(e, func(w *worker) *sync.Mutex { return &w.fault })
	defer w.fault.Unlock()
	began := time.Now()
	var p *process
	for p = w.process(); p == nil; p = w.process() { // it is being started
		if !sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
	switch e.kind {
	case workerKilled:
		p.kill()
	case workerEnded:
		w.end(p)
	case workerStopped:
		p.signal(syscall.SIGSTOP, false)
		sleep(ctx, e.lasts)
		p.signal(syscall.SIGCONT, false)
	}
	r.happened(e.kind, began, "%s", w.name)
}

// network spoils the connections of a worker to Redis.
func (r *round) network(ctx context.Context, e event) error {
	w := r.free(e, func(w *worker) *sync.Mutex { return &w.way.mu })
	defer w.way.mu.Unlock()
	began := time.Now()
	draw := e.rng()
	var err error
	what := w.name
	switch e.kind {
	case connectionsCut:
		err = w.way.cut()
	case commandCut, replyCut:
		// Somewhere in the middle of what each connection carries from now on.
		bytes := 1 + draw.IntN(4000)
		what = fmt.Sprintf("%s, after %d bytes", w.name, bytes)
		err = w.way.spoil("limit_data", e.kind == replyCut, map[string]int{"bytes": bytes})
	case connectionSlow:
		ms := 10 + draw.IntN(300)
		what = fmt.Sprintf("%s, %d ms", w.name, ms)
		err = w.way.spoil("latency", draw.IntN(2) == 0, map[string]int{"latency": ms, "jitter": ms / 2})
	case connectionThin:
		rate := 5 + draw.IntN(60)
		what = fmt.Sprintf("%s, %d KB/s", w.name, rate)
		err = w.way.spoil("bandwidth", draw.IntN(2) == 0, map[string]int{"rate": rate})
	case halfOpen:
		err = w.way.spoil("timeout", draw.IntN(2) == 0, map[string]int{"timeout": 0})
	}
	if err != nil {
		return err
	}
	if e.kind != connectionsCut {
		sleep(ctx, e.lasts)
		w.way.heal()
	}
	r.happened(e.kind, began, "%s", what)
	return nil
}

// redisFault kills the server and starts it on its AOF, or takes its memory away.
func (r *round) redisFault(ctx context.Context, e event) error {
	r.redisBusy.Lock()
	defer r.redisBusy.Unlock()
	began := time.Now()
	if e.kind == redisKilled {
		r.redis.servers[0].kill()
		sleep(ctx, e.lasts)
		err := r.redis.servers[0].start()
		r.happened(e.kind, began, "")
		return err
	}
	if err := r.redis.rdb.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		return err
	}
	sleep(ctx, e.lasts)
	err := r.redis.rdb.ConfigSet(context.WithoutCancel(ctx), "maxmemory", "0").Err()
	r.happened(e.kind, began, "")
	return err
}

// apiFault lets the API fail in some way.
func (r *round) apiFault(ctx context.Context, n int, e event) error {
	began := time.Now()
	draw := e.rng()
	what := ""
	switch e.kind {
	case apiOutage:
		r.outage.Lock()
		defer r.outage.Unlock()
		status := []int{500, 502, 503, 504}[draw.IntN(4)]
		what = fmt.Sprint(status)
		r.api.box.SetOutage(status)
		sleep(ctx, e.lasts)
		r.api.box.SetOutage(0)
	case apiDown:
		r.outage.Lock()
		defer r.outage.Unlock()
		r.api.down()
		sleep(ctx, e.lasts)
		if err := r.api.up(); err != nil {
			return err
		}
	case apiBusy:
		r.outage.Lock()
		defer r.outage.Unlock()
		limit := float64(r.plan.rate) * (0.3 + 0.5*draw.Float64())
		what = fmt.Sprintf("above %.0f/s", limit)
		r.api.box.SetRate(limit)
		sleep(ctx, e.lasts)
		r.api.box.SetRate(0)
	case apiHangs:
		r.api.fault(n, sandbox.Faults{Hang: 0.1, HangApplied: draw.IntN(2) == 0, Gets: draw.IntN(2) == 0})
	case apiMute:
		r.api.fault(n, sandbox.Faults{Cut: 0.3, Gets: draw.IntN(2) == 0})
	case apiErrs:
		r.api.fault(n, sandbox.Faults{Error500: 0.1, HTML502: 0.05, CutBefore: 0.05, Friendly: 0.05, Gets: draw.IntN(2) == 0})
	}
	switch e.kind {
	case apiHangs, apiMute, apiErrs:
		sleep(ctx, e.lasts)
		r.api.fault(n, sandbox.Faults{})
	}
	r.happened(e.kind, began, "%s", what)
	return nil
}

// gateways are what something in front of the API says instead of it.
var gateways = []string{"404:html", "404:text", "404:json", "404:grpc", "404:empty", "302:empty", "403:html", "405:html", "410:html", "422:json", "200:html"}

// gateway puts something in front of the API, of all requests, of half or a tenth of
// them, or of half of the links.
func (r *round) gateway(ctx context.Context, e event) error {
	r.gatewayBusy.Lock()
	defer r.gatewayBusy.Unlock()
	draw := e.rng()
	text := gateways[draw.IntN(len(gateways))]
	answer, err := sandbox.ParseAnswer(text, sandbox.BodyHTML)
	if err != nil {
		return err
	}
	g := sandbox.Gateway{Answer: answer, Share: []float64{1, 0.5, 0.1, 0.5}[e.pick(4)], Sticky: e.pick(4) == 3}
	began := time.Now()
	r.api.box.SetGateway(g)
	// Longer than a client that is in a hurry would ask again.
	sleep(ctx, e.lasts+3*time.Second)
	r.api.box.SetGateway(sandbox.Gateway{})
	r.happened(e.kind, began, "%s, share %v, by link: %v", text, g.Share, g.Sticky)
	return nil
}

// poisons are what a link may always be answered, whatever is well with the others.
var poisons = []string{"429:api:5s", "503:api:5s", "401:api", "403:html"}

// poison imports links of which one for each of the poisons is locked for ever.
func (r *round) poison(ctx context.Context, e event) error {
	began := time.Now()
	links := r.take(60)
	left := poisons
	for _, id := range links {
		if len(left) > 0 && r.links.status[id] == "active" {
			if err := r.lock(id, left[0]); err != nil {
				return err
			}
			left = left[1:]
		}
	}
	_, err := r.importBatch(ctx, links)
	r.happened(e.kind, began, "%d links", len(poisons)-len(left))
	return err
}

// newKey makes a key that no log may show.
func (r *round) newKey() string {
	key := "sk-chaos-" + strings.ToLower(rand.Text())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, key)
	return key
}

// rotate gives the API and the workers a key at once.
func (r *round) rotate(key string) error {
	r.api.box.SetKey(key)
	return r.writeKey(key)
}

// writeKey replaces the key file as one that is edited: never half written.
func (r *round) writeKey(key string) error {
	next := r.keyFile + ".next"
	if err := os.WriteFile(next, []byte(key+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(next, r.keyFile)
}

// rotation changes the key, first at the API or first in the file.
func (r *round) rotation(ctx context.Context, e event) error {
	r.keyBusy.Lock()
	defer r.keyBusy.Unlock()
	began := time.Now()
	key := r.newKey()
	var err error
	if e.pick(2) == 0 {
		r.api.box.SetKey(key)
		sleep(ctx, e.lasts)
		err = r.writeKey(key)
	} else {
		err = r.writeKey(key)
		sleep(ctx, e.lasts)
		r.api.box.SetKey(key)
	}
	r.happened(e.kind, began, "")
	return err
}

// newBatch notes a batch that is about to be made of links.
func (r *round) newBatch(id string, links []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches[id] = &batch{id: id, links: links, asked: time.Now()}
}

// importFile writes links into a file and names their batch.
func (r *round) importFile(links []string) (id, file string, err error) {
	r.mu.Lock()
	r.made++
	id = fmt.Sprintf("import-%02d", r.made)
	r.mu.Unlock()
	file = filepath.Join(r.dir, id+".csv")
	r.newBatch(id, links)
	return id, file, os.WriteFile(file, []byte("payment_link_id\n"+strings.Join(links, "\n")+"\n"), 0o600)
}

// importBatch imports links as a new batch.
func (r *round) importBatch(ctx context.Context, links []string, flags ...string) (id string, err error) {
	id, file, err := r.importFile(links)
	if err != nil {
		return id, err
	}
	return id, r.imports(ctx, id, file, flags...)
}

func (r *round) imports(ctx context.Context, id, file string, flags ...string) error {
	_, err := r.command(ctx, r.redis.url(), append([]string{"import", file, "--yes", "--id", id}, flags...)...)
	if err == nil {
		r.batch(id, func(b *batch) { b.sealed = true })
	}
	return err
}

// importHit imports links by an importer that is hit. Then it is started again, as who
// sees it fail would do.
func (r *round) importHit(ctx context.Context, links []string, e event) error {
	id, file, err := r.importFile(links)
	if err != nil {
		return err
	}
	way, url, err := r.way(id)
	if err != nil {
		return err
	}
	if way != nil {
		// A slow way to Redis: the fault shall hit in the middle.
		if err := way.spoil("bandwidth", false, map[string]int{"rate": 20}); err != nil {
			return err
		}
	}
	return r.hit(ctx, e, id, url, func(int) error {
		way.close() // nothing of it comes later
		sealed, err := r.whetherSealed(ctx, id)
		switch {
		case err != nil:
			return err
		case sealed:
			r.batch(id, func(b *batch) { b.sealed = true })
			return nil
		}
		// The id of an import that crashed is free 30 s later.
		if e.pick(3) > 0 {
			id += againSuffix
			r.newBatch(id, links)
		}
		return r.imports(ctx, id, file)
	}, "import", file, "--yes", "--id", id)
}

// againSuffix names the second try of an import.
const againSuffix = "-again"

// whetherSealed says whether an import came through.
func (r *round) whetherSealed(ctx context.Context, id string) (bool, error) {
	for deadline := time.Now().Add(commandWithin); ; {
		b, err := r.ledger.Get(ctx, id)
		switch {
		case err == nil && b.State != ledger.Importing:
			return true, nil
		case err == nil, errors.Is(err, ledger.ErrNoBatch):
			return false, nil
		case time.Now().After(deadline) || !sleep(ctx, 100*time.Millisecond):
			return false, err
		}
	}
}

// sweepHit makes a batch of what has become stale, by a sweeper that is hit, and if
// need be by another.
func (r *round) sweepHit(ctx context.Context, e event) error {
	args := []string{"sweep", "--yes", "--older-than", fmt.Sprintf("%dd", sweepOlder), "--rate", fmt.Sprintf("%d/s", r.plan.rate)}
	r.mu.Lock()
	r.made++
	name := fmt.Sprintf("sweep-%02d", r.made)
	r.mu.Unlock()
	return r.hit(ctx, e, name, r.redis.url(), func(code int) error {
		if code == 0 {
			return nil
		}
		_, err := r.command(ctx, r.redis.url(), args...)
		return err
	}, args...)
}

// hit runs a command of the command line and lets a fault hit it. then is called after
// its end, with its exit code, or -1 if a signal ended it.
func (r *round) hit(ctx context.Context, e event, name, url string, then func(code int) error, args ...string) error {
	began := time.Now()
	r.confirms.RLock()
	p, err := start(filepath.Join(r.dir, name+".log"), r.environment(url), r.program(), args...)
	if err != nil {
		r.confirms.RUnlock()
		return err
	}
	r.after.Go(func() {
		if !p.ended(commandWithin) {
			r.violate(violation{rule: "a command comes to an end", what: fmt.Sprintf("%s did not end within %v", name, commandWithin)})
			p.kill()
		}
		r.confirms.RUnlock()
		if err := then(p.code()); err != nil && ctx.Err() == nil {
			r.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
	// Anywhere in its life, its start included. Without a slow way to Redis it is short.
	life := time.Second
	if r.plan.redis != "" {
		life /= 8
	}
	if p.ended(time.Duration(e.rng().Float64() * float64(life))) {
		r.happened(e.kind, began, "%s, too late", name)
		return nil
	}
	switch e.kind {
	case importerKilled, sweeperKilled:
		p.kill()
	case importerEnded, sweeperEnded:
		p.signal(syscall.SIGTERM, true)
		if !p.ended(graceful) {
			r.violate(violation{rule: "a command ends on request", what: fmt.Sprintf("%s did not end within %v of SIGTERM", name, graceful)})
			p.kill()
		}
	case importerHalted, sweeperHalted:
		p.signal(syscall.SIGSTOP, false)
		sleep(ctx, e.lasts)
		p.signal(syscall.SIGCONT, false)
	}
	r.happened(e.kind, began, "%s", name)
	return nil
}

// errRefused: a command was understood and refused.
var errRefused = errors.New("refused")

// command runs a command of the command line until it comes through: it may fail while something is
// broken, and must not when all is well. It returns when the first try was started.
func (r *round) command(ctx context.Context, url string, args ...string) (began time.Time, err error) {
	began = time.Now()
	deadline := began.Add(commandWithin)
	for {
		r.mu.Lock()
		r.made++
		log := filepath.Join(r.dir, fmt.Sprintf("command-%03d.log", r.made))
		r.mu.Unlock()
		p, err := r.whole(log, url, args...)
		if err != nil {
			return began, err
		}
		if p.code() == 0 {
			return began, nil
		}
		said, _ := os.ReadFile(log)
		switch {
		case strings.Contains(string(said), "cannot be"), strings.Contains(string(said), "already exists"):
			return began, fmt.Errorf("%w: %s", errRefused, said)
		case time.Now().After(deadline):
			return began, fmt.Errorf("%s fails: %s", strings.Join(args, " "), said)
		case !sleep(ctx, 300*time.Millisecond):
			return began, ctx.Err()
		}
	}
}

// whole runs a command to its end.
func (r *round) whole(log, url string, args ...string) (*process, error) {
	r.confirms.RLock()
	defer r.confirms.RUnlock()
	p, err := start(log, r.environment(url), r.program(), args...)
	if err == nil && !p.ended(commandWithin) {
		p.kill()
		err = fmt.Errorf("%s did not end within %v", strings.Join(args, " "), commandWithin)
	}
	return p, err
}

// pause pauses a batch for a time.
func (r *round) pause(ctx context.Context, e event) error {
	r.pauseBusy.Lock()
	defer r.pauseBusy.Unlock()
	id := r.pickBatch(ctx, e)
	if id == "" {
		return nil
	}
	began := time.Now()
	if _, err := r.command(ctx, r.redis.url(), "batch", "pause", id); err != nil {
		return ignore(err)
	}
	paused := time.Now()
	sleep(ctx, e.lasts+time.Second)
	resumed, err := r.command(ctx, r.redis.url(), "batch", "resume", id)
	if err == nil {
		r.batch(id, func(b *batch) { b.pauses = append(b.pauses, [2]time.Time{paused, resumed}) })
	}
	r.happened(e.kind, began, "%s", id)
	return ignore(err)
}

// ignore takes a refusal for what it is: the batch had been finished or aborted.
func ignore(err error) error {
	if errors.Is(err, errRefused) {
		return nil
	}
	return err
}

// abort aborts a batch, and half of the times makes a new one of what is left.
func (r *round) abort(ctx context.Context, e event) error {
	id, err := r.importBatch(ctx, r.take(400))
	if err != nil {
		return err
	}
	sleep(ctx, e.lasts)
	began, err := r.command(ctx, r.redis.url(), "batch", "abort", id, "--yes")
	if err != nil {
		return ignore(err)
	}
	aborted := time.Now()
	r.batch(id, func(b *batch) { b.abortBy, b.aborted = began, aborted })
	r.happened(e.kind, began, "%s", id)
	if e.pick(2) == 0 {
		return nil
	}
	retry := id + "-retry"
	asked, err := r.command(ctx, r.redis.url(), "batch", "retry", id, "--outcome", "aborted,failed", "--yes", "--id", retry)
	if err != nil {
		return ignore(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches[retry] = &batch{id: retry, parent: id, asked: asked, sealed: true}
	return nil
}

// hold stops the whole fleet for a time.
func (r *round) hold(ctx context.Context, e event) error {
	r.commands.Lock()
	defer r.commands.Unlock()
	began := time.Now()
	if _, err := r.command(ctx, r.redis.url(), "rate", "hold"); err != nil {
		return err
	}
	held := time.Now()
	sleep(ctx, e.lasts+time.Second)
	released, err := r.command(ctx, r.redis.url(), "rate", "release")
	r.mu.Lock()
	r.holds = append(r.holds, [2]time.Time{held, released})
	r.mu.Unlock()
	r.happened(e.kind, began, "")
	return err
}

// setRate lowers the fleet's limit for a time.
func (r *round) setRate(ctx context.Context, e event) error {
	r.commands.Lock()
	defer r.commands.Unlock()
	began := time.Now()
	limit := r.plan.rate / (2 + e.pick(3))
	if _, err := r.command(ctx, r.redis.url(), "rate", "set", fmt.Sprintf("%d/s", limit)); err != nil {
		return err
	}
	set := time.Now()
	sleep(ctx, e.lasts+2*time.Second)
	unset, err := r.command(ctx, r.redis.url(), "rate", "set", "auto")
	r.mu.Lock()
	r.limits = append(r.limits, limitSpan{from: set, to: unset, rate: float64(limit)})
	r.mu.Unlock()
	r.happened(e.kind, began, "%d/s", limit)
	return err
}

// cancelElsewhere lets someone else cancel links that are on their way through the fleet.
func (r *round) cancelElsewhere(e event) {
	began := time.Now()
	draw := e.rng()
	r.mu.Lock()
	taken := r.nextImport
	r.mu.Unlock()
	for range 20 {
		r.api.cancelElsewhere(r.links.imports[draw.IntN(max(1, taken))])
	}
	r.happened(e.kind, began, "20 links")
}
