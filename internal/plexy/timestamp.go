package plexy

import (
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DateNote is a problem of a date.
type DateNote struct {
	// NoZone means that the value has no offset from UTC. The time is then the latest
	// instant that it can mean, so that a link never looks expired or old too early.
	NoZone bool
	// Unreadable means that the value is not a date. A missing, null or blank field has no value.
	Unreadable bool
	// Text is a NoZone or Unreadable value as one clean line of at most 64 bytes, else empty.
	Text string
}

// westmost is the offset of the westernmost zone.
const westmost = 12 * time.Hour

// lastTime is the end of the year 9999, the latest date that JSON can hold.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// readDate reads the first of the named fields that has a value. No readable date is zero.
func readDate(fields map[string]json.RawMessage, scrub scrubber, names ...string) (time.Time, DateNote) {
	for _, name := range names {
		raw := fields[name]
		text := scrub.line(scalar(raw))
		switch {
		case len(raw) == 0, string(raw) == "null":
			continue
		case text == "" && raw[0] == '"':
			continue
		case text == "": // an object, an array or a boolean
			return time.Time{}, DateNote{Unreadable: true, Text: example(scrub.line(string(raw)))}
		}
		t, noZone, ok := parseDate(text)
		switch {
		case !ok:
			return time.Time{}, DateNote{Unreadable: true, Text: example(text)}
		case noZone:
			return t, DateNote{NoZone: true, Text: example(text)}
		}
		return t, DateNote{}
	}
	return time.Time{}, DateNote{}
}

// example returns a copy of the beginning of a value, so that the rest can be freed.
func example(text string) string { return strings.Clone(strings.TrimSpace(cut(text, maxWord))) }

// parseDate parses any unambiguous date: RFC 3339, RFC 1123, their variants, and the time since
// 1970. A date alone is the end of that day. A missing zone is the westernmost one.
func parseDate(text string) (t time.Time, noZone, ok bool) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return bounded(t), false, true
	}
	if strings.HasPrefix(text, "0000-00-00") { // MySQL's null date
		return time.Time{}, false, true
	}
	text = uniform(text)
	if isCompact(text) {
		t, ok := parseCompact(text)
		return bounded(t.Add(westmost)), true, ok
	}
	if isNumber(text) {
		if t, ok := parseEpoch(text); ok {
			return bounded(t), false, true
		}
	}
	if t, ok := parseWall(text); ok {
		return bounded(t.Add(westmost)), true, true
	}
	for _, layout := range zonedForms {
		if t, err := time.Parse(layout, text); err == nil {
			return bounded(t), false, true
		}
	}
	rest, offset, noZone, ok := cutZone(text)
	if !ok {
		return time.Time{}, false, false
	}
	if t, ok = parseWall(rest); !ok {
		return time.Time{}, false, false
	}
	return bounded(t.Add(-offset)), noZone, true
}

// bounded returns t in UTC, no later than lastTime. A time before the year 1 is zero.
func bounded(t time.Time) time.Time {
	switch t = t.UTC(); {
	case t.Year() < 1:
		return time.Time{}
	case t.After(lastTime):
		return lastTime
	}
	return t
}

var weekday = regexp.MustCompile(`^(?:MON|TUE|WED|THU|FRI|SAT|SUN)[A-Z]*,? `)

// uniform returns a date in upper case without weekday, as YYYY-MM-DDT… if the year is first.
func uniform(text string) string {
	text = strings.ToUpper(strings.Join(strings.Fields(text), " "))
	text = text[len(weekday.FindString(text)):]
	if len(text) < 10 || strings.Trim(text[:4], "0123456789") != "" {
		return text
	}
	date := []byte(text)
	if date[4] == date[7] && (date[4] == '/' || date[4] == '.') {
		date[4], date[7] = '-', '-'
	}
	if date[4] == '-' && len(date) > 10 && (date[10] == ' ' || date[10] == '_') {
		date[10] = 'T'
	}
	return string(date)
}

// isNumber reports whether text has only characters of a decimal number.
func isNumber(text string) bool {
	return text != "" && (text[0] == '-' || '0' <= text[0] && text[0] <= '9') && strings.Trim(text, "0123456789.E+-") == ""
}

// isCompact reports whether text is a date of this century in digits.
func isCompact(text string) bool {
	return slices.Contains([]int{8, 12, 14, 17}, len(text)) && strings.HasPrefix(text, "20") && strings.Trim(text, "0123456789") == ""
}

