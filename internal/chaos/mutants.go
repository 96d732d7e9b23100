package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// mutant is linkcancel with one of its safeguards taken out.
type mutant struct {
	name   string
	edits  []edit
	faults []kind        // that bring it to light
	twice  bool          // as many again: it takes luck
	stage  func(*plan)   // instead of faults by chance
	within time.Duration // how soon it must be found out; 0: mutantWithin
}

// edit replaces the only occurrence of a text in a file.
type edit struct{ file, old, new string }

// mutants break a promise each. The suite that lets one of them pass proves nothing.
var mutants = []mutant{
	{
		name:   "counts an outcome that is recorded twice twice",
		edits:  []edit{{"internal/ledger/record.lua", "if was == 0 or (was == 7 and outcome ~= 7) then", "if true then"}},
		faults: []kind{replyCut, connectionsCut},
		twice:  true,
	},
	{
		name:   "drops the ledger check: sends again what has its outcome",
		edits:  []edit{{"worker/slice.go", "		if record.Outcome != ledger.None {", "		if false {"}},
		faults: []kind{apiErrs, workerEnded},
	},
	{
		name: "trusts a 422: never looks at the link",
		edits: []edit{{"worker/classify.go", "	case v.status == 409, v.status == 410, v.status == 422:",
			"	case v.status == 422:\n		v.step, v.outcome = stepDone, ledger.AlreadyCancelled\n	case v.status == 409, v.status == 410:"}},
		faults: []kind{apiMute},
	},
	{
		name:   "takes any 2xx for a proof",
		edits:  []edit{{"worker/classify.go", "		if status == 204 {", "		if status/100 == 2 {"}},
		faults: []kind{apiErrs},
	},
	{
		name: "forgets that an attempt went unanswered",
		edits: []edit{
			{"internal/ledger/record.lua", "local ambiguous = math.max(floor(of / 16) % 2, floor(nf / 16) % 2)", "local ambiguous = 0"},
			{"internal/ledger/record.lua", "char(outcome + 16 * (floor(nf / 16) % 2) + 64", "char(outcome + 64"},
		},
		faults: []kind{apiMute, apiHangs},
	},
	{
		name:   "forgets that a worker crashed with the links in its hands",
		edits:  []edit{{"worker/slice.go", "(record.Ambiguous || redelivered)", "record.Ambiguous"}},
		faults: []kind{workerKilled},
	},
	{
		name:   "ignores a hold of the fleet",
		edits:  []edit{{"internal/ratelimit/fleet_rules.lua", "if g.manualUntil > now then return g.manualUntil, false end", ""}},
		faults: []kind{fleetHeld},
	},
	{
		name:   "ignores that a batch is paused or aborted",
		edits:  []edit{{"worker/gate.go", "		case err == nil && (state == ledger.Running || state == ledger.Ready):\n			return nil\n", "		case err == nil && state != \"\":\n			return nil\n"}},
		faults: []kind{batchPaused, batchAborted},
	},
	{
		name:   "counts the rate by process, not by fleet",
		edits:  []edit{{"internal/ratelimit/script.go", "rdb, []string{fleetKey, history", "rdb, []string{fleetKey + r.process, history"}},
		faults: []kind{workerKilled},
	},
	{
		name:   "blames the link for a refused key",
		edits:  []edit{{"worker/classify.go", "		v.step, v.kind = stepAttribute, ratelimit.Unauthorized", "		v.step, v.outcome, v.kind = stepDone, ledger.Rejected, ratelimit.Unauthorized"}},
		faults: []kind{keyRotated},
		within: stagedWithin, // the canary pauses the batch, and the round waits for it
	},
	{
		name: "repairs nothing after a crash",
		edits: []edit{
			{"producer/feeder/repair.go", "if r.expired == 0 {", "if r.expired >= 0 {"},
			{"producer/feeder/repair.go", "if b.Slice == 0 {", "if b.Slice >= 0 {"},
		},
		faults: []kind{workerKilled},
	},
	{
		name: "lets asynq count attempts, and archive",
		edits: []edit{
			{"internal/task/task.go", "asynq.MaxRetry(math.MaxInt32)", "asynq.MaxRetry(math.MaxInt32 - math.MaxInt32)"},
			{"internal/task/later.go", "return !errors.As(err, new(*Later))", "return errors.As(err, new(*Later)) || true"},
		},
		faults: []kind{apiErrs},
		within: 90 * time.Second, // a batch that does not go on is found after 45 s
	},
	{
		name:   "leaks a goroutine with each request",
		edits:  []edit{{"worker/canceler.go", "	status, err := c.api.Cancel(ctx, l.id)", "	go func() { select {} }()\n	status, err := c.api.Cancel(ctx, l.id)"}},
		faults: []kind{connectionsCut},
	},
	{
		name:   "takes a gateway's 404 for the API's",
		edits:  []edit{{"worker/classify.go", "	case !v.proven:\n		v.step = stepPlain\n", "	case !v.proven && v.status != 404:\n		v.step = stepPlain\n"}},
		stage:  func(p *plan) { p.instead = behind("404:html", 0.5, mutantFaults) },
		within: stagedWithin,
	},
	{
		name:   "trusts a kind of answers that was contradicted",
		edits:  []edit{{"worker/proof.go", "	case k.Contradicted:", "	case false:"}},
		stage:  func(p *plan) { p.links, p.instead = 300, narrower },
		within: stagedWithin,
	},
	{
		name:   "lets one link's 429 hold the fleet",
		edits:  []edit{{"internal/ratelimit/fleet_rules.lua", "  if proved or new.again == 0 and links >= many then return wait end", "  do return wait end"}},
		stage:  func(p *plan) { p.rate, p.links, p.clean, p.instead = 100, 100, true, lockedAmongOthers(poisons) },
		within: stagedWithin,
	},
	{
		name:   "keeps a connection that brought a failure",
		edits:  []edit{{"internal/plexy/errorbody.go", "		a.keep = a.status < 500", "		a.keep = true"}},
		faults: []kind{apiErrs, apiMoved},
	},
	{
		name:   "takes it for granted that the base URL is right",
		edits:  []edit{{"worker/proof.go", "func (e *evidence) ok() bool {\n	e.mu.Lock()\n	defer e.mu.Unlock()\n	return e.has\n", "func (e *evidence) ok() bool {\n	return true\n"}},
		stage:  func(p *plan) { p.wrong, p.instead = "404:api", rightAgain },
		within: stagedWithin,
	},
	{
		name:   "believes the first 204",
		edits:  []edit{{"worker/first.go", "{ return p.first.ok.Load() }", "{ return true }"}},
		stage:  func(p *plan) { p.links, p.instead = 100, lied },
		within: stagedWithin,
	},
	{
		name:   "verifies a payable link as not payable",
		edits:  []edit{{"worker/classify.go", "			v.outcome = ledger.StillPayable", "			v.outcome = ledger.NotPayable"}},
		faults: []kind{verified},
		within: stagedWithin,
	},
	{
		name:   "drops a notification that the receiver did not take",
		edits:  []edit{{"internal/notify/dispatcher.go", "			one.Error, one.Next = err.Error(), now.Add(backoff(one.Attempts)).UTC()", "			one.Error, one.Ended = err.Error(), now.UTC()"}},
		faults: []kind{receiverIll, batchAborted, batchPaused},
		within: stagedWithin,
	},
	{
		name:   "ignores that the window is closed",
		edits:  []edit{{"internal/ratelimit/fleet_rules.lua", "  if window == '' then return at, never end\n", "  if true then return at, never end\n"}},
		faults: []kind{windowSet},
		within: stagedWithin,
	},
}

