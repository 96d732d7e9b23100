package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// scenario is a round with faults that are not left to chance.
type scenario struct {
	name, what string
	plan       func(seed uint64) plan
	check      func(*truth)
}

var scenarios = []scenario{
	{
		name: "fleet", what: "50 workers on one Redis, under all kinds of faults",
		plan: func(seed uint64) plan {
			p := newPlan(seed, 1, 20*time.Second)
			p.workers, p.rate = 50, 600
			return p
		},
	},
	{
		name: "full", what: "Redis out of memory for 30 s in the middle of an import and a drain",
		plan: func(seed uint64) plan {
			return plan{seed: seed, round: 1, workers: 2, rate: 300, links: 2000, finish: finishWithin, instead: outOfMemory}
		},
	},
	{
		name: "acks", what: "the acknowledgements of finished tasks fail for 10 s",
		plan: func(seed uint64) plan {
			return plan{seed: seed, round: 1, workers: 2, rate: 300, links: 2500, finish: finishWithin, clean: true, instead: noAcknowledgements}
		},
		check: sentOnce,
	},
	{
		name: "poison", what: "4 locked links among 600, and a batch beside them",
		plan: func(seed uint64) plan {
			return plan{seed: seed, round: 1, workers: 2, rate: 50, links: 100, finish: finishWithin, clean: true, instead: lockedAmongOthers(lockedLong)}
		},
	},
}

const (
	fullFor    = 30 * time.Second
	ackless    = 10 * time.Second
	quietAtAll = 100 // commands a second, while Redis is out of memory
)

// outOfMemory takes Redis' memory away while an importer and the workers are at work.
func outOfMemory(ctx context.Context, r *round) error {
	// At 20 KB/s the file takes some 10 s.
	links := r.take(6000)
	id, file, err := r.importFile(links)
	if err != nil {
		return err
	}
	way, url, err := r.way(id)
	if err != nil {
		return err
	}
	defer way.Stop()
	if err := way.spoil("bandwidth", false, map[string]int{"rate": 20}); err != nil {
		return err
	}
	log := filepath.Join(r.dir, id+".log")
	importer, err := start(log, r.environment(url), r.binary, "import", file, "--yes", "--id", id)
	if err != nil {
		return err
	}
	sleep(ctx, 2*time.Second)
	if !importer.alive() {
		return fmt.Errorf("the import was over too soon: see %s", log)
	}
	began := time.Now()
	if err := r.redis.rdb.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		return err
	}
	before, err := r.redis.commands(ctx)
	if err != nil {
		return err
	}
	sent := r.api.box.Counts().Total
	sleep(ctx, fullFor)
	after, err := r.redis.commands(ctx)
	if err != nil {
		return err
	}
	sent = r.api.box.Counts().Total - sent
	if err := r.redis.rdb.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		return err
	}
	r.happened(redisFull, began, "for %v", fullFor)
	rate := float64(after-before) / fullFor.Seconds()
	r.notes = append(r.notes, fmt.Sprintf("%.0f Redis commands/s meanwhile, %d requests to the API", rate, sent))
	if rate > quietAtAll {
		r.violate(violation{rule: "a Redis without memory is left alone", what: fmt.Sprintf("%.0f commands/s, more than %d", rate, quietAtAll)})
	}
	// The importer waits, or fails with a word on why; then it is run again.
	if !importer.ended(commandWithin) {
		r.violate(violation{rule: "a command comes to an end", what: "the import did not end", log: log})
		importer.kill()
	}
	said, _ := os.ReadFile(log)
	switch code := importer.code(); {
	case code == 0:
		r.notes = append(r.notes, "the import waited")
		r.batch(id, func(b *batch) { b.sealed = true })
		return nil
	case !strings.Contains(string(said), "OOM"):
		r.violate(violation{rule: "a command that fails says why", what: fmt.Sprintf("the import ended with exit code %d: %q", code, said), log: log})
	}
	r.notes = append(r.notes, "the import failed: "+lastLine(said))
	return r.imports(ctx, id, file)
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// commands is how many commands the server was sent, those of scripts and those that
// it refused included.
func (d *database) commands(ctx context.Context) (n int64, err error) {
	text, err := d.rdb.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		_, fields, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		for field := range strings.SplitSeq(fields, ",") {
			name, value, _ := strings.Cut(field, "=")
			if name != "calls" && name != "rejected_calls" {
				continue
			}
			count, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the count of commands: %w", err)
			}
			n += count
		}
	}
	return n, nil
}

// noAcknowledgements keeps asynq from telling Redis that a task is finished: its scripts
// for that count the tasks of the day, and may not touch that count.
func noAcknowledgements(ctx context.Context, r *round) error {
	began := time.Now()
	refuse := []any{"ACL", "SETUSER", "default", "resetkeys", "~lc:*", "~asynq:[^{]*", "~asynq:{sweep}*", "~asynq:{cancel}:[^pf]*", "~asynq:{cancel}:pe*", "~asynq:{cancel}:pa*"}
	if err := r.redis.rdb.Do(ctx, refuse...).Err(); err != nil {
		return err
	}
	refusals := r.refusals(ctx)
	sleep(ctx, ackless)
	refusals = r.refusals(ctx) - refusals
	if err := r.redis.rdb.Do(ctx, "ACL", "SETUSER", "default", "allkeys").Err(); err != nil {
		return err
	}
	r.happened("acknowledgements refused", began, "for %v", ackless)
	r.notes = append(r.notes, fmt.Sprintf("%d acknowledgements refused", refusals))
	if refusals == 0 {
		return fmt.Errorf("no acknowledgement was refused: the scenario no longer fits asynq")
	}
	return nil
}

// refusals is how many calls of scripts Redis has refused for their keys.
func (r *round) refusals(ctx context.Context) int64 {
	stats := r.redis.rdb.Info(ctx, "errorstats").Val()
	_, text, _ := strings.Cut(stats, "errorstat_NOPERM:count=")
	n, _ := strconv.ParseInt(strings.TrimSpace(strings.SplitN(text, "\r", 2)[0]), 10, 64)
	return n
}

// sentOnce: each link is sent once, whatever becomes of its task.
func sentOnce(t *truth) {
	for link, requests := range t.of {
		deletes := 0
		for _, q := range requests {
			if q.Method == "DELETE" {
				deletes++
			}
		}
		if deletes != 1 {
			t.violate("each link is sent once", t.owner(requests[0]), link, requests[0].Time, "there were %d DELETEs of it", deletes)
		}
	}
}

// runScenarios runs the scenarios of a name, or all of them.
func (s *suite) runScenarios(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "linkcancel-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.binary, err = build(ctx, s.root, dir); err != nil {
		return err
	}
	var failed error
	for _, sc := range scenarios {
		if s.scenario != "all" && s.scenario != sc.name {
			continue
		}
		fmt.Fprintf(s.out, "%s (seed %d)\n", sc.what, s.seed)
		r, err := newRound(sc.plan(s.seed), s.binary, filepath.Join(dir, sc.name))
		if err != nil {
			return err
		}
		if err = r.run(ctx); err == nil {
			var t *truth
			if t, err = r.finish(ctx); err == nil {
				if sc.check != nil {
					sc.check(t)
				}
				s.head()
				s.line(t.figures())
				for _, note := range r.notes {
					fmt.Fprintf(s.out, "      %s\n", note)
				}
				fmt.Fprintln(s.out)
				if len(r.violations) > 0 {
					s.report(t)
					failed = errViolated
				}
			}
		}
		s.leave(r, err != nil || len(r.violations) > 0)
		if err != nil {
			return err
		}
	}
	return failed
}
