package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

// march is a batch of 100 links, as many of them cancelled.
func march(state ledger.State, cancelled int64) ledger.Batch {
	b := ledger.Batch{ID: "march", State: state, Total: 100}
	b.Counts[ledger.Cancelled] = cancelled
	return b
}

func paused(reason string) ledger.Batch {
	b := march(ledger.Paused, 50)
	b.Reason = reason
	return b
}

func aborted(marked int64) ledger.Batch {
	b := march(ledger.AbortedState, 10)
	b.Counts[ledger.Aborted] = marked
	return b
}

// noted is a view that notes what it is told.
type noted struct {
	lines []string
	ended bool
}

func (v *noted) show(s status.Batch) {
	v.lines = append(v.lines, fmt.Sprintf("%s %d", s.State, s.Counts.Sum()))
}
func (v *noted) say(line string) { v.lines = append(v.lines, line) }
func (v *noted) end()            { v.ended = true }

// seen is a step of a story: a batch, or an error. The last one stays.
type seen struct {
	batch ledger.Batch
	err   error
}

func TestWatch(t *testing.T) {
	cut := seen{err: fmt.Errorf("read batch march: %w", io.EOF)}
	late := seen{err: fmt.Errorf("read batch march: %w", context.DeadlineExceeded)}
	for _, tt := range []struct {
		name  string
		story []seen
		want  []string
		err   string
		took  time.Duration
	}{
		{"to its end", []seen{{batch: march("ready", 0)}, {batch: march("running", 7)}, {batch: march("done", 100)}},
			[]string{"ready 0", "running 7", "done 100"}, "", 400 * time.Millisecond},
		{"it had ended", []seen{{batch: march("done", 100)}}, []string{"done 100"}, "", 0},
		{"from the import on", []seen{{batch: ledger.Batch{ID: "march", State: "importing"}}, {batch: march("ready", 0)}, {batch: march("done", 100)}},
			[]string{"Batch march is being imported", "importing 0", "ready 0", "done 100"}, "", 400 * time.Millisecond},
		{"paused for a while", []seen{{batch: march("running", 1)}, {batch: paused("by command")}, {batch: paused("by command")}, {batch: march("running", 60)}, {batch: march("done", 100)}},
			[]string{"running 1", "Batch march is paused (by command), and is still watched. Next: linkcancel batch resume march", "paused 50", "paused 50",
				"Batch march continues", "running 60", "done 100"}, "", 800 * time.Millisecond},
		{"paused by its canary", []seen{{batch: march("running", 1)}, {batch: paused("canary:not_found")}, {batch: march("done", 100)}},
			[]string{"running 1", "Batch march is paused (canary: 50 links in a row were not_found), and is still watched. Next: " + canaryHint +
				" linkcancel batch report march shows the links; linkcancel batch resume march continues", "paused 50", "done 100"}, "", 400 * time.Millisecond},
		{"aborted, and marked bit by bit", []seen{{batch: march("running", 10)}, {batch: aborted(0)}, {batch: aborted(60)}, {batch: aborted(90)}},
			[]string{"running 10", "Batch march is aborted", "aborted 10", "aborted 70", "aborted 100"}, "", 600 * time.Millisecond},
		{"deleted", []seen{{batch: march("running", 10)}, {err: fmt.Errorf("batch march: %w", ledger.ErrNoBatch)}},
			[]string{"running 10"}, "batch march is gone: it was deleted, or its import was given up", 200 * time.Millisecond},
		{"Redis away", []seen{{batch: march("running", 10)}, cut, late, late, {batch: march("running", 20)}, cut, {batch: march("done", 100)}},
			[]string{"running 10", "Redis went away (the connection was cut): asking until it is back", "Redis is back", "running 20",
				"Redis went away (the connection was cut): asking until it is back", "Redis is back", "done 100"}, "", 4400 * time.Millisecond},
		{"another error", []seen{{err: errors.New("batch march has format 2")}}, nil, "batch march has format 2", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, view, step := time.Now(), &noted{}, 0
				w := &watcher{id: "march", view: view, read: func(context.Context) (status.Batch, error) {
					s := tt.story[min(step, len(tt.story)-1)]
					step++
					return status.Batch{Batch: s.batch}, s.err
				}}
				last, err := w.run(t.Context())
				if got := fmt.Sprint(err); err != nil && got != tt.err || err == nil && tt.err != "" {
					t.Errorf("error %q, want %q", got, tt.err)
				}
				if err == nil && last != tt.story[len(tt.story)-1].batch {
					t.Errorf("ended with %+v", last)
				}
				if diff := cmp.Diff(tt.want, view.lines); diff != "" {
					t.Error(diff)
				}
				if took := time.Since(began); took != tt.took || !view.ended {
					t.Errorf("took %v, want %v; ended %v", took, tt.took, view.ended)
				}
			})
		})
	}
}

