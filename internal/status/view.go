package status

import (
	"strconv"
	"time"

	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
)

// The views are documents for programs: they are printed with --json.

// BatchView is a batch.
type BatchView struct {
	Batch      string           `json:"batch"`
	State      ledger.State     `json:"state"`
	Reason     string           `json:"reason,omitempty"`
	Source     string           `json:"source"`
	Name       string           `json:"name"`
	Parent     string           `json:"parent,omitempty"`
	Total      int64            `json:"total"`
	Pending    int64            `json:"pending"`
	Duplicates int64            `json:"duplicates"`
	Invalid    int64            `json:"invalid"`
	Outcomes   map[string]int64 `json:"outcomes"`
	Created    *time.Time       `json:"created,omitempty"`
	Started    *time.Time       `json:"started,omitempty"`
	Finished   *time.Time       `json:"finished,omitempty"`
	Report     string           `json:"report,omitempty"`
	// Existed means that the batch was there before the command.
	Existed bool `json:"existed,omitempty"`
	// Reasons say why links were not cancelled. StillPayable counts the links that may still
	// take payments, and StillPayableUnknown those of them whose status no answer has shown.
	// They are absent where the records were not read.
	Reasons             []ReasonView `json:"reasons,omitempty"`
	StillPayable        *int64       `json:"still_payable,omitempty"`
	StillPayableUnknown *int64       `json:"still_payable_unknown,omitempty"`
	File                string       `json:"file,omitempty"` // the files it was read from
	By                  string       `json:"by,omitempty"`   // who made it

	Verify     string          `json:"verify,omitempty"`      // see ledger.Terms
	PauseAbove string          `json:"pause_above,omitempty"` // the same
	Priority   ledger.Priority `json:"priority,omitempty"`    // normal without it
	NotBefore  *time.Time      `json:"not_before,omitempty"`

	// Population is how many links could be verified, of a verification.
	Population int64 `json:"population,omitempty"`
	// PayableAtMost: see VerificationView.
	PayableAtMost *int64 `json:"payable_at_most,omitempty"`
	// Verification is the verification of a batch that was waited for.
	Verification *VerificationView `json:"verification,omitempty"`
}

// With adds the result of the batch.
func (v BatchView) With(r Result) BatchView {
	v.StillPayable, v.StillPayableUnknown = &r.Payable, &r.Unknown
	for _, one := range r.Reasons {
		v.Reasons = append(v.Reasons, ReasonView{one.Outcome.String(), one.HTTPStatus, one.Text, one.Links})
	}
	return v
}

// ReasonView is what links with one outcome have in common.
type ReasonView struct {
	Outcome    string `json:"outcome"`
	HTTPStatus int    `json:"http_status"` // of the last answer; 0: no answer
	Text       string `json:"text"`
	Links      int64  `json:"links"`
}

// LiveView is a batch that is followed.
type LiveView struct {
	BatchView
	Rate    *float64  `json:"rate"`         // links that ended per second; null: unknown
	Left    *int64    `json:"left_seconds"` // null: unknown, or nothing is left
	Hold    *HoldView `json:"hold"`         // of the fleet; null: none
	Workers int       `json:"workers"`
}

// DetailsView is a batch with its details.
type DetailsView struct {
	LiveView
	Attempts map[string]int64 `json:"attempts"` // links by attempts
	Errors   []ErrorView      `json:"errors"`
	History  []EntryView      `json:"history"` // the oldest entry first

	Verifications []VerificationView `json:"verifications"` // of the batch, the oldest first
}

// ErrorView is a kind of error.
type ErrorView struct {
	Outcome    string     `json:"outcome"` // pending: they will be tried again
	HTTPStatus int        `json:"http_status"`
	Links      int64      `json:"links"`
	Latest     *time.Time `json:"latest"` // null for pending ones
	Link       string     `json:"link"`
	Error      string     `json:"error"`
}

// FleetView is the limit and the workers.
type FleetView struct {
	Ceiling  float64      `json:"ceiling"` // requests per second; 0: no worker has been alive yet
	Rate     float64      `json:"rate"`
	Burst    int          `json:"burst"`
	Override bool         `json:"override"`
	Hold     *HoldView    `json:"hold"` // null: none
	Workers  []WorkerView `json:"workers"`
	Window   *WindowView  `json:"window"` // null: always open
}

// WindowView is when the fleet may send.
type WindowView struct {
	Window string     `json:"window"` // the times and the zone
	Open   bool       `json:"open"`
	Until  *time.Time `json:"until"` // when it closes, or opens next
}

