package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
)

// idle is what a fleet holds that has nothing to do.
type idle struct {
	goroutines, files []int // of each worker
	clients           int64 // of Redis
}

const (
	// leakGrace is how many goroutines an idle worker may have more than a fresh one.
	leakGrace = 12
	// poolGrace is how many connections it may have more. The pools of go-redis may be full, with 10 for each
	// processor and 10 for pipelines. It closes those that were cut only when it needs them.
	poolGrace = leakGrace + 30
	// leakWithin is how long it may take to let go.
	leakWithin = 20 * time.Second
)

// measure reads what the fleet holds.
func (r *round) measure() (idle, error) {
	var now idle
	for _, w := range r.workers {
		n, err := w.goroutines()
		if err != nil {
			return now, err
		}
		open, err := w.gauge("process_open_fds")
		if err != nil {
			return now, err
		}
		now.goroutines, now.files = append(now.goroutines, n), append(now.files, open)
	}
	var err error
	now.clients, err = r.redis.clients(context.Background())
	return now, err
}

// settle waits until the fleet holds as little as when it was fresh.
func (r *round) settle(ctx context.Context) error {
	// What is kept open on purpose is closed: the rest has leaked.
	r.api.down()
	if err := r.api.up(); err != nil {
		return err
	}
	for _, w := range r.workers {
		if w.way == nil {
			continue
		}
		if err := w.way.cut(); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(leakWithin); ; {
		now, err := r.measure()
		leak, leaky := "", r.workers[0]
		switch {
		case err != nil:
			leak = err.Error()
		case now.clients > r.fresh.clients+int64(poolGrace*len(r.workers)):
			leak = fmt.Sprintf("Redis has %d clients, %d when the fleet was fresh", now.clients, r.fresh.clients)
		}
		for i := range now.goroutines {
			if now.goroutines[i] > r.fresh.goroutines[i]+leakGrace || now.files[i] > r.fresh.files[i]+poolGrace {
				leaky = r.workers[i]
				leak = fmt.Sprintf("%s has %d goroutines and %d open files, %d and %d when it was fresh",
					r.workers[i].name, now.goroutines[i], now.files[i], r.fresh.goroutines[i], r.fresh.files[i])
			}
		}
		switch {
		case leak == "":
			return nil
		case time.Now().After(deadline):
			r.violate(violation{rule: "no goroutine and no connection leaks", what: leak, log: leaky.dump()})
			return nil
		case !sleep(ctx, 200*time.Millisecond):
			return ctx.Err()
		}
	}
}

// awaitQueue waits until no task is at work.
func (r *round) awaitQueue(ctx context.Context) error {
	for deadline := r.ended.Add(activeWithin); ; {
		stuck, err := r.queue()
		switch {
		case err != nil:
			return err
		case stuck == "":
			return nil
		case time.Now().After(deadline):
			r.violate(violation{rule: "nothing is left among asynq's active tasks after 130 s", what: stuck})
			return nil
		case !sleep(ctx, 300*time.Millisecond):
			return ctx.Err()
		}
	}
}

// queue names one of the tasks at work, "" if there is none, and checks the archive.
func (r *round) queue() (stuck string, err error) {
	inspector := asynq.NewInspectorFromRedisClient(r.redis.rdb)
	for _, queue := range []string{task.QueueCancel, task.QueueVerify, task.QueueSweep} {
		active, err := inspector.ListActiveTasks(queue, asynq.PageSize(1000))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, t := range active {
			stuck = fmt.Sprintf("%s in queue %s, orphaned: %v", t.ID, queue, t.IsOrphaned)
		}
		info, err := inspector.GetQueueInfo(queue)
		if err != nil {
			return "", err
		}
		if info.Archived > 0 && !r.archived {
			r.archived = true
			r.violate(violation{rule: "asynq's archive stays empty", what: fmt.Sprintf("%d tasks of queue %s are there", info.Archived, queue)})
		}
	}
	return stuck, nil
}

// verify ends the fleet and holds all that it left behind against the truth.
func (r *round) verify(ctx context.Context) (*truth, error) {
	for _, w := range r.workers {
		w.close()
	}
	t, err := r.truth(ctx)
	if err != nil {
		return nil, err
	}
	t.check()
	if err := t.checkReports(ctx); err != nil {
		return t, err
	}
	return t, r.checkSecrets()
}

// checkReports: what batch report prints is what the ledger holds.
func (t *truth) checkReports(ctx context.Context) error {
	for i := range t.batches {
		b := &t.batches[i]
		args := []string{"batch", "report", b.ID}
		if made := t.r.batches[b.ID]; made != nil && made.links != nil {
			args = append(args, "--join", filepath.Join(t.r.dir, strings.TrimSuffix(b.ID, againSuffix)+".csv"))
		}
		cmd := exec.CommandContext(ctx, t.r.binary, args...)
		cmd.Env = t.r.environment(t.r.redis.url())
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		t.checkReport(b, rows)
	}
	return nil
}

func (t *truth) checkReport(b *ledger.Batch, rows [][]string) {
	want := t.rows[b.ID]
	if len(rows) != len(want)+1 {
		t.violate("the report is the ledger", b.ID, "", b.Created, "it has %d rows for %d links", len(rows)-1, len(want))
		return
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for i, row := range rows[1:] {
		w := want[i]
		status := ""
		if w.Record.HTTPStatus != 0 {
			status = strconv.Itoa(w.Record.HTTPStatus)
		}
		for name, value := range map[string]string{
			"link": w.Link, "outcome": w.Record.Outcome.String(), "http_status": status, "link_status": w.LinkStatus,
			"attempts": strconv.Itoa(int(w.Record.Attempts)), "error": w.Error,
		} {
			if at, ok := column[name]; !ok || row[at] != value {
				t.violate("the report is the ledger", b.ID, w.Link, b.Created, "%s is not %q in row %q", name, value, row)
				return
			}
		}
	}
}

// checkSecrets: no key is in a log, nor in anything that Redis holds; and no program has panicked.
func (r *round) checkSecrets() error {
	for _, root := range []string{r.dir, r.data} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || path == r.keyFile {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, key := range r.keys {
				if bytes.Contains(b, []byte(key)) {
					r.violate(violation{rule: "the key is nowhere but in its file", what: "it is in " + path})
				}
			}
			for _, word := range []string{"panic:", "fatal error:", "DATA RACE", "panic while cancelling"} {
				if strings.HasSuffix(path, ".log") && bytes.Contains(b, []byte(word)) {
					r.violate(violation{rule: "no program panics", what: fmt.Sprintf("%q in a log", word), log: path})
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
