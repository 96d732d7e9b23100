package plexy

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	date := func(offset time.Duration) string { return now.Add(offset).Format(http.TimeFormat) }
	for _, test := range []struct {
		value, date string
		want        time.Duration
		ok          bool
	}{
		{"0", "", 0, true},
		{"1", "", time.Second, true},
		{" 120 ", "", 2 * time.Minute, true},
		{"-5", "", 0, true},
		{"99999999999", "", maxRetryAfter, true},
		{"99999999999999999999999999", "", maxRetryAfter, true},
		{"-99999999999999999999999999", "", 0, true},
		{date(30 * time.Second), "", 30 * time.Second, true},
		{date(-time.Hour), "", 0, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", "", maxRetryAfter, true},
		{"Mon, 01 Jan 0001 00:00:00 GMT", "", 0, true},
		// The server's clock is an hour ahead, as its Date shows.
		{date(time.Hour + 7*time.Second), date(time.Hour), 7 * time.Second, true},
		{date(7 * time.Second), "yesterday", 7 * time.Second, true},
		{"", "", 0, false},
		{"soon", "", 0, false},
		{"1.5", "", 0, false},
		{"1s", "", 0, false},
	} {
		header := http.Header{}
		if test.value != "" {
			header.Set("Retry-After", test.value)
		}
		if test.date != "" {
			header.Set("Date", test.date)
		}
		if got, ok := retryAfter(header, now); got != test.want || ok != test.ok {
			t.Errorf("%q, Date %q: %v, %v, want %v, %v", test.value, test.date, got, ok, test.want, test.ok)
		}
	}
}

func TestRetryAfterArrives(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	_, err := c.Cancel(t.Context(), testID)
	if e, ok := err.(*Error); !ok || e.RetryAfter != 7*time.Second || !e.HasRetryAfter {
		t.Errorf("got %#v", err)
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"", "0", "1", "-1", "9223372036854775807", "9223372036854775808", "Fri, 31 Dec 9999 23:59:59 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"} {
		f.Add(value, "", int64(0))
		f.Add(value, "Sun, 06 Nov 1994 08:49:37 GMT", int64(1<<62))
	}
	f.Fuzz(func(t *testing.T, value, date string, now int64) {
		wait, ok := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, time.Unix(now%(1<<40), 0))
		if wait < 0 || wait > maxRetryAfter || !ok && wait != 0 {
			t.Fatalf("Retry-After %q, Date %q: %v, %v", value, date, wait, ok)
		}
	})
}
