package status

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/humanize"
	"linkcancel/internal/ledger"
)

// LinkIn is a link in one batch.
type LinkIn struct {
	Batch  ledger.Batch
	Record ledger.LinkRecord
	// Ahead counts the pending links before it in its batch, if it is pending.
	Ahead int64
	// Left is when its turn comes, at the latest. It is negative if that is unknown.
	Left time.Duration
}

// FindLinks returns the batches that have each of the links, the newest first.
func FindLinks(ctx context.Context, rdb redis.UniversalClient, l *ledger.Ledger, links []string) (map[string][]LinkIn, error) {
	batches, err := l.List(ctx)
	if err != nil {
		return nil, err
	}
	fleet, err := ReadFleet(ctx, rdb, l)
	if err != nil {
		return nil, err
	}
	var open, pending int64
	for _, b := range batches {
		if b.Open() && b.State != ledger.Paused {
			open++
			pending += b.Pending()
		}
	}
	found := map[string][]LinkIn{}
	for _, b := range batches {
		positions, err := l.Find(ctx, b, links)
		if err != nil {
			return nil, err
		}
		for link, position := range positions {
			in := LinkIn{Batch: b, Left: -1}
			if in.Record, err = l.LinkAt(ctx, b.ID, position); err != nil {
				return nil, err
			}
			in.Record.Link = link
			if in.Record.Record.Outcome == ledger.None {
				if in.Ahead, err = l.PendingBefore(ctx, b, position); err != nil {
					return nil, err
				}
				s := Batch{Batch: b, Fleet: fleet}
				if m := s.Movement(); b.Open() && (m.Stopped == "" || m.Waits) && fleet.Rate > 0 {
					// The open batches take turns.
					before := min((in.Ahead+1)*open, pending)
					in.Left = s.Wait(time.Duration(min(float64(before)/float64(fleet.Rate), maxLeft.Seconds()) * float64(time.Second)))
				}
			}
			found[link] = append(found[link], in)
		}
	}
	return found, nil
}

// LinkView is a link for programs.
type LinkView struct {
	Link    string           `json:"link"`
	Batches []LinkInView     `json:"batches"` // the newest first
	Reports []LinkReportView `json:"reports"`
	Live    *LinkLiveView    `json:"live"` // null: the API was not asked
}

// LinkInView is a link in one batch.
type LinkInView struct {
	Batch      string       `json:"batch"`
	Name       string       `json:"name"`
	Source     string       `json:"source"`
	State      ledger.State `json:"state"`
	Created    *time.Time   `json:"created"`
	Outcome    string       `json:"outcome"` // pending without one
	HTTPStatus int          `json:"http_status"`
	LinkStatus string       `json:"link_status"`
	Attempts   int          `json:"attempts"`
	FinishedAt *time.Time   `json:"finished_at"`
	Error      string       `json:"error"`
	// Unconfirmed: the link is pending, and an earlier request may have cancelled it.
	Unconfirmed bool   `json:"unconfirmed"`
	Ahead       *int64 `json:"ahead"`        // pending links before it in its batch; null: it has its outcome
	Left        *int64 `json:"left_seconds"` // null: unknown, or it has its outcome
}

// Place says how many links come before a pending one, and how long that takes; "" for others.
func (v LinkInView) Place() string {
	if v.Ahead == nil {
		return ""
	}
	text := humanize.Plural(*v.Ahead, "link") + " before it"
	if v.Left != nil {
		text += ", " + humanize.Duration(time.Duration(*v.Left)*time.Second) + " at most"
	}
	return text
}

// LinkReportView is a link in a report.
type LinkReportView struct {
	Report     string `json:"report"`
	Outcome    string `json:"outcome"`
	HTTPStatus string `json:"http_status"`
	LinkStatus string `json:"link_status"`
	Attempts   string `json:"attempts"`
	FinishedAt string `json:"finished_at"`
	Error      string `json:"error"`
}

// LinkLiveView is a link as the API shows it.
type LinkLiveView struct {
	Status    string     `json:"status"`
	ExpiresAt *time.Time `json:"expires_at"`
	Error     string     `json:"error"` // "": the API showed it
}

// View returns the link in the batch for programs.
func (in LinkIn) View() LinkInView {
	r := in.Record.Record
	v := LinkInView{
		Batch: in.Batch.ID, Name: in.Batch.Name, Source: in.Batch.Source, State: in.Batch.State, Created: Time(in.Batch.Created),
		Outcome: r.Outcome.String(), HTTPStatus: r.HTTPStatus, LinkStatus: in.Record.LinkStatus, Attempts: int(r.Attempts),
		FinishedAt: Time(r.Time(in.Batch.Created)), Error: in.Record.Error,
	}
	if r.Outcome == ledger.None {
		v.Unconfirmed, v.Ahead = r.Ambiguous, &in.Ahead
		if in.Left >= 0 {
			seconds := int64(in.Left / time.Second)
			v.Left = &seconds
		}
	}
	return v
}