// overlay writes the mutant's files to dir, and the file that makes go build use them.
func (m mutant) overlay(root, dir string) (file string, err error) {
	if root, err = filepath.Abs(root); err != nil {
		return "", err
	}
	replaced := map[string]string{}
	for _, e := range m.edits {
		from, to := filepath.Join(root, e.file), filepath.Join(dir, strings.ReplaceAll(e.file, "/", "-"))
		if done, ok := replaced[from]; ok {
			from = done
		}
		b, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(b), e.old); n != 1 {
			return "", fmt.Errorf("mutant %q: its text occurs %d times in %s, not once: it no longer fits the code", m.name, n, e.file)
		}
		if err := os.WriteFile(to, []byte(strings.Replace(string(b), e.old, e.new, 1)), 0o600); err != nil {
			return "", err
		}
		replaced[filepath.Join(root, e.file)] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, b, 0o600)
}

const (
	// mutantWithin is how soon a mutant must be found out.
	mutantWithin = 60 * time.Second
	// mutantRounds is how many random rounds a mutant may survive.
	mutantRounds = 3
	// stagedWithin is the same where links are tried for a while before they end.
	stagedWithin = 4 * time.Minute
	mutantFaults = 6 * time.Second
)

// mutantPlan is a round short enough to find a mutant out in time.
func mutantPlan(seed uint64, m mutant) plan {
	p := newPlan(seed, 1, mutantFaults, m.faults...)
	if m.twice {
		p.events = append(p.events, newPlan(seed, 2, mutantFaults, m.faults...).events...)
		slices.SortStableFunc(p.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	}
	p.rate, p.links, p.sweeps = 300, 900, false
	p.workers = 3
	p.finish = 48 * time.Second
	if m.stage != nil {
		m.stage(&p)
	}
	if m.within >= stagedWithin {
		p.finish = 100 * time.Second
	}
	return p
}

// runMutants runs every mutant, and linkcancel itself through the same rounds.
func (s *suite) runMutants(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "linkcancel-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sound, err := build(ctx, s.root, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Seed %d. Each mutant lacks one safeguard and must be found within %.0f s, or %.0f s where it takes a while.\n\n%-58s %-8s %6s  %s\n", s.seed, mutantWithin.Seconds(), stagedWithin.Seconds(), "mutant", "", "after", "by")
	survived, wronged := 0, 0
	tried := slices.Clone(mutants)
	if s.mutants != "all" {
		tried = slices.DeleteFunc(tried, func(m mutant) bool {
			return !slices.ContainsFunc(strings.Split(s.mutants, ","), func(part string) bool { return strings.Contains(m.name, part) })
		})
	}
	for i, m := range tried {
		sub := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
		overlay, err := m.overlay(s.root, sub)
		if err != nil {
			return err
		}
		broken, err := build(ctx, s.root, sub, "-overlay", overlay)
		if err != nil {
			return fmt.Errorf("mutant %q: %w", m.name, err)
		}
		var runs [2]trial
		var before time.Duration
		// A round may miss the moment that finds a mutant: as long as there is time, it gets another
		// one.
		for round := range mutantRounds {
			var all sync.WaitGroup
			for i, binary := range []string{broken, sound} {
				folder := filepath.Join(sub, fmt.Sprintf("run%d-%d", round, i))
				all.Go(func() { runs[i] = s.try(ctx, mutantPlan(s.seed+uint64(round), m), binary, folder) })
			}
			all.Wait()
			if err := errors.Join(runs[0].err, runs[1].err); err != nil {
				return err
			}
			took := runs[0].took
			runs[0].took += before
			before = runs[0].took
			found := len(runs[0].truth.r.violations) > 0 || len(runs[1].truth.r.violations) > 0
			if found || before+took > cmp.Or(m.within, mutantWithin) {
				break
			}
		}
		if !s.reportMutant(m, runs[0]) {
			survived++
		}
		if !s.reportSound(runs[1]) {
			wronged++
		}
	}
	fmt.Fprintf(s.out, "\n%d of %d mutants killed; linkcancel itself passed %d of the same %d rounds.\n", len(tried)-survived, len(tried), len(tried)-wronged, len(tried))
	if survived+wronged > 0 {
		return errViolated
	}
	return nil
}