// parseCompact parses a date in digits as UTC, to the day, minute, second or millisecond.
func parseCompact(text string) (time.Time, bool) {
	if len(text) == 17 {
		text = text[:14] + "." + text[14:]
	}
	return parseWall(text)
}

// parseEpoch parses the time since 1970 in seconds, milliseconds, microseconds or nanoseconds: the
// largest unit within the year 9999. The years up to 1970 and 9999 mean none and never. Another
// year before 2000 or after 3000 means another kind of number.
func parseEpoch(text string) (time.Time, bool) {
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return time.Time{}, false
	}
	perSecond := int64(1)
	for math.Abs(number)/float64(perSecond) > float64(lastTime.Unix()) {
		if perSecond *= 1000; perSecond > 1e9 {
			return time.Time{}, false
		}
	}
	var t time.Time
	if exact, err := strconv.ParseInt(text, 10, 64); err == nil {
		t = time.Unix(exact/perSecond, exact%perSecond*(1e9/perSecond))
	} else {
		seconds, fraction := math.Modf(number / float64(perSecond))
		t = time.Unix(int64(seconds), int64(math.Round(fraction*1e6))*1000) // the precision of a float64
	}
	year := t.UTC().Year()
	return t, year <= 1970 || 2000 <= year && year <= 3000 || year == 9999
}

// Forms of a date whose zone is at the end or missing. Seconds may have a fraction.
var (
	timeForms = [...]string{
		"2006-01-02T15:04:05", "2006-01-02T15:04", "20060102T150405", "20060102T1504", "20060102150405", "200601021504",
		"2 Jan 2006 15:04:05", "2 Jan 2006 15:04", "2 Jan 06 15:04:05", "2 Jan 06 15:04", "2-Jan-06 15:04:05", "2-Jan-2006 15:04:05",
		"Jan 2 2006 15:04:05", "Jan 2, 2006 15:04:05", "Jan 2 15:04:05 2006",
	}
	dayForms = [...]string{"2006-01-02", "20060102", "2 Jan 2006", "2-Jan-2006", "Jan 2 2006", "Jan 2, 2006"}
	// zonedForms have their zone in the middle.
	zonedForms = [...]string{"Jan 2 15:04:05 -0700 2006", "Jan 2 15:04:05 UTC 2006", "Jan 2 15:04:05 GMT 2006"}
)

// parseWall parses a date without a zone as UTC.
func parseWall(text string) (time.Time, bool) {
	for _, layout := range timeForms {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	for _, layout := range dayForms {
		if t, err := time.Parse(layout, text); err == nil {
			return t.AddDate(0, 0, 1), true
		}
	}
	return time.Time{}, false
}

// Zones at the end of a date, after uniform. A name alone is ambiguous, and its offset
// changes over the years. After an offset it adds nothing.
var (
	zoneName   = regexp.MustCompile(`^(.*\d ?(?:Z|(?:UTC?|GMT)?[+-]\d{2}:?\d{2})) ?(?:\(.*\)|\[.*\]|[A-Z]{3,5}|[+-]\d{2,4})(?: M=[+-][\d.]+)?$`)
	offsetZone = regexp.MustCompile(`^(.*\d) ?(?:Z|UTC?|GMT|(?:UTC?|GMT)? ?([+-])(\d{1,2})(?::?([0-5]\d))?)$`)
	namedZone  = regexp.MustCompile(`^(.*\d) ?\[?(?:[A-Z]{3,5}|[A-Z_]+(?:/[A-Z0-9_+-]+){1,2})\]?$`)
)

// cutZone removes the zone from a date. A name alone means the westernmost zone.
func cutZone(text string) (rest string, offset time.Duration, noZone, ok bool) {
	if m := zoneName.FindStringSubmatch(text); m != nil {
		text = m[1]
	}
	if m := offsetZone.FindStringSubmatch(text); m != nil {
		hours, _ := strconv.Atoi(m[3]) // 0 without an offset
		minutes, _ := strconv.Atoi(m[4])
		offset = time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
		if m[2] == "-" {
			offset = -offset
		}
		return m[1], offset, false, hours < 24
	}
	if m := namedZone.FindStringSubmatch(text); m != nil {
		return m[1], -westmost, true, true
	}
	return "", 0, false, false
}
