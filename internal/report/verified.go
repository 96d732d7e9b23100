package report

import (
	"context"
	"io"
	"iter"
	"time"

	"linkcancel/internal/ledger"
)

// Verified is what the latest verification that read a link found. It is zero if none did.
type Verified struct {
	Outcome ledger.Outcome // NotPayable, StillPayable or Unknown
	Status  string         // as the API spells it; empty if it was not shown
	At      time.Time
}

func (v Verified) cells() []string {
	if v.Outcome == ledger.None {
		return []string{"", "", ""}
	}
	return []string{v.Outcome.String(), v.Status, v.At.UTC().Format(time.RFC3339)}
}

// Verifications are the results of a batch's verifications. nil: it has none.
type Verifications struct {
	batches []ledger.Batch
	found   []*ledger.Snapshot
	at      []place // by position in the verified batch
}

// place is where a link is in a verification.
type place struct {
	batch    int32 // from 1; 0: no verification has it
	position int32
}

// ReadVerifications reads the verifications of a batch, 8 bytes per link of both.
func ReadVerifications(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (*Verifications, error) {
	batches, err := l.VerificationsOf(ctx, b)
	if err != nil || len(batches) == 0 {
		return nil, err
	}
	v := &Verifications{batches: batches, at: make([]place, b.Total)}
	for i, batch := range batches {
		found, err := l.Snapshot(ctx, batch)
		if err != nil {
			return nil, err
		}
		v.found = append(v.found, found)
		if err := v.locate(ctx, l, b, batch, int32(i+1)); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// locate finds the links of a verification. They are in the order of the batch.
func (v *Verifications) locate(ctx context.Context, l *ledger.Ledger, b, verification ledger.Batch, number int32) error {
	next, stop := iter.Pull2(l.AllLinks(ctx, verification))
	defer stop()
	wanted, err, more := next()
	position, at := 0, int32(0)
	for link, linkErr := range l.AllLinks(ctx, b) {
		if linkErr != nil || err != nil || !more {
			break
		}
		if link == wanted {
			if r := v.found[number-1].Record(int(at)); isVerdict(r.Outcome) {
				v.at[position] = place{number, at}
			}
			at++
			wanted, err, more = next()
		}
		position++
	}
	return err
}

func isVerdict(o ledger.Outcome) bool {
	return o == ledger.NotPayable || o == ledger.StillPayable || o == ledger.Unknown
}

// Of returns what was found about the link at a position of the batch.
func (v *Verifications) Of(position int) Verified {
	if v == nil || v.at[position].batch == 0 {
		return Verified{}
	}
	at := v.at[position]
	b, found := v.batches[at.batch-1], v.found[at.batch-1]
	r := found.Record(int(at.position))
	return Verified{Outcome: r.Outcome, Status: found.LinkStatus(r), At: r.Time(b.Created)}
}

// WriteBatch writes the results of a batch as a list, with those of its verifications if there are any.
func WriteBatch(ctx context.Context, w io.Writer, l *ledger.Ledger, b ledger.Batch, opt Options) error {
	verified, err := ReadVerifications(ctx, l, b)
	if err != nil {
		return err
	}
	opt.Verified = verified != nil
	position := 0
	return Write(w, func(yield func(Result, error) bool) {
		for r, err := range Results(ctx, l, b) {
			if err == nil {
				r.Verified = verified.Of(position)
				position++
			}
			if !yield(r, err) {
				return
			}
		}
	}, opt)
}
