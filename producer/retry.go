package producer

import (
	"context"
	"fmt"
	"io"
	"slices"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/task"
)

// Retry is a source of links: those of a batch that ended with certain
// outcomes, in the batch's order. It keeps 5 bytes for each.
type Retry struct {
	ctx    context.Context // of all reading, since Next takes none
	ledger *ledger.Ledger
	parent ledger.Batch

	// Found is how many links have the outcomes, Elsewhere how many of them are
	// in each other batch by its id, and so left out.
	Found     int64
	Elsewhere map[string]int64

	places    []uint32 // in the parent's manifest
	ambiguous []bool   // of the same links
	next      int
	chunk     int // whose links are read; -1: none
	links     []string
}

// OpenRetry finds the links of parent with one of the outcomes that are in none
// of the others, which should be its earlier retries: what became of a link
// after the parent is told there. Only sealed batches count. ctx also ends Next.
func OpenRetry(ctx context.Context, l *ledger.Ledger, parent ledger.Batch, outcomes []ledger.Outcome, others []ledger.Batch) (*Retry, error) {
	r := &Retry{ctx: ctx, ledger: l, parent: parent, chunk: -1, Elsewhere: map[string]int64{}}
	found, err := l.Snapshot(ctx, parent)
	if err != nil {
		return nil, err
	}
	for place := range int(parent.Total) {
		record := found.Record(place)
		if record.Outcome == ledger.None || !slices.Contains(outcomes, record.Outcome) {
			continue
		}
		r.places = append(r.places, uint32(place))
		r.ambiguous = append(r.ambiguous, record.Ambiguous || record.Outcome == ledger.Aborted && maySent(parent, place))
	}
	r.Found = int64(len(r.places))
	for _, other := range others {
		if err := r.leaveOut(other); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// maySent says whether a link that was aborted may have been sent all the same:
// its answer may be on the way yet, or may have been lost with its worker. What
// was fed last may lie behind the cursor, if the feeder crashed before it moved.
func maySent(b ledger.Batch, place int) bool {
	return b.Slice > 0 && int64(place) < b.Cursor+task.MaxAhead
}

// leaveOut takes out the links that are in another batch.
func (r *Retry) leaveOut(other ledger.Batch) error {
	if len(r.places) == 0 || other.State == ledger.Importing {
		return nil
	}
	there := linkcsv.NewIndex(int(other.Total))
	for link, err := range r.ledger.AllLinks(r.ctx, other) {
		if err != nil {
			return err
		}
		there.Add(link)
	}
	places, ambiguous := r.places, r.ambiguous
	r.places, r.ambiguous = nil, nil
	for i, place := range places {
		link, err := r.link(int(place))
		if err != nil {
			return err
		}
		if _, ok := there.Find(link); ok {
			r.Elsewhere[other.ID]++
			continue
		}
		r.places = append(r.places, place)
		r.ambiguous = append(r.ambiguous, ambiguous[i])
	}
	return nil
}

// link reads the link at a place of the parent's manifest.
func (r *Retry) link(place int) (string, error) {
	if n := place / ledger.ChunkLinks; n != r.chunk {
		links, err := r.ledger.Links(r.ctx, r.parent.ID, n)
		if err != nil {
			return "", err
		}
		r.chunk, r.links = n, links
	}
	at := place % ledger.ChunkLinks
	if at >= len(r.links) {
		return "", fmt.Errorf("chunk %d of batch %s has %d links, not %d", r.chunk, r.parent.ID, len(r.links), r.parent.ChunkLen(r.chunk))
	}
	return r.links[at], nil
}

// Links is how many links there are to retry.
func (r *Retry) Links() int64 { return int64(len(r.places)) }

// Next is part of Source.
func (r *Retry) Next() (string, error) {
	if r.next == len(r.places) {
		return "", io.EOF
	}
	link, err := r.link(int(r.places[r.next]))
	if err != nil {
		return "", err
	}
	r.next++
	return link, nil
}

// Stats is part of Source.
func (r *Retry) Stats() Stats { return Stats{Rows: int64(r.next), Links: int64(r.next)} }

// Restore gives the links of the new batch what must not be forgotten: that an
// earlier attempt may have been applied. It is BatchConfig.Restore.
func (r *Retry) Restore(chunk, links int) ([]ledger.Record, map[int]string, error) {
	records := make([]ledger.Record, links)
	for i := range records {
		records[i].Ambiguous = r.ambiguous[chunk*ledger.ChunkLinks+i]
	}
	return records, nil, nil
}
