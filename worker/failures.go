package worker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"linkcancel/internal/ledger"
)

const (
	// failuresEvery is the least time between two lines about links that fail.
	failuresEvery = time.Minute
	// failuresGather is how long the first of them waits for others.
	failuresGather = 5 * time.Second
	// fewTries is how many attempts may fail without a line, as long as no link does.
	fewTries = 20
)

// failures logs that links fail, by kind, at most once a minute. Attempts that fail and are repeated
// count only if they are many.
type failures struct {
	log   *slog.Logger
	level slog.Level

	mu      sync.Mutex
	kinds   map[string]int
	all     int // entries of any kind
	ended   int // links that were rejected or have failed
	tries   int // attempts to be repeated
	example ledger.Entry
	timer   *time.Timer // of the next line; nil: none is due
	last    time.Time
}

// add counts an entry whose link was not canceled.
func (f *failures) add(e ledger.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all++
	o := e.Record.Outcome
	if o != ledger.None && o != ledger.Failed && o != ledger.Rejected {
		return
	}
	kind := o.String()
	if o == ledger.None {
		if e.Record.Attempts == 0 || e.Record.Settling {
			return // given back, or canceled as far as is known
		}
		kind = "tried again"
		f.tries++
	} else {
		f.ended++
	}
	if e.Record.HTTPStatus != 0 {
		kind += fmt.Sprintf(", %d", e.Record.HTTPStatus)
	} else {
		kind += ", no answer"
	}
	if f.kinds == nil {
		f.kinds = map[string]int{}
	}
	f.kinds[kind]++
	if f.example.Link == "" || o != ledger.None {
		f.example = e
	}
	if f.timer == nil {
		f.timer = time.AfterFunc(max(failuresGather, failuresEvery-time.Since(f.last)), f.flush)
	}
}

// flush logs what was counted.
func (f *failures) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer == nil {
		return
	}
	f.timer.Stop()
	f.timer = nil
	defer f.reset()
	if f.ended == 0 && (f.tries < fewTries || f.tries < f.all/10) {
		return // the API fails now and then
	}
	f.last = time.Now()
	var kinds []string
	for kind := range f.kinds {
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Or(f.kinds[b]-f.kinds[a], strings.Compare(a, b)) })
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%s: %d", kind, f.kinds[kind])
	}
	message := "links fail"
	if f.ended == 0 {
		message = "many requests fail, and are tried again"
	}
	f.log.Log(context.Background(), f.level, message, "kinds", strings.Join(kinds, "; "), "batch", f.example.Batch, "link", f.example.Link, "status", f.example.Record.HTTPStatus, "error", f.example.Error)
}

func (f *failures) reset() {
	f.kinds, f.example, f.all, f.ended, f.tries = nil, ledger.Entry{}, 0, 0, 0
}
