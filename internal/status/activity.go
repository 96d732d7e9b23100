package status

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
)

// EntryView is an entry of a history.
type EntryView struct {
	Time      time.Time      `json:"time"`
	Batch     string         `json:"batch"` // "": the entry is about the whole fleet
	Action    history.Action `json:"action"`
	Actor     string         `json:"actor"`
	Automatic bool           `json:"automatic"`
	Reason    string         `json:"reason"`
	Detail    string         `json:"detail"`
}

// ViewOfEntry is the view of an entry.
func ViewOfEntry(e history.Entry) EntryView {
	return EntryView{
		Time: e.Time, Batch: e.Batch(), Action: e.Action, Actor: e.Actor, Automatic: e.Auto, Reason: ReasonOf(e.Reason), Detail: e.Detail,
	}
}

// actions are the actions in words. The detail of the entry follows.
var actions = map[history.Action]string{
	history.Import: "queued", history.Swept: "queued by a sweep:", history.Retry: "retried", history.Verify: "to be verified:",
	history.Start: "started", history.Pause: "paused", history.Resume: "resumed", history.Abort: "aborted", history.SetPriority: "set the priority:",
	history.Finish: "ended:", history.Delete: "deleted", history.Archive: "archived:",
	history.RateSet: "set the limit:", history.RateHold: "put sending on hold", history.RateRelease: "released sending", history.RateWindow: "set the window:",
	history.APISet: "set the API:", history.SweepEnded: "scheduled sweep:", history.SweepFailed: "scheduled sweep failed",
}

var largeNumber = regexp.MustCompile(`\b\d{4,}\b`)

// Did says what an entry's actor did, and why.
func Did(e history.Entry) string {
	words, known := actions[e.Action]
	if !e.Auto {
		words = strings.TrimPrefix(words, "scheduled ")
	}
	if !known {
		words = string(e.Action) // of a newer release
	}
	detail := e.Detail
	switch {
	case e.Action == history.Finish: // a script wrote it
		detail = largeNumber.ReplaceAllStringFunc(detail, func(digits string) string {
			n, _ := strconv.ParseInt(digits, 10, 64)
			return humanize.Digits(n)
		})
	case (e.Action == history.Resume || e.Action == history.SweepFailed || e.Action == history.RateRelease) && detail != "":
		words += ":"
	}
	if detail != "" {
		words += " " + detail
	}
	if e.Reason != "" {
		words += " (" + ReasonOf(e.Reason) + ")"
	}
	return words
}

// CauseOf is what paused a batch: person, canary, threshold, or unproven, if its 204s cannot be believed.
func CauseOf(e history.Entry) string {
	switch {
	case !e.Auto:
		return "person"
	case strings.HasPrefix(e.Reason, "canary:"):
		return "canary"
	case strings.HasPrefix(e.Reason, "threshold:"):
		return "threshold"
	}
	return "unproven"
}

// ReasonOf is the reason of a pause in words.
func ReasonOf(reason string) string {
	if what, ok := strings.CutPrefix(reason, "canary:"); ok {
		return fmt.Sprintf("canary: %d links in a row were %s", ledger.CanaryRow, what)
	}
	if what, ok := strings.CutPrefix(reason, "threshold:"); ok {
		return "threshold: " + what + " ended badly"
	}
	return reason
}
