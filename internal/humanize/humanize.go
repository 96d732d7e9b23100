// Package humanize writes numbers, durations and rates for people.
package humanize

import (
	"fmt"
	"strconv"
	"time"
)

// Digits writes a number with a comma between thousands: 40,000.
func Digits(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// Plural writes a count with its noun: 1 link, 2 links.
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Digits(n) + " " + noun + "s"
}

// Duration writes a duration in its two largest units: 1 h 07 min.
func Duration(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Second:
		return "under 1 s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %02d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d %02d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// Rate writes a rate, given per second: 43/s, 9.5/s, 30.0/min.
func Rate(rate float64) string {
	switch {
	case rate > 0 && rate < 1.0/60:
		return fmt.Sprintf("%.1f/h", rate*3600)
	case rate > 0 && rate < 1:
		return fmt.Sprintf("%.1f/min", rate*60)
	}
	return PerSecond(rate)
}

// PerSecond writes a rate per second, however low: 0.1/s.
func PerSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f/s", rate)
	}
	return fmt.Sprintf("%.0f/s", rate)
}
