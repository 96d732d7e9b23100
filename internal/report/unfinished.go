package report

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"linkcancel/internal/ledger"
	"linkcancel/internal/linkcsv"
	"linkcancel/internal/plexy"
)

// ErrNoReport means that a file is not a report.
var ErrNoReport = errors.New("its last columns are not those of a report")

// IsReport reports whether a header is that of a report.
func IsReport(header []string) bool {
	_, _, ok := ownColumns(header)
	return ok
}

// ownColumns returns the index of the first of a report's own columns, which are the last ones, and
// whether it has those of verifications.
func ownColumns(header []string) (first int, verified, ok bool) {
	for _, verified := range [...]bool{true, false} {
		names := own(verified)
		first := len(header) - len(names)
		if first >= 0 && slices.EqualFunc(header[first:], names, func(cell, name string) bool {
			for strings.HasPrefix(cell, "lc_") {
				cell = strings.TrimPrefix(cell, "lc_")
			}
			return cell == name
		}) {
			return first, verified, true
		}
	}
	return 0, false, false
}

// Unfinished is the links of a report that may still be payable, each once, in order.
type Unfinished struct {
	Links []string
	// Ambiguous says of each link whether an earlier request may have cancelled it.
	Ambiguous []bool
}

// ReadUnfinished reads the links of a report that are failed, rejected, aborted or pending, not
// cancellable with a status that can still be paid, or payable by a verification. The error wraps
// ErrNoReport for another file.
func ReadUnfinished(path string) (Unfinished, error) {
	rows, first, verified, err := openReport(path)
	if err != nil {
		return Unfinished{}, err
	}
	defer func() { _ = rows.Close() }()
	var u Unfinished
	seen := linkcsv.NewIndex(0)
	for {
		row, err := rows.Next()
		if err == io.EOF {
			return u, nil
		}
		if err != nil {
			return u, err
		}
		if row.Err != nil {
			continue // a row without a link
		}
		cells := row.Fields[first:]
		outcome, err := ledger.ParseOutcome(cells[1])
		if err != nil {
			continue // the link is not in the batch
		}
		payable := verified && cells[7] == ledger.StillPayable.String()
		switch {
		case payable:
		case outcome == ledger.Cancelled || outcome == ledger.AlreadyCancelled || outcome == ledger.NotFound:
			continue
		case outcome == ledger.NotCancellable && plexy.Ended(cells[3]):
			continue
		}
		if _, isNew := seen.Add(row.Link); isNew {
			u.Links = append(u.Links, strings.Clone(row.Link))
			sent := cells[4] != "" && cells[4] != "0"
			u.Ambiguous = append(u.Ambiguous, payable || sent && outcome != ledger.Rejected && outcome != ledger.NotCancellable)
		}
	}
}

// openReport opens a report. It returns what ownColumns does.
func openReport(path string) (rows *linkcsv.Rows, first int, verified bool, err error) {
	header, err := linkcsv.Header(path)
	if err != nil {
		return nil, 0, false, err
	}
	first, verified, ok := ownColumns(header)
	if !ok {
		return nil, 0, false, fmt.Errorf("%s: %w", path, ErrNoReport)
	}
	rows, err = linkcsv.OpenRows(path, nil, linkcsv.Options{Column: strconv.Itoa(first + 1), AnyID: true})
	return rows, first, verified, err
}

// Rewrite writes a report again, with the results that find returns in the place of the earlier
// ones. All rows stay in their order.
func Rewrite(w io.Writer, path string, find func(link string) (Result, bool), opt Options) error {
	rows, first, verified, err := openReport(path)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	opt.Verified = opt.Verified || verified
	text, err := textOf(rows, []string{path})
	if err != nil {
		return err
	}
	t, err := newTable(w, rows.Header()[:first], text, opt)
	if err != nil {
		return err
	}
	for {
		row, err := rows.Next()
		if err == io.EOF {
			return t.flush()
		}
		if err != nil {
			return err
		}
		fields := linkcsv.Fit(row.Fields, first+len(own(verified)), text.comma)
		if opt.Verified && !verified {
			fields = append(fields, Verified{}.cells()...)
		}
		if row.Err == nil {
			if result, ok := find(row.Link); ok {
				fields = append(fields[:first], t.cells(line{Result: result, known: true})...)
			}
		}
		if err := t.record(fields); err != nil {
			return err
		}
	}
}

// Row is a link's row of a report, as it was written.
type Row struct {
	Link, Outcome, HTTPStatus, LinkStatus, Attempts, FinishedAt, Error string
}

// Find returns the first row of a report for each of the links that it has. The error wraps
// ErrNoReport for another file.
func Find(path string, links []string) (map[string]Row, error) {
	rows, first, verified, err := openReport(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	found := map[string]Row{}
	for {
		row, err := rows.Next()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if row.Err != nil || !slices.Contains(links, row.Link) {
			continue
		}
		link := strings.Clone(row.Link)
		if _, known := found[link]; known || len(row.Fields) < first+len(own(verified)) {
			continue
		}
		cells := slices.Clone(row.Fields[first:])
		for i, cell := range cells {
			cells[i] = strings.Clone(cell)
		}
		found[link] = Row{link, cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]}
	}
}