// Nobody marks the links of an aborted batch: the workers are gone.
func TestWatchOfAnAbortedBatchThatIsNotFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := &watcher{id: "march", view: &noted{}, read: func(context.Context) (status.Batch, error) {
			marked := min(60, int64(time.Since(began)/time.Second)*10) // for 6 s
			return status.Batch{Batch: aborted(marked)}, nil
		}}
		last, err := w.run(t.Context())
		if err != nil || last.Pending() != 30 {
			t.Errorf("%+v, %v", last, err)
		}
		if took := time.Since(began); took < 6*time.Second+fillPatience || took > 7*time.Second+fillPatience {
			t.Errorf("took %v", took)
		}
	})
}

// Ctrl-C ends the watching, also while Redis hangs.
func TestWatchInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hang := make(chan bool)
		reads := 0
		w := &watcher{id: "march", view: &noted{}, read: func(context.Context) (status.Batch, error) {
			if reads++; reads == 3 {
				<-hang
			}
			return status.Batch{Batch: march("running", 10)}, nil
		}}
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		last, err := w.run(ctx)
		if !errors.Is(err, context.Canceled) || last.State != ledger.Running || time.Since(began) != time.Second {
			t.Errorf("%+v, %v, after %v", last, err, time.Since(began))
		}
		close(hang)
	})
}

// A pipe gets a line at once, one every 5 seconds, and none that says nothing new.
func TestPlainLinesOfAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		v := &textView{out: &out}
		fleet := status.Fleet{FleetStatus: ratelimit.FleetStatus{Ceiling: 2, Rate: 2, Workers: make([]ratelimit.FleetWorker, 1)}}
		v.show(status.Batch{Batch: ledger.Batch{ID: "march", State: ledger.Importing}, Fleet: fleet})
		for n := range int64(60) { // 12 s
			v.show(status.Batch{Batch: march("running", n/5*2), Fleet: fleet})
			time.Sleep(pollEvery)
		}
		v.say("Redis is back")
		v.show(status.Batch{Batch: march("done", 100), Fleet: fleet})
		v.end()
		want := `  0 of 100 links    0%  limit 2/s
 10 of 100 links   10%  2.0/s  45 s left  limit 2/s  cancelled 10
 20 of 100 links   20%  2.0/s  40 s left  limit 2/s  cancelled 20
Redis is back

`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Error(diff)
		}
	})
}

// Programs get what has changed, at most once a second; a new state at once.
func TestJSONOfAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, notes bytes.Buffer
		v := &jsonView{out: &out, notes: &notes}
		fleet := status.Fleet{FleetStatus: ratelimit.FleetStatus{Ceiling: 5, Rate: 5, Workers: make([]ratelimit.FleetWorker, 2)}}
		for n := range int64(15) { // 3 s, a link each time
			v.show(status.Batch{Batch: march("running", n), Fleet: fleet})
			time.Sleep(pollEvery)
		}
		for range 50 { // 10 s of nothing
			v.show(status.Batch{Batch: march("running", 14), Fleet: fleet})
			time.Sleep(pollEvery)
		}
		for range 5 {
			v.show(status.Batch{Batch: paused("by command"), Fleet: fleet})
		}
		v.say("word")
		v.show(status.Batch{Batch: march("done", 100), Fleet: fleet})
		v.end()
		type line struct {
			State   string
			Pending int64
			Rate    *float64
			Left    *int64 `json:"left_seconds"`
			Workers int
		}
		var got []line
		for dec := json.NewDecoder(&out); dec.More(); {
			var l line
			if err := dec.Decode(&l); err != nil {
				t.Fatal(err)
			}
			got = append(got, l)
		}
		five := 5.0
		left := func(n int64) *int64 { return &n }
		want := []line{
			{"running", 100, nil, nil, 2}, {"running", 95, &five, left(19), 2}, {"running", 90, &five, left(18), 2},
			{"running", 86, got[3].Rate, got[3].Left, 2}, {"paused", 50, nil, nil, 2}, {"done", 0, nil, nil, 2},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if notes.String() != "word\n" {
			t.Errorf("notes %q", notes.String())
		}
	})
}

// Those who poll a batch ask for what ends it.
func TestNextStep(t *testing.T) {
	var got []string
	some := march(ledger.Done, 99)
	some.Counts[ledger.Failed] = 1
	for _, b := range []ledger.Batch{march("running", 1), march("done", 100), some, aborted(80), aborted(90), paused("by command")} {
		got = append(got, nextStep(b))
	}
	want := []string{
		"", "linkcancel batch report march -o FILE", "linkcancel batch retry march --outcome failed,rejected, or linkcancel batch report march -o FILE",
		"linkcancel batch abort march marks the links that are left", "linkcancel batch report march -o FILE", "linkcancel batch resume march",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
