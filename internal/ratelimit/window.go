package ratelimit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/walltime"
)

const (
	// windowAhead is how far ahead the script knows when the window is open. Afterwards it is closed.
	windowAhead = 14 * 24 * time.Hour
	// maxStretch is the longest time that Stretch looks ahead.
	maxStretch = 366 * 24 * time.Hour
	day        = 24 * time.Hour
)

// Window is when a fleet may send: at some times of each day, in a time zone. The zero value is always
// open.
type Window struct {
	text  string // the spans, a space, and the zone
	loc   *time.Location
	spans []span
	once  time.Time // open until then, too: see ReleaseOnce
}

// span is a part of the day, from midnight. It may end on the next day.
type span struct{ from, to time.Duration }

// Interval is a time in which a window is open.
type Interval struct{ From, To time.Time }

// ParseWindow reads spans such as 22:00-06:00, with commas between several, in a time zone with an IANA
// name, "" for UTC.
func ParseWindow(spans, zone string) (Window, error) {
	var w Window
	var err error
	if w.loc, err = walltime.Zone(zone); err != nil {
		return w, err
	}
	var texts []string
	for part := range strings.SplitSeq(strings.ReplaceAll(spans, " ", ""), ",") {
		from, to, ok := strings.Cut(part, "-")
		var s span
		if s.from, err = timeOfDay(from); err == nil {
			s.to, err = timeOfDay(to)
		}
		if !ok || err != nil || s.from == s.to || s.from == day {
			return w, fmt.Errorf("window %q: use a time from and to, such as 22:00-06:00", part)
		}
		w.spans = append(w.spans, s)
		texts = append(texts, from+"-"+to)
	}
	w.text = strings.Join(texts, ",") + " " + w.loc.String()
	return w, nil
}

// timeOfDay reads a time from 00:00 to 24:00, with or without seconds.
func timeOfDay(text string) (time.Duration, error) {
	if text == "24:00" || text == "24:00:00" {
		return day, nil
	}
	layout := "15:04"
	if len(text) > len(layout) {
		layout = time.TimeOnly
	}
	t, err := time.Parse(layout, text)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second, err
}

// windowOf is the window that the script returned: its text, and the end of ReleaseOnce in Unix s.
func windowOf(text string) Window {
	lines := strings.Split(text, "\n")
	spans, zone, ok := strings.Cut(lines[0], " ")
	if !ok {
		return Window{}
	}
	w, err := ParseWindow(spans, zone)
	if err != nil { // of a later release
		return Window{text: lines[0]}
	}
	if once, err := strconv.ParseInt(lines[len(lines)-1], 10, 64); err == nil && once > 0 {
		w.once = time.Unix(once, 0)
	}
	return w
}

// IsZero reports whether there is no window.
func (w Window) IsZero() bool { return w.text == "" }

// String names the spans and the zone.
func (w Window) String() string { return w.text }

// Intervals returns when the window is open from one instant to another, in order and apart. A time that
// the clocks skip counts as the end of the gap, and one that they show twice as the first.
func (w Window) Intervals(from, to time.Time) []Interval {
	if w.loc == nil {
		return nil
	}
	var all []Interval
	if w.once.After(from) {
		all = append(all, Interval{from, w.once})
	}
	first := walltime.On(from.In(w.loc)).Truncate(day).Add(-day)
	for date := first; date.Before(to.Add(2 * day)); date = date.Add(day) {
		for _, s := range w.spans {
			end := date.Add(s.to)
			if s.to < s.from {
				end = end.Add(day)
			}
			i := Interval{walltime.First(date.Add(s.from), w.loc), walltime.First(end, w.loc)}
			if i.To.After(from) && i.From.Before(to) && i.From.Before(i.To) {
				all = append(all, i)
			}
		}
	}
	slices.SortFunc(all, func(a, b Interval) int { return a.From.Compare(b.From) })
	var apart []Interval
	for _, i := range all {
		if n := len(apart); n > 0 && !i.From.After(apart[n-1].To) {
			if i.To.After(apart[n-1].To) {
				apart[n-1].To = i.To
			}
			continue
		}
		apart = append(apart, i)
	}
	return apart
}

