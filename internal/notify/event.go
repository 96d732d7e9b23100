// Package notify tells other programs what happened: batches that ended or paused, verifications that
// found payable links, and sweeps. Messages follow the Standard Webhooks specification, or are texts
// for Slack.
//
// Events are the entries of the histories, which are written by the scripts that make the changes. The
// leader of the fleet puts each event into an outbox in Redis and notes that in the batch. It sends
// what is in the outbox until the receiver takes it, for a day. A leader that dies at any place loses
// nothing: the next one repeats what may be missing, with the same ids.
package notify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"linkcancel/internal/clean"
	"linkcancel/internal/history"
	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
)

// The types of events.
const (
	BatchDone           = "batch.done"
	BatchPaused         = "batch.paused"
	BatchAborted        = "batch.aborted"
	VerificationDone    = "verification.done"    // no link is payable
	VerificationPayable = "verification.payable" // some are
	SweepDone           = "sweep.done"
	SweepFailed         = "sweep.failed"
	SweepRefused        = "sweep.refused" // it found more links than --max allows
	Test                = "test"
)

// Event is something that happened.
type Event struct {
	ID      string
	Type    string
	Time    time.Time
	Subject string // a batch, or history.Sweep
	Number  int64  // of the entry in the history of the subject
	Data    Data
}

// Data is what an event says. Fields that do not apply are absent.
type Data struct {
	Batch  *BatchData `json:"batch,omitempty"`
	Sweep  *SweepData `json:"sweep,omitempty"`
	Actor  string     `json:"actor"`            // a user, or a process
	Auto   bool       `json:"automatic"`        // no person asked for it
	Reason string     `json:"reason,omitempty"` // in words
	Cause  string     `json:"cause,omitempty"`  // of a pause: person, canary, threshold or unproven
	Page   string     `json:"page,omitempty"`   // URL; absent without --ui-url
	Report string     `json:"report,omitempty"` // URL of the report
	Next   string     `json:"next,omitempty"`   // a command
	Text   string     `json:"text"`             // all of it, for people
}

// BatchData is a batch, with the documented fields of batch list --json.
type BatchData struct{ status.BatchView }

// SweepData are the numbers of a sweep.
type SweepData struct {
	Due      *time.Time `json:"due,omitempty"`
	Batch    string     `json:"batch,omitempty"` // that it made
	Listed   int64      `json:"listed"`
	Selected int64      `json:"selected"`
	Detail   string     `json:"detail,omitempty"`
}

// maxAge is how old an event may be when it is put into the outbox, and how long it is tried.
const maxAge = 24 * time.Hour

// id makes the id of an event: the same for the same entry of a history.
func id(e history.Entry) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", e.Owner, e.Number, e.Time.UnixMilli(), e.Action))
	return "msg_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// typeOf is the type of event that an entry in the history of a batch is; "": none.
func typeOf(b ledger.Batch, e history.Entry) string {
	switch {
	case e.Action == history.Pause:
		return BatchPaused
	case e.Action == history.Abort:
		return BatchAborted
	case e.Action == history.Finish && b.State == ledger.AbortedState: // its records are filled
		return ""
	case e.Action == history.Finish && b.Verifies() && b.Counts[ledger.StillPayable] > 0:
		return VerificationPayable
	case e.Action == history.Finish && b.Verifies():
		return VerificationDone
	case e.Action == history.Finish:
		return BatchDone
	}
	return ""
}

// OfBatch makes the event of an entry in the history of a batch. known is false if the entry makes no
// event, or is older than a day at now. page is the base URL of the page, or "".
func OfBatch(ctx context.Context, l *ledger.Ledger, b ledger.Batch, e history.Entry, now time.Time, page string) (event Event, known bool, err error) {
	kind := typeOf(b, e)
	if kind == "" || now.Sub(e.Time) > maxAge {
		return event, false, nil
	}
	view := status.ViewOf(b)
	if kind == BatchDone || kind == VerificationDone || kind == VerificationPayable {
		result, err := status.ReadResult(ctx, l, b)
		if err != nil {
			return event, false, err
		}
		view.StillPayable, view.StillPayableUnknown = &result.Payable, &result.Unknown
	}
	event = Event{ID: id(e), Type: kind, Time: e.Time, Subject: b.ID, Number: e.Number}
	event.Data = Data{Batch: &BatchData{view}, Actor: e.Actor, Auto: e.Auto, Reason: clean.Line(status.ReasonOf(e.Reason))}
	if kind == BatchPaused {
		event.Data.Cause = status.CauseOf(e)
		event.Data.Next = "linkcancel batch show " + b.ID
	}
	if page != "" {
		event.Data.Page = strings.TrimRight(page, "/") + "/batches/" + url.PathEscape(b.ID)
		event.Data.Report = event.Data.Page + "/report"
	}
	if kind == VerificationPayable {
		event.Data.Next = "linkcancel batch retry " + b.ID + " --still-payable"
	}
	event.Data.Text = event.describeBatch(b)
	return event, true, nil
}

