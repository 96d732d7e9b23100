package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/status"
	"linkcancel/internal/task"
)

// Sample says which of a batch's links are verified: none, all, a share, or a number of them.
type Sample struct {
	share float64 // 1: all
	links int64   // if share is 0
}

// ParseSample reads all, off, 5% or 500.
func ParseSample(text string) (Sample, error) {
	text = strings.TrimSpace(text)
	switch share, percent := strings.CutSuffix(text, "%"); {
	case text == "off":
		return Sample{}, nil
	case text == "all":
		return Sample{share: 1}, nil
	case percent:
		n, err := strconv.ParseFloat(share, 64)
		if err == nil && n > 0 && n <= 100 {
			return Sample{share: n / 100}, nil
		}
	default:
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil && n > 0 {
			return Sample{links: n}, nil
		}
	}
	return Sample{}, fmt.Errorf("%q: use all, off, a share such as 5%%, or a number of links", text)
}

// Of returns how many of so many links are verified: a share is rounded up, to one at least.
func (s Sample) Of(population int64) int64 {
	if s.share > 0 {
		return min(population, max(1, int64(math.Ceil(s.share*float64(population)-1e-9))))
	}
	return min(population, s.links)
}

// Off reports whether no link is verified.
func (s Sample) Off() bool { return s == Sample{} }

var (
	// ErrNotEnded: only the outcomes of a batch that has ended can be verified.
	ErrNotEnded = errors.New("the batch has not ended")
	// ErrVerifies: the batch is a verification itself.
	ErrVerifies = errors.New("the batch is a verification")
	// ErrNothingToVerify: the batch reports no link as not payable.
	ErrNothingToVerify = errors.New("the batch reports no link as not payable")
)

// VerifyPlan is a verification that can be made. It is a Source.
type VerifyPlan struct {
	picked
	ID         string
	Population int64 // links that the batch reports as not payable
}

// PlanVerify chooses the links of a batch to verify, at random if they are a sample. id is that of the
// verification; "": the first free one of march-verify, march-verify-2 and so on. The error may be
// ErrNotEnded, ErrVerifies or ErrNothingToVerify.
func PlanVerify(ctx context.Context, l *ledger.Ledger, b ledger.Batch, s Sample, id string) (*VerifyPlan, error) {
	switch {
	case b.Verifies():
		return nil, fmt.Errorf("%s: %w", b.ID, ErrVerifies)
	case !b.Ended():
		return nil, fmt.Errorf("%s is %s: %w", b.ID, b.State, ErrNotEnded)
	}
	found, err := l.Snapshot(ctx, b)
	if err != nil {
		return nil, err
	}
	p := &VerifyPlan{picked: picked{ctx: ctx, ledger: l, parent: b, chunk: -1}, ID: id}
	var all []uint32
	for position := range int(b.Total) {
		record := found.Record(position)
		if status.NotPayable(record.Outcome, found.LinkStatus(record)) {
			all = append(all, uint32(position))
		}
	}
	if p.Population = int64(len(all)); p.Population == 0 {
		return nil, fmt.Errorf("%s: %w", b.ID, ErrNothingToVerify)
	}
	p.positions = choose(all, int(s.Of(p.Population)))
	if id == "" {
		p.ID, err = freeVerifyID(ctx, l, b)
	}
	return p, err
}

// choose keeps n of the positions, each with the same probability, in their order.
func choose(positions []uint32, n int) []uint32 {
	if n >= len(positions) {
		return positions
	}
	kept := positions[:0]
	for i, position := range positions {
		if rand.IntN(len(positions)-i) < n-len(kept) {
			kept = append(kept, position)
		}
	}
	return kept
}

// Make makes the verification and notes it in the batch that it verifies. confirm: see BatchConfig.
func (p *VerifyPlan) Make(ctx context.Context, name string, by history.By, confirm func(Stats) error) (ledger.Batch, error) {
	// Before the seal: a note without a batch is ignored, and a batch without a note would be lost.
	if err := p.ledger.AddVerification(ctx, p.parent, p.ID); err != nil {
		return ledger.Batch{}, err
	}
	return MakeBatch(ctx, p.ledger, p, BatchConfig{
		ID: p.ID, Source: ledger.SourceVerify, Name: cmp.Or(name, p.parent.Name), Parent: p.parent.ID, By: by,
		Confirm: confirm, Population: p.Population,
	})
}

// VerifyID is the id of the nth verification of a batch, from 1.
func VerifyID(batch string, n int) string {
	suffix := "-verify"
	if n > 1 {
		suffix += "-" + strconv.Itoa(n)
	}
	return batch[:min(len(batch), task.MaxBatchID-len(suffix))] + suffix
}

// freeVerifyID returns the first free id. It is not random: of two commands at the same time only one
// succeeds.
func freeVerifyID(ctx context.Context, l *ledger.Ledger, b ledger.Batch) (string, error) {
	for n := 1; ; n++ {
		id := VerifyID(b.ID, n)
		there, err := l.Get(ctx, id)
		switch {
		case err == nil && there.State == ledger.Importing && there.Verifies():
			return id, nil // it broke off
		case errors.Is(err, ledger.ErrNoBatch):
			if deleted, err := l.Deleted(ctx, id); err != nil || !deleted {
				return id, err
			}
		case err != nil && !errors.Is(err, ledger.ErrNewer):
			return "", err
		}
	}
}