func windowView(w ratelimit.Window, now time.Time) *WindowView {
	if w.IsZero() {
		return nil
	}
	until, closed := w.Changes(now)
	return &WindowView{Window: w.String(), Open: !closed, Until: Time(until)}
}

// HoldView is a hold.
type HoldView struct {
	Reason string     `json:"reason"`
	Until  *time.Time `json:"until"` // null: unknown
	Cause  string     `json:"cause"` // what the API answered; "" if unknown
}

// WorkerView is a worker.
type WorkerView struct {
	ID       string    `json:"id"`
	Rate     float64   `json:"rate"`
	Hold     *HoldView `json:"hold"`
	API      string    `json:"api"`     // host; "": an earlier release, which does not report it
	Version  string    `json:"version"` // of linkcancel
	Key      string    `json:"key"`     // fingerprint of its API key
	InFlight int       `json:"in_flight"`
	TookMS   int64     `json:"took_ms"` // mean time of its latest requests
}

// Time returns t in UTC; nil if it is zero.
func Time(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// ViewOf is the view of a batch.
func ViewOf(b ledger.Batch) BatchView {
	outcomes := map[string]int64{}
	for _, o := range b.Outcomes() {
		outcomes[o.String()] = b.Counts[o]
	}
	var atMost *int64
	if links, known := AtMost(b); known {
		atMost = &links
	}
	return BatchView{
		Batch: b.ID, State: b.State, Reason: b.Reason, Source: b.Source, Name: b.Name, File: b.File, By: b.By, Parent: b.Parent,
		Total: b.Total, Pending: b.Pending(), Duplicates: b.Duplicates, Invalid: b.Invalid, Outcomes: outcomes,
		Created: Time(b.Created), Started: Time(b.Started), Finished: Time(b.Finished),
		Population: b.Population, PayableAtMost: atMost, Verify: b.Verify, PauseAbove: b.PauseAbove, Priority: b.Priority, NotBefore: Time(b.NotBefore),
	}
}

// View is the view of a batch whose links end at a rate per second, if that is known.
func (s Batch) View(rate float64, known bool) LiveView {
	v := LiveView{BatchView: ViewOf(s.Batch), Hold: holdView(s.Fleet.Hold), Workers: len(s.Fleet.Workers)}
	if !known {
		return v
	}
	if left := s.TimeLeft(rate); left >= 0 {
		seconds := int64(left.Round(time.Second) / time.Second)
		v.Left = &seconds
	}
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(rate, 'g', 4, 64), 64) // more digits mean nothing
	v.Rate = &rounded
	return v
}

// View is the view of the details.
func (d Details) View() DetailsView {
	v := DetailsView{LiveView: d.Batch.View(d.Rate, d.Span > 0), Attempts: map[string]int64{}, Errors: []ErrorView{}, History: []EntryView{}, Verifications: []VerificationView{}}
	v.BatchView = v.BatchView.With(d.Result)
	for n, links := range d.Attempts {
		v.Attempts[strconv.Itoa(n)] = links
	}
	for _, e := range d.History {
		v.History = append(v.History, ViewOfEntry(e))
	}
	for _, b := range d.Verifications {
		v.Verifications = append(v.Verifications, ViewOfVerification(b))
	}
	for _, k := range d.Errors {
		v.Errors = append(v.Errors, ErrorView{
			Outcome: k.Outcome.String(), HTTPStatus: k.HTTPStatus, Links: k.Links, Latest: Time(k.Latest), Link: k.Link, Error: k.Error,
		})
	}
	return v
}

// View is the view of the fleet.
func (f Fleet) View() FleetView {
	v := FleetView{
		Ceiling: float64(f.Ceiling), Rate: float64(f.Rate), Burst: f.Burst, Override: f.Override,
		Hold: holdView(f.Hold), Workers: []WorkerView{}, Window: windowView(f.Window, f.Now),
	}
	for _, w := range f.Workers {
		beat := f.Heartbeats[w.ID]
		v.Workers = append(v.Workers, WorkerView{
			ID: w.ID, Rate: float64(w.Rate), Hold: holdView(f.OwnHold(w)),
			API: beat.API, Version: beat.Version, Key: beat.Key, InFlight: beat.InFlight, TookMS: beat.TookMillis,
		})
	}
	return v
}

func holdView(h ratelimit.Hold) *HoldView {
	if h.Reason == ratelimit.ReasonNone {
		return nil
	}
	return &HoldView{Reason: string(h.Reason), Until: Time(h.Until), Cause: h.Cause}
}
