package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// span is a duration as people write it: 30d, 2w, 1d12h, 90m. A day has 24 hours.
type span time.Duration

// spanUnits are the units that time.ParseDuration does not know.
var spanUnits = map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}

// UnmarshalText reads a span. It is never negative.
func (s *span) UnmarshalText(text []byte) error {
	d, err := parseSpan(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	*s = span(d)
	return nil
}

var errSpan = errors.New("write a time such as 30d, 2w, 36h or 90m")

func parseSpan(text string) (time.Duration, error) {
	var total time.Duration
	rest := text
	for {
		at := strings.IndexAny(rest, "dw")
		if at < 0 {
			break
		}
		n, err := strconv.ParseUint(rest[:at], 10, 63)
		if err != nil {
			return 0, errSpan // also for 1.5d, and for 1h2d
		}
		unit := spanUnits[rest[at]]
		if n > uint64((math.MaxInt64-total)/unit) {
			return 0, errors.New("that is longer than 292 years")
		}
		total += time.Duration(n) * unit
		if rest = rest[at+1:]; rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	switch {
	case err != nil && strings.Trim(rest, "0123456789") == "" && rest != "":
		return 0, fmt.Errorf("the unit is missing: %w", errSpan)
	case err != nil:
		return 0, errSpan
	case d < 0:
		return 0, fmt.Errorf("it is negative: %w", errSpan)
	case total+d < total:
		return 0, errors.New("that is longer than 292 years")
	}
	return total + d, nil
}
