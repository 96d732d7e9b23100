package main

import (
	"context"
	"time"
)

// window lets the fleet send at some times only: it opens in some seconds, or closes in a moment.
func (r *round) window(ctx context.Context, e event) error {
	r.commands.Lock()
	defer r.commands.Unlock()
	began := time.Now()
	// A window has whole seconds.
	edge := began.Add(2 * time.Second).Truncate(time.Second)
	opens := e.pick(2) == 0
	text := clock(edge.Add(-12*time.Hour)) + "-" + clock(edge)
	if opens {
		edge = began.Add(e.lasts + 3*time.Second).Truncate(time.Second)
		text = clock(edge) + "-" + clock(edge.Add(12*time.Hour))
	}
	if _, err := r.command(ctx, r.redis.url(), "rate", "window", text); err != nil {
		return err
	}
	set := time.Now()
	if opens {
		sleep(ctx, time.Until(edge)+time.Second)
	} else {
		sleep(ctx, e.lasts+3*time.Second)
	}
	off, err := r.command(ctx, r.redis.url(), "rate", "window", "off")
	shut := [2]time.Time{set, edge}
	if !opens {
		shut = [2]time.Time{edge, off}
		if set.After(edge) {
			shut[0] = set
		}
	}
	r.mu.Lock()
	r.shut = append(r.shut, shut)
	r.mu.Unlock()
	r.happened(e.kind, began, "%s", text)
	return err
}

// clock is a time of the day, as rate window takes it.
func clock(at time.Time) string { return at.UTC().Format(time.TimeOnly) }

// checkHours: nothing is sent while the window is closed.
func (t *truth) checkHours() {
	for _, shut := range t.r.shut {
		if late := t.between(t.requests, shut[0].Add(slack), shut[1]); len(late) > 0 {
			t.violate("nothing is sent outside the window", "", late[0].ID, late[0].Time, "%d requests from %v after it closed until it opened", len(late), slack)
		}
	}
}
