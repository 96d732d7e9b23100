package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Rate is a number of requests a second.
type Rate float64

// MaxRate is the highest rate that is accepted, in requests a second.
const MaxRate Rate = 1_000_000

// minRate is the lowest rate that is accepted: one request a day. Below it a
// typo is far more likely than a wish, and waiting times would overflow.
const minRate Rate = 1.0 / 86400

// units are the units of a rate in order of preference, with their seconds.
var units = [...]struct {
	name    string
	seconds float64
}{{"s", 1}, {"m", 60}, {"h", 3600}}

// ErrZero is the error for a rate of 0.
var ErrZero = errors.New("a rate of 0 would never end")

// ParseRate reads a rate such as "10/s", "30/m", "1000/h" or "0.5/s", from one request a day to
// [MaxRate]. A number alone is a rate per second. The error says what to write instead.
func ParseRate(s string) (Rate, error) {
	r, err := parseRate(strings.TrimSpace(s))
	if err != nil {
		return 0, fmt.Errorf("parse rate %q: %w", s, err)
	}
	return r, nil
}

func parseRate(s string) (Rate, error) {
	if s == "" {
		return 0, errors.New(`it is empty; write requests and unit, such as "10/s", "30/m" or "1000/h"`)
	}
	number, unit, found := strings.Cut(s, "/")
	if strings.HasPrefix(number, "-") {
		return 0, errors.New(`a rate cannot be negative; write it like "10/s"`)
	}
	// Only plain decimals: ParseFloat alone takes "inf", "0x1p4" and "1e3".
	value, err := strconv.ParseFloat(number, 64)
	if strings.Trim(number, "0123456789.") != "" || err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf(`%q is not a plain decimal number; write the rate like "10/s"`, number)
	}
	if !found {
		unit = "s"
	}
	if value == 0 {
		return 0, ErrZero
	}
	seconds := 0.0
	for _, u := range units {
		if u.name == unit {
			seconds = u.seconds
		}
	}
	if seconds == 0 {
		return 0, fmt.Errorf(`unknown unit %q; use /s, /m or /h, such as "10/s"`, unit)
	}
	r := Rate(value / seconds)
	switch {
	case r < minRate:
		return 0, errors.New("it is below one request a day; write a higher rate")
	case r > MaxRate:
		return 0, fmt.Errorf("it is above the highest possible rate, %v; write a lower one", MaxRate)
	}
	return r, nil
}

// String returns r by the second, minute or hour so that [ParseRate] reads exactly r back.
func (r Rate) String() string {
	shortest := ""
	for _, u := range units {
		// 'f' and -1: the fewest digits that give the same float64.
		number := strconv.FormatFloat(float64(r)*u.seconds, 'f', -1, 64)
		back, err := strconv.ParseFloat(number, 64)
		if err != nil || Rate(back/u.seconds) != r {
			continue
		}
		if text := number + "/" + u.name; shortest == "" || len(text) < len(shortest) {
			shortest = text
		}
	}
	if shortest == "" { // NaN
		return strconv.FormatFloat(float64(r), 'f', -1, 64) + "/s"
	}
	return shortest
}

// UnmarshalText is [ParseRate] for package flag and others.
func (r *Rate) UnmarshalText(text []byte) error {
	parsed, err := ParseRate(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

func (r Rate) valid() bool { return r >= minRate && r <= MaxRate } // false for NaN
