package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
)

// linksOf yields the links pl_0, pl_1 and so on.
type linksOf struct{ next, n int }

func (s *linksOf) Next() (string, error) {
	if s.next == s.n {
		return "", io.EOF
	}
	s.next++
	return "pl_" + strings.Repeat("x", s.next), nil
}

func (s *linksOf) Stats() importer.Stats { return importer.Stats{Links: int64(s.next)} }

// detailsOf reads a batch with these records, an hour after it began.
func detailsOf(t *testing.T, change func(*ledger.Batch), records ...ledger.Record) status.Details {
	t.Helper()
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	l := ledger.New(b.Client())
	began := time.Now().Add(-time.Hour).Truncate(time.Second)
	batch, err := importer.MakeBatch(t.Context(), l, &linksOf{n: len(records)}, importer.BatchConfig{
		ID: "march", Created: began,
		Restore: func(int, int) ([]ledger.Record, map[int]string, error) {
			texts := map[int]string{}
			for i, r := range records {
				if r.Outcome == ledger.Failed || r.Outcome == ledger.Rejected || r.Settling {
					texts[i] = "text " + strings.Repeat("x", i+1)
				}
			}
			return records, texts, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	batch.State, batch.Started, batch.Finished = ledger.Running, began, time.Time{}
	if change != nil {
		change(&batch)
	}
	fleet := status.Fleet{
		FleetStatus: ratelimit.FleetStatus{Ceiling: 5, Rate: 5, Workers: make([]ratelimit.FleetWorker, 2)}, Now: began.Add(time.Hour),
	}
	d, err := status.ReadDetails(t.Context(), l, status.Batch{Batch: batch, Fleet: fleet})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// times repeats a record.
func times(n int, r ledger.Record) []ledger.Record {
	var all []ledger.Record
	for range n {
		all = append(all, r)
	}
	return all
}

func printed(d status.Details) string {
	var b strings.Builder
	printDetails(&b, d)
	return b.String()
}

func TestShow(t *testing.T) {
	records := append(times(12, ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204, After: 3590}), []ledger.Record{
		{Outcome: ledger.Cancelled, Attempts: 2, HTTPStatus: 204, After: 100},
		{Outcome: ledger.Failed, Attempts: 12, HTTPStatus: 500, After: 3000},
		{Outcome: ledger.Failed, Attempts: 12, HTTPStatus: 500, After: 3540},
		{Outcome: ledger.Failed, Attempts: 13, After: 200},
		{Outcome: ledger.Rejected, Attempts: 1, HTTPStatus: 400, After: 10},
		{Outcome: ledger.Aborted, Attempts: 4, After: 3590},
		{Attempts: 3, HTTPStatus: 503, Ambiguous: true},
		{Attempts: 5, HTTPStatus: 503, Ambiguous: true},
		{Attempts: 1},
		{HTTPStatus: 422, Settling: true, Ambiguous: true},
		{Ambiguous: true}, // of a retry: not tried yet
		{}, {},
	}...)
	s := detailsOf(t, nil, records...)
	want := `
  rate      12.0/min over the last minute
  left      35 s at that rate
  fleet     2 workers, limit 5/s
  attempts  1: 14   2: 1   3: 1   4 to 6: 2   7 to 12: 2   13 or more: 1
  in doubt  2 pending links, which an attempt without a clear answer may have cancelled

  last errors by kind
    tried again, 503        2   pl_xxxxxxxxxxxxxxxxxxxx
    failed, 500             2   pl_xxxxxxxxxxxxxxx, 1 min 00 s ago: text xxxxxxxxxxxxxxx
    tried again, no answer  1   pl_xxxxxxxxxxxxxxxxxxxxx
    tried again, 422        1   pl_xxxxxxxxxxxxxxxxxxxxxx: text xxxxxxxxxxxxxxxxxxxxxx
    rejected, 400           1   pl_xxxxxxxxxxxxxxxxx, 59 min 50 s ago: text xxxxxxxxxxxxxxxxx
    failed, no answer       1   pl_xxxxxxxxxxxxxxxx, 56 min 40 s ago: text xxxxxxxxxxxxxxxx
`
	if diff := cmp.Diff(want, printed(s)); diff != "" {
		t.Error(diff)
	}
	j := s.View()
	if diff := cmp.Diff(map[string]int64{"1": 14, "2": 1, "3": 1, "4": 1, "5": 1, "12": 2, "13": 1}, j.Attempts); diff != "" {
		t.Error(diff)
	}
	if *j.Rate != 0.2 || *j.Left != 35 || j.Workers != 2 || j.Hold != nil {
		t.Errorf("%+v", j)
	}
	latest := s.Created.Add(59 * time.Minute)
	if diff := cmp.Diff(status.ErrorView{Outcome: "failed", HTTPStatus: 500, Links: 2, Latest: &latest, Link: "pl_xxxxxxxxxxxxxxx", Error: "text xxxxxxxxxxxxxxx"}, j.Errors[1]); diff != "" {
		t.Error(diff)
	}
	if e := j.Errors[0]; e.Outcome != "pending" || e.Latest != nil || e.Links != 2 {
		t.Errorf("%+v", e)
	}
}

func TestShownRate(t *testing.T) {
	ended := func(n int, after uint32) []ledger.Record {
		return append(times(n, ledger.Record{Outcome: ledger.NotFound, Attempts: 1, HTTPStatus: 404, After: after}), times(90, ledger.Record{})...)
	}
	begun := func(ago time.Duration) func(*ledger.Batch) {
		return func(b *ledger.Batch) { b.Started = b.Created.Add(time.Hour - ago) }
	}
	for _, tt := range []struct {
		name    string
		change  func(*ledger.Batch)
		records []ledger.Record
		want    string
	}{
		{"the last minute", nil, ended(30, 3580), "30.0/min over the last minute"},
		{"few of late: the last quarter", nil, ended(15, 3000), "1.0/min over the last 15 minutes"},
		{"fewer: the last hour", nil, ended(9, 3000), "9.0/h over the last hour"},
		{"just begun", begun(10 * time.Second), ended(40, 3595), "4.0/s over the last 10 s"},
		{"this very moment", begun(0), ended(2, 3599), "2.0/s over the last 1 s"},
		{"resumed", func(b *ledger.Batch) { b.Resumed = b.Created.Add(59*time.Minute + 40*time.Second) }, ended(40, 3590), "2.0/s over the last 20 s"},
		{"nothing", nil, ended(0, 0), "0.0/s over the last hour"},
		{"done", func(b *ledger.Batch) { b.State, b.Finished = ledger.Done, b.Created.Add(20*time.Second) }, ended(40, 10), "2.0/s on average"},
		{"aborted", func(b *ledger.Batch) { b.State, b.Finished = ledger.AbortedState, b.Created.Add(20*time.Second) },
			append(ended(40, 10), times(50, ledger.Record{Outcome: ledger.Aborted, After: 20})...), "2.0/s on average"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := detailsOf(t, tt.change, tt.records...)
			if got := printed(s); !strings.Contains(got, "\n  rate      "+tt.want+"\n") {
				t.Errorf("want %s:\n%s", tt.want, got)
			}
		})
	}
	// Not begun: nothing is measured, and the limit is all that can be told.
	s := detailsOf(t, func(b *ledger.Batch) { b.State, b.Started = ledger.Ready, time.Time{} }, ended(0, 0)...)
	if diff := cmp.Diff("\n  left      18 s at the fleet's limit\n  fleet     2 workers, limit 5/s\n", printed(s)); diff != "" {
		t.Error(diff)
	}
	if j := s.View(); j.Rate != nil || j.Left != nil {
		t.Errorf("%+v", j)
	}
	s = detailsOf(t, func(b *ledger.Batch) { b.State, b.Reason = ledger.Paused, "by command" }, ended(9, 3595)...)
	if diff := cmp.Diff("\n  now       paused (by command)\n  fleet     2 workers, limit 5/s\n  attempts  1: 9\n", printed(s)); diff != "" {
		t.Error(diff)
	}
}
