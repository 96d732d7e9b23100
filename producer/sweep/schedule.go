package sweep

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"linkcancel/internal/walltime"
)

// Schedule is when sweeps are due: a cron expression in a time zone.
//
// When clocks are set forward, a sweep in the skipped hour is due once, at its end. When they
// are set back, an expression with fixed hours is due in the first of the two hours only, and
// one for every hour follows real time.
type Schedule struct {
	cron *cron.SpecSchedule
	loc  *time.Location
	text string
}

// everyValue is the bit that the parser sets for a *.
const everyValue = 1 << 63

// ParseSchedule reads a cron expression and the IANA name of a time zone, "" for UTC. The
// expression has five fields (minute, hour, day of the month, month, day of the week, where 0
// and 7 are Sunday) or is one of @hourly, @daily, @weekly, @monthly and @yearly.
func ParseSchedule(expression, zone string) (*Schedule, error) {
	expression = strings.Join(strings.Fields(expression), " ")
	switch {
	case strings.Contains(expression, "TZ="): // the parser would accept it, or panic
		return nil, fmt.Errorf("cron expression %q: give the time zone apart from it", expression)
	case strings.HasPrefix(expression, "@every"):
		return nil, fmt.Errorf("cron expression %q: @every has no time of day: use five fields, such as \"0 2 * * *\", or @daily", expression)
	}
	loc, err := walltime.Zone(zone)
	if err != nil {
		return nil, err
	}
	parsed, err := cron.ParseStandard(sundayAsZero(expression))
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %w: use five fields (minute, hour, day, month, weekday), such as \"0 2 * * *\", or @daily", expression, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("cron expression %q: use five fields, such as \"0 2 * * *\", or @daily", expression)
	}
	spec.Location = time.UTC
	s := &Schedule{cron: spec, loc: loc, text: expression + " " + loc.String()}
	if s.Next(time.Now()).IsZero() {
		return nil, fmt.Errorf("cron expression %q: %w", expression, errNever)
	}
	return s, nil
}

// sundayAsZero rewrites a 7 in the day of the week, where the parser accepts only 0.
func sundayAsZero(expression string) string {
	fields := strings.Split(expression, " ")
	if len(fields) != 5 {
		return expression
	}
	var days []string
	for part := range strings.SplitSeq(fields[4], ",") {
		days = append(days, weekdays(part))
	}
	fields[4] = strings.Join(days, ",")
	return strings.Join(fields, " ")
}

// weekdays rewrites one part of the day of the week: 7, or a range to 7 with or without a step.
func weekdays(part string) string {
	span, step, stepped := strings.Cut(part, "/")
	first, last, isRange := strings.Cut(span, "-")
	switch {
	case part == "7", part == "7-7":
		return "0"
	case !isRange || last != "7" || first == "7":
		return part
	case !stepped:
		return first + "-6,0"
	}
	from := slices.Index([]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, strings.ToLower(first))
	if n, err := strconv.Atoi(first); err == nil {
		from = n
	}
	by, err := strconv.Atoi(step)
	if err != nil || by < 1 || from < 0 || from > 6 {
		return first + "-6/" + step // the parser finds what is wrong
	}
	var days []string
	for day := from; day <= 7; day += min(by, 8) {
		days = append(days, strconv.Itoa(day%7))
	}
	return strings.Join(days, ",")
}

var errNever = errors.New("there is no such day within five years")

// String returns the expression and the time zone.
func (s *Schedule) String() string { return s.text }

// Next returns the first due instant after t, in the schedule's zone, or zero if none in 5 years.
func (s *Schedule) Next(t time.Time) time.Time {
	t = t.In(s.loc)
	if s.cron.Hour&everyValue != 0 {
		return s.nextShown(t)
	}
	// Evaluate the expression on a clock that is never set, then look it up on the real one.
	for wall := walltime.On(t); ; {
		wall = s.cron.Next(wall)
		if wall.IsZero() {
			return wall
		}
		// A time in the second of two equal hours, or in a skipped one, is past.
		if next := walltime.First(wall, s.loc); next.After(t) {
			return next
		}
	}
}

// nextShown returns the first instant after t at which the real clock matches the
// expression. The parser's own search does not end on some days without a midnight.
func (s *Schedule) nextShown(t time.Time) time.Time {
	for period := t; ; { // of one offset from UTC
		_, offset := period.Zone()
		_, end := period.ZoneBounds()
		ahead := time.Duration(offset) * time.Second
		wall := s.cron.Next(t.UTC().Add(ahead))
		if wall.IsZero() {
			return wall
		}
		if next := wall.Add(-ahead); end.IsZero() || next.Before(end) {
			return next.In(s.loc)
		}
		t, period = end.Add(-1), end
	}
}

// Name returns the name of the due sweep: the date, and the time if there are several a day.
func (s *Schedule) Name(due time.Time) string {
	due = due.In(s.loc)
	if !one(s.cron.Hour) || !one(s.cron.Minute) {
		return due.Format("2006-01-02T1504-0700")
	}
	wall := walltime.On(due)
	if gap, _ := due.ZoneBounds(); gap.Equal(due) && !s.cron.Next(wall.Add(-1)).Equal(wall) {
		// Its time was skipped, perhaps on the day before.
		wall = s.cron.Next(walltime.On(due.Add(-1)))
	}
	return wall.Format(time.DateOnly)
}

func one(field uint64) bool { return bits.OnesCount64(field&^everyValue) == 1 }
