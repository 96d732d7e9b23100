package ratelimit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/history"
)

var ann = history.By{Actor: "ann"}

func parseWindow(t *testing.T, spans, zone string) Window {
	t.Helper()
	w, err := ParseWindow(spans, zone)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestParseWindow(t *testing.T) {
	for spans, want := range map[string]string{
		"22:00-06:00": "22:00-06:00 UTC", "1:00-2:00": "1:00-2:00 UTC", "00:00-24:00": "00:00-24:00 UTC",
		"22:00 - 06:00, 12:00-13:30": "22:00-06:00,12:00-13:30 UTC", "12:00:05-12:00:01": "12:00:05-12:00:01 UTC",
	} {
		w, err := ParseWindow(spans, "")
		if err != nil || w.String() != want {
			t.Errorf("%q: %q, %v", spans, w, err)
		}
		if again := windowOf(w.text + "\n0"); again.String() != want || again.loc == nil {
			t.Errorf("%q is read back as %+v", spans, again)
		}
	}
	for _, spans := range []string{"", "22:00", "22:00-", "22:00-22:00", "25:00-06:00", "24:00-06:00", "22:60-06:00", "22-06", "22:00-06:00,", "a-b", "22:00-06:00:99"} {
		if w, err := ParseWindow(spans, ""); err == nil {
			t.Errorf("%q: %+v", spans, w)
		}
	}
	for _, zone := range []string{"Local", "Mars/Olympus"} {
		if _, err := ParseWindow("22:00-06:00", zone); err == nil {
			t.Errorf("zone %q is accepted", zone)
		}
	}
}

// The times of day are those that the clocks of the zone show, also when these are set.
func TestWindowOverClockChanges(t *testing.T) {
	for _, tt := range []struct {
		spans, zone string
		from        string // an instant; the next two days are shown
		want        []string
	}{
		{"22:00-06:00", "Asia/Almaty", "2026-11-27T00:00:00Z", []string{"2026-11-26T17:00Z-2026-11-27T01:00Z", "2026-11-27T17:00Z-2026-11-28T01:00Z", "2026-11-28T17:00Z-2026-11-29T01:00Z"}},
		// Forward at 02:00: the night has an hour less, and what begins in the gap begins at its end.
		{"22:00-06:00", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-28T21:00Z-2026-03-29T04:00Z", "2026-03-29T20:00Z-2026-03-30T04:00Z"}},
		{"02:30-04:00", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00Z-2026-03-29T02:00Z", "2026-03-30T00:30Z-2026-03-30T02:00Z"}},
		{"02:15-02:45", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-30T00:15Z-2026-03-30T00:45Z"}},
		// Back at 03:00: an hour more, and of two equal hours the first.
		{"22:00-06:00", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-24T20:00Z-2026-10-25T05:00Z", "2026-10-25T21:00Z-2026-10-26T05:00Z"}},
		{"02:15-02:45", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:15Z-2026-10-25T00:45Z", "2026-10-26T01:15Z-2026-10-26T01:45Z"}},
		{"00:00-24:00", "UTC", "2026-11-27T12:00:00Z", []string{"2026-11-27T00:00Z-2026-11-30T00:00Z"}},
		{"10:00-12:00,11:00-13:00", "UTC", "2026-11-27T14:00:00Z", []string{"2026-11-28T10:00Z-2026-11-28T13:00Z", "2026-11-29T10:00Z-2026-11-29T13:00Z"}},
	} {
		from, err := time.Parse(time.RFC3339, tt.from)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range parseWindow(t, tt.spans, tt.zone).Intervals(from, from.Add(48*time.Hour)) {
			got = append(got, i.From.UTC().Format("2006-01-02T15:04Z")+"-"+i.To.UTC().Format("2006-01-02T15:04Z"))
		}
		if tt.spans == "00:00-24:00" { // as far as it was asked for
			got = got[:1]
			got[0] = got[0][:17] + tt.want[0][17:]
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %s: %s", tt.spans, tt.zone, diff)
		}
	}
}

func TestStretch(t *testing.T) {
	w := parseWindow(t, "22:00-06:00", "UTC")
	at := func(clock string) time.Time {
		now, err := time.Parse("2006-01-02 15:04", "2026-11-27 "+clock)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	for _, tt := range []struct {
		now           string
		sending, want time.Duration
	}{
		{"23:00", time.Hour, time.Hour},
		{"23:00", 7 * time.Hour, 7 * time.Hour},
		{"23:00", 8 * time.Hour, 24 * time.Hour}, // 7 hours, then 16 closed ones
		{"12:00", time.Minute, 10*time.Hour + time.Minute},
		{"12:00", 17 * time.Hour, 2*24*time.Hour + 11*time.Hour},
		{"12:00", 0, 10 * time.Hour},
	} {
		if got := w.Stretch(at(tt.now), tt.sending); got != tt.want {
			t.Errorf("%v from %s on: %v, want %v", tt.sending, tt.now, got, tt.want)
		}
	}
	if got := (Window{}).Stretch(at("12:00"), time.Hour); got != time.Hour {
		t.Errorf("without a window: %v", got)
	}
	for _, tt := range []struct {
		from, to string
		want     time.Duration
	}{{"23:00", "23:30", 30 * time.Minute}, {"12:00", "23:00", time.Hour}, {"12:00", "13:00", 0}, {"05:00", "23:00", 2 * time.Hour}} {
		if got := w.OpenIn(at(tt.from), at(tt.to)); got != tt.want {
			t.Errorf("from %s to %s: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}

// outside returns the requests that were sent outside a window, with the millisecond that they take.
func (m *model) outside(w Window) (late []time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sent := range m.sent {
		at := m.start.Add(sent)
		if w.OpenIn(at.Add(-time.Millisecond), at.Add(time.Millisecond)) == 0 {
			late = append(late, at)
		}
	}
	return late
}

// In no process is a slot granted for a time outside the window, whatever the rate.
func TestNothingOutsideTheWindow(t *testing.T) {
	real := startRealRedis(t)
	for _, rate := range []Rate{5, 100, 2000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newModel(t, real)
				// Half a minute open, a quarter closed, and so on.
				base := m.start.UTC()
				var spans []string
				for i := range 4 {
					from := base.Add(time.Duration(i) * 45 * time.Second)
					spans = append(spans, from.Format(time.TimeOnly)+"-"+from.Add(30*time.Second).Format(time.TimeOnly))
				}
				w := parseWindow(t, strings.Join(spans, ","), "")
				if err := SetWindow(t.Context(), m.client, w, ann); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 130*time.Second)
				defer cancel()
				var wg sync.WaitGroup
				for range 3 {
					p := m.add(Config{Rate: rate})
					wg.Go(func() { m.drive(ctx, p, int(min(rate, 100)), 10*time.Millisecond, nil) })
				}
				wg.Wait()
				if late := m.outside(w); len(late) > 0 {
					t.Errorf("%d of %d requests outside, such as at %v", len(late), len(m.sent), late[0].Sub(m.start))
				}
				open := w.OpenIn(m.start, m.start.Add(130*time.Second)).Seconds()
				if share := float64(len(m.sent)) / (open * float64(rate)); share < .9 || share > 1.01 {
					t.Errorf("%d requests in %v s of an open window: %.0f%%", len(m.sent), open, 100*share)
				}
			})
		})
	}
}

// What a window does, and its commands.
func TestWindowRules(t *testing.T) {
	real := startRealRedis(t)
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, real)
		d := &driver{t: t, eps: 50 * time.Millisecond, lazy: true, Fleet: m.add(Config{Rate: 100}).Fleet}
		time.Sleep(soon)
		d.times(10, OK)
		now := m.start.UTC()
		clock := func(after time.Duration) string { return now.Add(after).Format(time.TimeOnly) }
		w := parseWindow(t, clock(2*time.Minute)+"-"+clock(4*time.Minute), "")
		if err := SetWindow(t.Context(), m.client, w, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon)
		left := time.Until(now.Add(2 * time.Minute).Truncate(time.Second))
		d.wantHold(ReasonWindow, left)
		if s := show(t, m); s.Hold.Reason != ReasonWindow || s.Window.String() != w.String() || s.Hold.Cause != w.String() {
			t.Errorf("%+v", s)
		}
		// A plain release does not open it.
		if err := ReleaseFleet(t.Context(), m.client, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon)
		if s := show(t, m); s.Hold.Reason != ReasonWindow {
			t.Errorf("after a release: %+v", s.Hold)
		}
		// The release once does, until the window opens. It does not close in between.
		if err := ReleaseOnce(t.Context(), m.client, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon)
		d.times(10, OK)
		if at, closed := show(t, m).Window.Opens(time.Now()); closed {
			t.Errorf("it opens at %v", at)
		}
		// Again, it changes nothing: it does not open the time after the window, too.
		before := show(t, m).Window
		if err := ReleaseOnce(t.Context(), m.client, ann); err != nil {
			t.Fatal(err)
		}
		if after := show(t, m).Window; !after.Equal(before) {
			t.Errorf("%+v became %+v", before, after)
		}
		time.Sleep(4 * time.Minute)
		if s := show(t, m); s.Hold.Reason != ReasonWindow {
			t.Errorf("after the window: %+v", s.Hold)
		}
		// Without a window it is always open.
		if err := SetWindow(t.Context(), m.client, Window{}, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(soon)
		d.times(10, OK)
		if s := show(t, m); s.Hold.Reason != ReasonNone || !s.Window.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// If nobody tells the script how the window goes on, it stays closed.
func TestWindowIsRefreshed(t *testing.T) {
	real := startRealRedis(t)
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, real)
		if err := SetFleetRate(t.Context(), m.client, 100, ann); err != nil {
			t.Fatal(err)
		}
		if err := SetWindow(t.Context(), m.client, parseWindow(t, "22:00-06:00", "Asia/Almaty"), ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(windowAhead + 36*time.Hour)
		if s := show(t, m); s.Hold.Reason != ReasonWindow || !s.Hold.Until.IsZero() {
			t.Errorf("after two weeks: %+v", s.Hold)
		}
		for range 3 {
			if err := RefreshWindow(t.Context(), m.client); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Hour)
			s := show(t, m)
			until, closed := s.Window.Opens(time.Now())
			if closed != (s.Hold.Reason == ReasonWindow) || closed && s.Hold.Until.Sub(until).Abs() > time.Second {
				t.Errorf("at %v: %+v, opens at %v", time.Now(), s.Hold, until)
			}
		}
	})
}

// A window that is set while slots are given out takes none back: their numbers and times would be
// given out again.
func TestWindowSetAmongSlots(t *testing.T) {
	real := startRealRedis(t)
	synctest.Test(t, func(t *testing.T) {
		m, ctx := newModel(t, real), t.Context()
		ask := func(r request) *reply {
			r.run, r.rate, r.burst, r.usable = "r", 1000, 1, 500
			got, err := r.do(ctx, m.client, 0)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		time.Sleep(9*time.Second + 900*time.Millisecond - time.Since(m.start)%time.Second)
		now := time.Now().UTC()
		given := ask(request{process: "p", number: 1, want: 500})
		w := parseWindow(t, now.Add(-5*time.Second).Format(time.TimeOnly)+"-"+now.Add(time.Second).Format(time.TimeOnly), "")
		if err := SetWindow(ctx, m.client, w, ann); err != nil {
			t.Fatal(err)
		}
		again := ask(request{process: "p", number: 2, want: 50, epoch: given.epoch, seen: given.now})
		if given.n == 0 || again.n != 0 || again.seq < given.seq {
			t.Errorf("%d slots up to %d, then %d up to %d", given.n, given.seq, again.n, again.seq)
		}
		if err := SetWindow(ctx, m.client, Window{}, ann); err != nil {
			t.Fatal(err)
		}
		other := ask(request{process: "q", number: 1, want: 500})
		if other.n > 0 && (other.first <= given.seq || other.base <= given.base+micros(given.n-1)*given.spacing) {
			t.Errorf("%+v after %+v", other, given)
		}
	})
}
