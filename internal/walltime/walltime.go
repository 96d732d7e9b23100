// Package walltime turns times of day in a time zone into instants.
package walltime

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // for images without time zones
)

// Zone returns the time zone with an IANA name, "" for UTC. Local is refused, because it differs
// between machines.
func Zone(name string) (*time.Location, error) {
	if strings.EqualFold(name, "local") {
		return nil, fmt.Errorf("time zone %q: use an IANA name such as Asia/Almaty, or UTC", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q: %w: use an IANA name such as Asia/Almaty, or UTC", name, err)
	}
	return loc, nil
}

// On returns the time that the clock of t shows as a time in UTC.
func On(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// First returns the first instant when the clock of a zone shows a time, given in UTC. If clocks skip
// that time, it is the end of the gap.
func First(wall time.Time, loc *time.Location) time.Time {
	// No zone is over 14 h from UTC or skips over a day. time.Date may return either instant.
	for t := wall.Add(-48 * time.Hour).In(loc); ; {
		_, offset := t.Zone()
		begin, end := t.ZoneBounds()
		at := wall.Add(-time.Duration(offset) * time.Second).In(loc)
		switch {
		case at.Before(begin):
			return begin
		case end.IsZero() || at.Before(end):
			return at
		}
		t = end
	}
}