// trial is a round with a mutant, or with linkcancel itself.
type trial struct {
	truth *truth
	took  time.Duration
	err   error
}

// reportMutant prints the result of a mutant, and returns whether it was found.
func (s *suite) reportMutant(m mutant, tried trial) (killed bool) {
	row := func(what, by string) {
		fmt.Fprintf(s.out, "%-58s %-8s %4.0f s  %s\n", m.name, what, tried.took.Seconds(), by)
	}
	found := tried.truth.r.violations
	switch {
	case len(found) == 0:
		row("SURVIVED", "")
	case tried.took > cmp.Or(m.within, mutantWithin):
		row("SURVIVED", "found too late: "+found[0].rule)
	default:
		row("killed", found[0].rule)
		killed = true
	}
	if s.verbose {
		if len(found) > 0 {
			fmt.Fprint(s.out, tried.truth.explain(found[0]))
		}
		tried.truth.printFaults(s.out)
		s.line(tried.truth.figures())
	}
	return killed
}

// reportSound reports violations of linkcancel itself.
func (s *suite) reportSound(tried trial) (innocent bool) {
	found := tried.truth.r.violations
	if len(found) == 0 {
		return true
	}
	fmt.Fprintf(s.out, "%-58s %-8s %4.0f s  %s\n", "  the same without the mutation", "WRONGED", tried.took.Seconds(), found[0].rule)
	fmt.Fprint(s.out, tried.truth.explain(found[0]))
	return false
}

// try runs one round, without waiting for what asynq itself mends.
func (s *suite) try(ctx context.Context, p plan, binary, dir string) (tried trial) {
	began := time.Now()
	r, err := newRound(p, binary, dir)
	if err != nil {
		return trial{err: err}
	}
	defer func() { s.leave(r, tried.err != nil) }()
	if err := r.run(ctx); err != nil {
		return trial{err: err}
	}
	if _, err := r.queue(); err != nil {
		return trial{err: err}
	}
	if err := r.settle(ctx); err != nil {
		return trial{err: err}
	}
	t, err := r.verify(ctx)
	return trial{truth: t, took: time.Since(began), err: err}
}
