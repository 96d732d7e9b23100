package importer

import (
	"context"
	"slices"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/task"
)

// Retry is a Source of a batch's links with certain outcomes. It takes 5 bytes a link.
type Retry struct {
	picked

	// Found is how many links have the outcomes, Elsewhere how many of them other batches have.
	Found     int64
	Elsewhere map[string]int64

	ambiguous []bool // of the same links
}

// OpenRetry finds the links of parent with one of the outcomes. It leaves out those of the sealed
// others, the parent's earlier retries. ctx also ends Next.
func OpenRetry(ctx context.Context, l *ledger.Ledger, parent ledger.Batch, outcomes []ledger.Outcome, others []ledger.Batch) (*Retry, error) {
	r := &Retry{picked: picked{ctx: ctx, ledger: l, parent: parent, chunk: -1}, Elsewhere: map[string]int64{}}
	found, err := l.Snapshot(ctx, parent)
	if err != nil {
		return nil, err
	}
	for position := range int(parent.Total) {
		record := found.Record(position)
		if record.Outcome == ledger.None || !slices.Contains(outcomes, record.Outcome) {
			continue
		}
		r.positions = append(r.positions, uint32(position))
		// A link that a verification found payable may have been cancelled by its batch.
		r.ambiguous = append(r.ambiguous, record.Ambiguous || parent.Verifies() || record.Outcome == ledger.Aborted && maySent(parent, position))
	}
	r.Found = int64(len(r.positions))
	for _, other := range others {
		if err := r.leaveOut(other); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// maySent reports whether an aborted link may have been sent. The slices fed last may be past the
// cursor if the feeder crashed before it moved.
func maySent(b ledger.Batch, position int) bool {
	return b.Slice > 0 && int64(position) < b.Cursor+task.MaxAhead
}

// leaveOut removes the links that are in another batch.
func (r *Retry) leaveOut(other ledger.Batch) error {
	if len(r.positions) == 0 || other.State == ledger.Importing {
		return nil
	}
	there := linkcsv.NewIndex(int(other.Total))
	for link, err := range r.ledger.AllLinks(r.ctx, other) {
		if err != nil {
			return err
		}
		there.Add(link)
	}
	positions, ambiguous := r.positions, r.ambiguous
	r.positions, r.ambiguous = nil, nil
	for i, position := range positions {
		link, err := r.link(int(position))
		if err != nil {
			return err
		}
		if _, ok := there.Find(link); ok {
			r.Elsewhere[other.ID]++
			continue
		}
		r.positions = append(r.positions, position)
		r.ambiguous = append(r.ambiguous, ambiguous[i])
	}
	return nil
}

// Restore is BatchConfig.Restore. It marks the links whose earlier attempt may have been applied.
func (r *Retry) Restore(chunk, links int) ([]ledger.Record, map[int]string, error) {
	records := make([]ledger.Record, links)
	for i := range records {
		records[i].Ambiguous = r.ambiguous[chunk*ledger.ChunkLinks+i]
	}
	return records, nil, nil
}
