package app

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/sandbox"
	"linkcancel/internal/status"
)

// An app that a test embeds cancels a batch, and reports its progress by a callback.
func TestRunBatch(t *testing.T) {
	api := sandbox.New(sandbox.Config{Links: 50, Paid: 0.1})
	server := httptest.NewServer(api)
	t.Cleanup(func() { server.Close(); api.Close() })
	key, err := plexy.NewKey("key")
	if err != nil {
		t.Fatal(err)
	}
	client, err := plexy.New(plexy.Config{BaseURL: server.URL + sandbox.DefaultPrefix, Key: key, Timeout: 10 * time.Second, Concurrency: 10})
	if err != nil {
		t.Fatal(err)
	}
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	l := ledger.New(b.Client())
	src, err := importer.OpenCSV(importer.CSVConfig{Paths: []string{"-"}, Stdin: strings.NewReader("id\n" + strings.Join(api.IDs(), "\n"))})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := importer.MakeBatch(t.Context(), l, src, importer.BatchConfig{Source: importer.SourceRun})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{
		ID: "test", Version: "dev", Broker: b, Ledger: l, Client: client, Key: key,
		Rate: 500, Burst: 1, Concurrency: 10, Attempts: 3, DrainTimeout: time.Second, Keep: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	updates := 0
	done, err := a.RunBatch(t.Context(), batch.ID, func(ledger.Batch) { updates++ })
	if err != nil {
		t.Fatal(err)
	}
	if !done.Ended() || done.Counts[ledger.Cancelled] == 0 || done.Counts[ledger.NotCancellable] == 0 || updates == 0 {
		t.Errorf("%d updates, ended with %+v", updates, done)
	}
	s, err := status.Read(t.Context(), b.Client(), l, batch.ID)
	if err != nil || s.Pending() != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
