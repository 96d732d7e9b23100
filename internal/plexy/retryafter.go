package plexy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter caps absurd values, far below the maximum of time.Duration.
const maxRetryAfter = 10 * 365 * 24 * time.Hour

// retryAfter parses the Retry-After header, a number of seconds or a date (RFC 9110, 10.2.3). A
// date is relative to the Date header of the answer, because the clocks may differ, or else to now.
// The result is 0 to maxRetryAfter. ok is false without a valid header.
func retryAfter(header http.Header, now time.Time) (wait time.Duration, ok bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	seconds, err := strconv.ParseInt(value, 10, 64)
	switch {
	case err == nil || errors.Is(err, strconv.ErrRange):
		// Out of range, ParseInt returns the nearest number.
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