func (e Event) describeBatch(b ledger.Batch) string {
	name := "Batch " + b.ID
	if b.Verifies() {
		name = "The verification " + b.ID + " of batch " + b.Parent
	} else if b.Name != "" && b.Name != b.ID {
		name += " (" + clean.Line(b.Name) + ")"
	}
	pending := humanize.Digits(b.Pending()) + " of " + humanize.Plural(b.Total, "link") + " pending"
	switch e.Type {
	case BatchPaused:
		text := fmt.Sprintf("%s was paused by %s%s", name, clean.Line(e.Data.Actor), because(e.Data.Reason))
		if b.State == ledger.Paused { // or the batch says what happened later
			text += ": " + pending
		}
		return text + "."
	case BatchAborted:
		return fmt.Sprintf("%s was aborted by %s%s: %s.", name, clean.Line(e.Data.Actor), because(e.Data.Reason), pending)
	case VerificationDone, VerificationPayable:
		return name + " is done: " + status.Conclusion(b) + "."
	}
	var counts []string
	for _, o := range b.Outcomes() {
		if n := b.Counts[o]; n > 0 {
			counts = append(counts, humanize.Digits(n)+" "+o.String())
		}
	}
	return fmt.Sprintf("%s is done: %s. May be payable: %s of %s.", name, cmp.Or(strings.Join(counts, ", "), "no links"),
		humanize.Digits(*e.Data.Batch.StillPayable), humanize.Digits(b.Total))
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// OfSweep makes the event of an entry in the history of the sweeps. known: see OfBatch.
func OfSweep(sweeps ledger.Sweeps, e history.Entry, now time.Time, page string) (event Event, known bool) {
	if e.Action != history.SweepEnded && e.Action != history.SweepFailed || now.Sub(e.Time) > maxAge {
		return event, false
	}
	event = Event{ID: id(e), Type: SweepDone, Time: e.Time, Subject: history.Sweep, Number: e.Number}
	event.Data = Data{Sweep: &SweepData{Detail: e.Detail}, Actor: e.Actor, Auto: e.Auto, Reason: clean.Line(e.Reason)}
	what := "The scheduled sweep"
	if !e.Auto {
		what = "The sweep by " + clean.Line(e.Actor)
	}
	for _, run := range []*ledger.SweepRun{sweeps.Last, sweeps.Command, sweeps.Running} {
		if run != nil && run.Ended.Sub(e.Time).Abs() < 2*time.Second {
			s := event.Data.Sweep
			s.Due, s.Batch, s.Listed, s.Selected = status.Time(run.Due), run.Batch, run.Counts.Listed, run.Counts.Selected
		}
	}
	if page != "" {
		event.Data.Page = strings.TrimRight(page, "/") + "/sweeps"
		if batch := event.Data.Sweep.Batch; batch != "" {
			event.Data.Report = strings.TrimRight(page, "/") + "/batches/" + url.PathEscape(batch) + "/report"
		}
	}
	switch {
	case e.Action == history.SweepEnded:
		event.Data.Text = what + " is done: " + e.Detail + "."
	case e.Detail == history.Refused:
		event.Type = SweepRefused
		event.Data.Text, event.Data.Next = what+" was refused: "+event.Data.Reason+".", "linkcancel sweep --dry-run"
	default:
		event.Type = SweepFailed
		event.Data.Text, event.Data.Next = what+" failed: "+event.Data.Reason+".", "linkcancel sweep status"
	}
	return event, true
}

// OfTest makes an event that only shows that notifications arrive.
func OfTest(now time.Time, actor string) Event {
	e := history.Entry{Owner: "test", Time: now, Change: history.Change{Actor: actor, Action: Test}}
	return Event{ID: id(e), Type: Test, Time: now, Subject: "test", Data: Data{Actor: actor, Text: "A test of linkcancel by " + clean.Line(actor) + "."}}
}

// Body is what is sent in a format.
func (e Event) Body(format string) (string, error) {
	var doc any = struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      Data      `json:"data"`
	}{e.Type, e.Time.UTC(), e.Data}
	if format == FormatSlack {
		text := slackText.Replace("linkcancel: " + e.Data.Text)
		switch {
		case e.Data.Page != "":
			text += " <" + e.Data.Page + "|Show it>"
		case e.Data.Next != "":
			text += " Next: `" + slackText.Replace(e.Data.Next) + "`"
		}
		doc = map[string]string{"text": text}
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("encode notification %s: %w", e.ID, err)
	}
	return string(body), nil
}

// slackText escapes a text as Slack asks for. It keeps a name from mentioning everybody.
var slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
