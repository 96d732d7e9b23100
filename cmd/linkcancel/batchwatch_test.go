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

func (v *noted) show(s batchStatus) {
	v.lines = append(v.lines, fmt.Sprintf("%s %d", s.batch.State, s.batch.Counts.Sum()))
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
				"Batch march goes on", "running 60", "done 100"}, "", 800 * time.Millisecond},
		{"paused by its canary", []seen{{batch: march("running", 1)}, {batch: paused("canary:not_found")}, {batch: march("done", 100)}},
			[]string{"running 1", "Batch march is paused (canary: 50 links in a row were not_found), and is still watched. Next: " + canaryHint +
				" linkcancel batch report march shows the links; linkcancel batch resume march goes on", "paused 50", "done 100"}, "", 400 * time.Millisecond},
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
				w := &watcher{id: "march", view: view, read: func(context.Context) (batchStatus, error) {
					s := tt.story[min(step, len(tt.story)-1)]
					step++
					return batchStatus{batch: s.batch}, s.err
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
		w := &watcher{id: "march", view: &noted{}, read: func(context.Context) (batchStatus, error) {
			marked := min(60, int64(time.Since(began)/time.Second)*10) // for 6 s
			return batchStatus{batch: aborted(marked)}, nil
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
		w := &watcher{id: "march", view: &noted{}, read: func(context.Context) (batchStatus, error) {
			if reads++; reads == 3 {
				<-hang
			}
			return batchStatus{batch: march("running", 10)}, nil
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

func TestFleetStatus(t *testing.T) {
	key := ratelimit.Hold{Reason: ratelimit.ReasonUnauthorized}
	fleet := func(ceiling, rate ratelimit.Rate, workers ...ratelimit.Hold) ratelimit.FleetStatus {
		s := ratelimit.FleetStatus{Ceiling: ceiling, Rate: rate}
		for _, h := range workers {
			s.Workers = append(s.Workers, ratelimit.FleetWorker{Hold: h})
		}
		return s
	}
	held := fleet(50, 50, ratelimit.Hold{})
	held.Hold.Reason = ratelimit.ReasonManual
	none := ratelimit.Hold{}
	for _, tt := range []struct {
		batch ledger.Batch
		fleet ratelimit.FleetStatus
		want  status
	}{
		{march("running", 1), fleet(50, 50, none, none), status{beside: "limit 50/s"}},
		{march("running", 1), fleet(50, 49.9, none), status{beside: "limit 50/s"}},
		{march("running", 1), fleet(50, 21.25, none), status{beside: "limit 21/s of 50/s"}},
		{march("ready", 1), fleet(0.5, 0.5, none), status{beside: "limit 30/m"}},
		{march("running", 1), fleet(50, 50, none, key), status{beside: "1 of 2 workers on hold: unauthorized"}},
		{march("running", 1), fleet(50, 50, key), status{instead: "1 of 1 worker on hold: unauthorized"}},
		{march("running", 1), fleet(50, 50), status{instead: "no worker is running"}},
		{march("running", 1), held, status{instead: "on hold: manual"}},
		{paused("by command"), held, status{instead: "paused (by command)"}},
		{paused(""), fleet(50, 50), status{instead: "paused"}},
	} {
		if got := fleetStatus(tt.batch, tt.fleet, nil); got != tt.want {
			t.Errorf("%s, %+v: %+v, want %+v", tt.batch.State, tt.fleet, got, tt.want)
		}
	}
}

// A pipe gets a line at once, one every 5 seconds, and none that says nothing new.
func TestPlainLinesOfAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		v := &textView{out: &out}
		fleet := ratelimit.FleetStatus{Ceiling: 2, Rate: 2, Workers: make([]ratelimit.FleetWorker, 1)}
		v.show(batchStatus{batch: ledger.Batch{ID: "march", State: ledger.Importing}, fleet: fleet})
		for n := range int64(60) { // 12 s
			v.show(batchStatus{batch: march("running", n/5*2), fleet: fleet})
			time.Sleep(pollEvery)
		}
		v.say("Redis is back")
		v.show(batchStatus{batch: march("done", 100), fleet: fleet})
		v.end()
		want := `  0 of 100 links    0 %  limit 2/s
 10 of 100 links   10 %  2.0/s  45 s left  limit 2/s  cancelled 10
 20 of 100 links   20 %  2.0/s  40 s left  limit 2/s  cancelled 20
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
		fleet := ratelimit.FleetStatus{Ceiling: 5, Rate: 5, Workers: make([]ratelimit.FleetWorker, 2)}
		for n := range int64(15) { // 3 s, a link each time
			v.show(batchStatus{batch: march("running", n), fleet: fleet})
			time.Sleep(pollEvery)
		}
		for range 50 { // 10 s of nothing
			v.show(batchStatus{batch: march("running", 14), fleet: fleet})
			time.Sleep(pollEvery)
		}
		for range 5 {
			v.show(batchStatus{batch: paused("by command"), fleet: fleet})
		}
		v.say("word")
		v.show(batchStatus{batch: march("done", 100), fleet: fleet})
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

func TestPace(t *testing.T) {
	at := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name    string
		seconds int
		done    func(second int) int64
		want    float64
	}{
		{"steady", 100, func(s int) int64 { return int64(s) * 7 }, 7},
		{"of late", 100, func(s int) int64 { return int64(s*s) / 2 }, 95},
		{"one a minute, over a longer time", 3600, func(s int) int64 { return int64(s / 60) }, 1.0 / 60},
		{"nothing any more", 3600, func(s int) int64 { return int64(min(s, 100)) }, 0},
		{"nothing at all", 5, func(int) int64 { return 3 }, 0},
	} {
		var p pace
		for s := range tt.seconds {
			p.add(at.Add(time.Duration(s)*time.Second), tt.done(s))
		}
		rate, known := p.rate()
		if !known || rate < tt.want*0.95 || rate > tt.want*1.05 {
			t.Errorf("%s: %v, %v, want %v", tt.name, rate, known, tt.want)
		}
		if n := len(p.samples); n > 602 {
			t.Errorf("%s: keeps %d samples", tt.name, n)
		}
	}
	var p pace
	p.add(at, 0)
	p.add(at.Add(399*time.Millisecond), 50)
	if _, known := p.rate(); known {
		t.Error("a rate is known at once")
	}
}

func TestRateText(t *testing.T) {
	for rate, want := range map[float64]string{
		0: "0.0/s", 1234.5: "1234/s", 12: "12/s", 9.94: "9.9/s", 1: "1.0/s", 0.5: "30.0/min", 1.0 / 60: "1.0/min", 1.0 / 120: "30.0/h", 1.0 / 86400: "0.0/h",
	} {
		if got := rateText(rate); got != want {
			t.Errorf("%v: %s, want %s", rate, got, want)
		}
	}
}

func TestTimeLeft(t *testing.T) {
	if got := timeLeft(march("running", 40), 2); got != 30*time.Second {
		t.Error(got)
	}
	if got := timeLeft(march("running", 40), 1e-12); got != maxLeft {
		t.Error(got)
	}
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
		"", "linkcancel batch report march -o FILE", "linkcancel batch report march -o FILE, or linkcancel batch retry march",
		"linkcancel batch abort march marks the links that are left", "linkcancel batch report march -o FILE", "linkcancel batch resume march",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