// Opens returns when the window opens next, and whether it is closed.
func (w Window) Opens(now time.Time) (at time.Time, closed bool) {
	if w.IsZero() {
		return now, false
	}
	next := w.Intervals(now, now.Add(windowAhead))
	if len(next) == 0 {
		return now.Add(windowAhead), true
	}
	return next[0].From, next[0].From.After(now)
}

// Changes returns when the window closes, or opens next, and whether it is closed. The time is zero if
// that is not within two weeks.
func (w Window) Changes(now time.Time) (at time.Time, closed bool) {
	next := w.Intervals(now, now.Add(windowAhead))
	switch {
	case len(next) == 0:
		return time.Time{}, true
	case next[0].From.After(now):
		return next[0].From, true
	case next[0].To.Sub(now) > windowAhead:
		return time.Time{}, false
	}
	return next[0].To, false
}

// Stretch returns how long it takes from now to send for so long while the window is open.
func (w Window) Stretch(now time.Time, sending time.Duration) time.Duration {
	if w.IsZero() {
		return sending
	}
	left := sending
	for _, i := range w.Intervals(now, now.Add(min(maxStretch, 2*day+25*sending))) {
		from := i.From
		if from.Before(now) {
			from = now
		}
		if open := i.To.Sub(from); open < left {
			left -= open
			continue
		}
		return from.Add(left).Sub(now)
	}
	return max(maxStretch, sending)
}

// OpenIn returns for how long the window was open between two instants.
func (w Window) OpenIn(from, to time.Time) (open time.Duration) {
	if w.IsZero() {
		return to.Sub(from)
	}
	for _, i := range w.Intervals(from, to) {
		if i.From.Before(from) {
			i.From = from
		}
		if i.To.After(to) {
			i.To = to
		}
		open += i.To.Sub(i.From)
	}
	return open
}

// opens is the text for the script: the intervals from now on, in Unix s.
func (w Window) opens(now time.Time) string {
	w.once = time.Time{} // the script has it
	var words []string
	for _, i := range w.Intervals(now, now.Add(windowAhead)) {
		words = append(words, fmt.Sprintf("%d:%d", i.From.Unix(), i.To.Unix()))
	}
	return strings.Join(words, " ")
}

// redisNow is the time of the server that has the fleet's key.
var redisNow = redis.NewScript(`return redis.call('TIME')[1] -- KEYS[1] any key of the server`)

// SetWindow lets the fleet send in a window only. The zero window removes it.
func SetWindow(ctx context.Context, rdb redis.UniversalClient, w Window, by history.By) error {
	now, err := redisNow.Run(ctx, rdb, []string{fleetKey}).Int64()
	if err != nil {
		return fmt.Errorf("set the window: %w", err)
	}
	entry := by.Change(history.RateWindow, cmp.Or(w.text, "off"))
	_, err = command(ctx, rdb, "set the window", event{kind: "window", opens: w.opens(time.Unix(now, 0)), text: w.text, entry: entry})
	return err
}

// ReleaseOnce lets the fleet send outside its window until it opens next. If it is open, it stays open
// until then.
func ReleaseOnce(ctx context.Context, rdb redis.UniversalClient, by history.By) error {
	_, err := command(ctx, rdb, "release the window once", event{kind: "once", entry: by.Change(history.RateRelease, "the window once")})
	return err
}

// RefreshWindow tells the script when the window is open in the next days. A fleet has a process that
// does this now and then.
func RefreshWindow(ctx context.Context, rdb redis.UniversalClient) error {
	s, err := ShowFleet(ctx, rdb)
	if err != nil || s.Window.loc == nil {
		return err
	}
	now, err := redisNow.Run(ctx, rdb, []string{fleetKey}).Int64()
	if err != nil {
		return fmt.Errorf("refresh the window: %w", err)
	}
	_, err = command(ctx, rdb, "refresh the window", event{kind: "opens", opens: s.Window.opens(time.Unix(now, 0)), text: s.Window.text})
	return err
}

// Equal reports whether two windows are open at the same times.
func (w Window) Equal(other Window) bool { return w.text == other.text && w.once.Equal(other.once) }
