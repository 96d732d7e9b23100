package importer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"linkcancel/internal/ledger"
)

// maxRanges is how many ranges of rows are listed.
const maxRanges = 5

// rowRanges are rows of files, as ranges of numbers.
type rowRanges struct {
	ranges []rowRange
	more   bool
}

type rowRange struct {
	file        string
	first, last int
}

func (r *rowRanges) add(file string, row int) {
	n := len(r.ranges)
	switch {
	case n > 0 && r.ranges[n-1].file == file && row <= r.ranges[n-1].last+1:
		r.ranges[n-1].last = max(row, r.ranges[n-1].last)
	case n == maxRanges:
		r.more = true
	default:
		r.ranges = append(r.ranges, rowRange{file, row, row})
	}
}

// text lists the rows: rows 302–308, 310; with the files: row 5 of a.csv, 7 of b.csv.
func (r rowRanges) text(withFiles bool) string {
	if len(r.ranges) == 0 {
		return ""
	}
	var parts []string
	for i, x := range r.ranges {
		part := fmt.Sprint(x.first)
		if x.last > x.first {
			part += fmt.Sprintf("–%d", x.last)
		}
		if withFiles && (i+1 == len(r.ranges) || r.ranges[i+1].file != x.file) {
			part += " of " + x.file
		}
		parts = append(parts, part)
	}
	if r.more {
		parts = append(parts, "…")
	}
	name := "rows "
	if x := r.ranges[0]; len(parts) == 1 && x.first == x.last {
		name = "row "
	}
	return name + strings.Join(parts, ", ")
}

// pendingFor is how long Pending looks: a million links take half a second.
const pendingFor = 2 * time.Second

// Pending counts the pending links of all batches that has knows, by batch. all is false if there
// were too many to look at.
func Pending(ctx context.Context, l *ledger.Ledger, has func(link string) bool) (found map[string]int64, all bool, err error) {
	batches, err := l.Unfinished(ctx)
	if err != nil {
		return nil, false, err
	}
	found = map[string]int64{}
	over := time.Now().Add(pendingFor)
	for _, b := range batches {
		if !b.Open() {
			continue
		}
		// The links before the low-water mark have their outcomes.
		for n := int(b.Low) / ledger.ChunkLinks; n < b.Chunks; n++ {
			if time.Now().After(over) {
				return found, false, nil
			}
			links, err := pendingIn(ctx, l, b, n, has)
			if errors.Is(err, ledger.ErrNoBatch) {
				break // deleted meanwhile
			}
			if err != nil {
				return nil, false, err
			}
			if links > 0 {
				found[b.ID] += links
			}
		}
	}
	return found, true, nil
}

func pendingIn(ctx context.Context, l *ledger.Ledger, b ledger.Batch, chunk int, has func(link string) bool) (n int64, err error) {
	records, err := l.Records(ctx, b.ID, chunk, 0, b.ChunkLen(chunk))
	if err != nil {
		return 0, err
	}
	links, err := l.Links(ctx, b.ID, chunk)
	if err != nil {
		return 0, err
	}
	for i, link := range links[:min(len(links), len(records))] {
		if records[i].Outcome == ledger.None && has(link) {
			n++
		}
	}
	return n, nil
}
