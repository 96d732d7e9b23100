package ledger

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Terms are the conditions under which a batch is worked on.
type Terms struct {
	// Verify says which of its links are to be verified at its end: see importer.ParseSample. "": the
	// setting of the workers.
	Verify string
	// PauseAbove pauses the batch when too many of its links end badly: 5%, 20 or off. stop.lua has the
	// rules. "": the setting of the workers.
	PauseAbove string
	// Priority is its share among the batches of the same kind. "": PriorityNormal.
	Priority Priority
	// NotBefore is when its links may be sent from. Zero: at once.
	NotBefore time.Time
}

// ParsePauseAbove checks a stop condition: a share such as 5%, a number of links, off, or "". It returns
// the form that stop.lua reads.
func ParsePauseAbove(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" || text == "off" {
		return text, nil
	}
	if share, percent := strings.CutSuffix(text, "%"); percent {
		if n, err := strconv.ParseFloat(share, 64); err == nil && n >= 0 && n < 100 {
			return strconv.FormatFloat(n, 'f', -1, 64) + "%", nil
		}
	} else if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		return strconv.FormatInt(n, 10), nil
	}
	return "", fmt.Errorf("%q: use a share such as 5%%, a number of links, or off", text)
}

// Priority is the share of a batch among those of the same kind: imports, sweeps or verifications.
type Priority string

// All priorities.
const (
	PriorityHigh   Priority = "high"
	PriorityNormal Priority = "normal"
	PriorityLow    Priority = "low"
)

// Weight is how many turns a batch gets for one of a batch with PriorityLow.
func (p Priority) Weight() int {
	switch p {
	case PriorityHigh:
		return 4
	case PriorityLow:
		return 1
	}
	return 2
}

// Valid reports whether a priority is known, or "".
func (p Priority) Valid() bool {
	switch p {
	case "", PriorityHigh, PriorityNormal, PriorityLow:
		return true
	}
	return false
}

// fields are the terms as fields of the hash of a batch, names before values.
func (t Terms) fields() []any {
	var args []any
	for _, f := range [...]struct{ name, value string }{
		{"verify", t.Verify}, {"stop", t.PauseAbove}, {"priority", string(t.Priority)},
	} {
		if f.value != "" {
			args = append(args, f.name, f.value)
		}
	}
	if !t.NotBefore.IsZero() {
		args = append(args, "not_before", t.NotBefore.UnixMilli())
	}
	return args
}

func parseTerms(h map[string]string) Terms {
	return Terms{
		Verify: h["verify"], PauseAbove: h["stop"], Priority: Priority(h["priority"]), NotBefore: millis(h["not_before"]),
	}
}

// LongPast reports whether the terms begin more than a day before now, which is a mistake. What is
// repeated on time is not.
func (t Terms) LongPast(now time.Time) bool {
	return !t.NotBefore.IsZero() && now.Sub(t.NotBefore) > 24*time.Hour
}

// With returns the terms with those of more that are set.
func (t Terms) With(more Terms) Terms {
	t.Verify, t.PauseAbove, t.Priority = cmp.Or(more.Verify, t.Verify), cmp.Or(more.PauseAbove, t.PauseAbove), cmp.Or(more.Priority, t.Priority)
	if !more.NotBefore.IsZero() && more.NotBefore.UnixMilli() != t.NotBefore.UnixMilli() {
		t.NotBefore = more.NotBefore
	}
	return t
}
