package plexy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter is where an absurd Retry-After is capped. It is far from the
// end of time.Duration, so that callers can add to it.
const maxRetryAfter = 10 * 365 * 24 * time.Hour

// retryAfter reads the Retry-After header, which is a number of seconds or a
// date (RFC 9110, 10.2.3). A date is taken relative to the Date of the same
// answer if that can be read, because the two clocks may differ, and else to
// now. The result is 0 to maxRetryAfter; ok is false without a readable header.
func retryAfter(header http.Header, now time.Time) (wait time.Duration, ok bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	seconds, err := strconv.ParseInt(value, 10, 64)
	switch {
	case err == nil || errors.Is(err, strconv.ErrRange):
		// Out of range, ParseInt returns the nearest number that it has.
		seconds = min(max(seconds, 0), int64(maxRetryAfter/time.Second))
		return time.Duration(seconds) * time.Second, true
	default:
		at, err := http.ParseTime(value)
		if err != nil {
			return 0, false
		}
		if date, err := http.ParseTime(header.Get("Date")); err == nil {
			now = date
		}
		return min(max(at.Sub(now), 0), maxRetryAfter), true
	}
}
