package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/status"
	"linkcancel/producer/sweep"
)

// TestDocsJSON holds each document that --json prints to a golden file, since programs read them.
// A key may be added; UPDATE=1 writes the files. docs/cli.md refers to them.
func TestDocsJSON(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hold := ratelimit.Hold{Reason: ratelimit.ReasonOutage, Until: at, Cause: "GET answered 503"}
	b := ledger.Batch{
		ID: "march", State: ledger.Paused, Reason: "canary:not_found", Source: "import", Name: "stale.csv", Parent: "february",
		Total: 100, Duplicates: 1, Invalid: 2, Created: at, Started: at, Finished: at, File: "stale.csv", By: "ann@laptop",
	}
	entry := history.Entry{Owner: "march", Number: 2, Time: at, Change: history.Change{
		Action: history.Pause, Actor: history.Self, Auto: true, Reason: "canary:not_found",
	}}
	b.Counts[ledger.Cancelled], b.Counts[ledger.Failed] = 90, 3
	fleet := status.Fleet{
		FleetStatus: ratelimit.FleetStatus{Ceiling: 10, Rate: 8.5, Hold: hold, Workers: []ratelimit.FleetWorker{{ID: "host-1-ab", Rate: 10, Hold: hold}}},
		Heartbeats:  map[string]ledger.WorkerBeat{"host-1-ab": {API: "api.plexypay.com", Version: "v1", Key: "1a2b3c", InFlight: 2, TookMillis: 40}},
		Now:         at,
	}
	result := status.Result{Payable: 3, Unknown: 2}
	finished := status.ViewOf(b).With(result)
	finished.Report, finished.Existed = "report.csv", true
	rate := 12.5
	live := status.Batch{Batch: b, Fleet: fleet}.View(rate, true)
	details := status.Details{
		Batch: status.Batch{Batch: b, Fleet: fleet}, Result: result, Attempts: map[int]int64{1: 90},
		Errors: []status.ErrorKind{{Outcome: ledger.Failed, HTTPStatus: 500, Links: 3, Latest: at, Link: "pl_1", Error: "code 1"}},
		Rate:   rate, Span: time.Minute, History: []history.Entry{entry},
	}
	swept := sweepToJSON(&cliApp{globals: globals{DryRun: true}}, sweep.Result{Plan: sweep.Plan{
		Listed: 5, ByStatus: []sweep.StatusCount{{Status: "active", Links: 5}}, Selected: 1, Requests: 1,
		Links: []sweep.Link{{ID: "pl_1", Status: "active", CreatedAt: at, ExpiresAt: at, Amount: 100, Currency: "KZT"}},
	}}, sweep.Selection{Status: "active", Expired: true})
	view := status.ViewOf(b)
	ran := &status.SweepRunView{
		Due: &at, Started: &at, Ended: &at, OK: true, By: "host-1-ab", Listed: 5, Selected: 1,
		LeftOut: map[string]int64{"status": 4}, Failures: 1, Error: "", Batch: &view,
	}
	in := status.LinkIn{Batch: b, Ahead: 7, Left: time.Minute, Record: ledger.LinkRecord{
		Link: "pl_1", Record: ledger.Record{Attempts: 1, HTTPStatus: 500, Ambiguous: true}, LinkStatus: "active", Error: "code 1",
	}}
	linked := &status.LinkView{
		Link: "pl_1", Batches: []status.LinkInView{in.View()}, Live: &status.LinkLiveView{Status: "active", ExpiresAt: &at},
		Reports: []status.LinkReportView{{Report: "report.csv", Outcome: "cancelled", HTTPStatus: "204", Attempts: "1", FinishedAt: "2026-03-01T12:00:05Z"}},
	}
	for name, document := range map[string]any{
		"batch-list":   map[string]any{"batches": []status.BatchView{status.ViewOf(b)}},
		"batch-show":   details.View(),
		"archive":      map[string]any{"archives": []archiveView{{Archive: "march-20260301T120000.000Z", Sum: "1a2b", Problems: []string{"batch.json: it was changed"}}}},
		"activity":     map[string]any{"activity": []status.EntryView{status.ViewOfEntry(entry)}},
		"batch-watch":  live,
		"run":          finished,
		"dry-run":      dryRunView{status.ViewOf(ledger.Batch{State: "dry-run", Source: "run", Name: "stale.csv", Total: 2}), &probeView{Link: "pl_1", OK: true, Status: "active"}},
		"sweep":        swept,
		"sweep-status": status.SweepsView{Schedule: "0 2 * * * UTC", Next: &at, Running: ran, Last: ran, Command: ran},
		"rate":         fleet.View(),
		"link":         map[string]any{"links": []*status.LinkView{linked}},
		"api":          apiJSON{URL: "https://api.plexypay.com/v1", Since: &at, Proved: &at},
		"check":        map[string]any{"checks": []finding{{Name: "key", State: problem, Text: "no API key", Advice: "set PLEXY_API_KEY"}}},
		"error":        map[string]errorView{"error": {Error: "no API key", Hint: "set PLEXY_API_KEY", Exit: exitUsage}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(document, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", "json", name+".json")
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is not what --json prints (%v); make docs writes it:\n%s", path, err, got)
			}
		})
	}
}
