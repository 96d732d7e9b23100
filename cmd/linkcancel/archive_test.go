package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"linkcancel/internal/archive"
	"linkcancel/internal/broker"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

// The leader is killed while it writes archives, at random moments: what has its final name is whole,
// and in the end every batch has its archive.
func TestArchiveSurvivesKills(t *testing.T) {
	if !redistest.Have(t) {
		t.Skip("needs redis-server")
	}
	t.Parallel()
	binary, url, dir := fastBinary(t), redistest.Start(t), t.TempDir()
	b, err := broker.Open(t.Context(), broker.Config{URL: url})
	testutil.Must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	l := ledger.New(b.Client())
	const batches = 15
	for i := range batches {
		_, err := importer.MakeBatch(t.Context(), l, &importer.Links{IDs: testutil.LinkIDs(10_000)}, importer.BatchConfig{
			ID: fmt.Sprintf("b%d", i), Source: importer.SourceImport,
			Restore: func(_, n int) ([]ledger.Record, map[int]string, error) {
				records := make([]ledger.Record, n)
				for i := range records {
					records[i] = ledger.Record{Outcome: ledger.Cancelled, Attempts: 1, HTTPStatus: 204}
				}
				return records, nil, nil
			},
		})
		testutil.Must(t, err)
	}
	archives := func() int {
		t.Helper()
		found, err := archive.Verify(dir)
		if err != nil && !errors.Is(err, archive.ErrNone) {
			t.Fatal(err)
		}
		for _, a := range found {
			if !a.OK() {
				t.Errorf("%s: %s", a.Name, a.Problems)
			}
		}
		return len(found)
	}
	kills := 0
	for deadline := time.Now().Add(3 * time.Minute); archives() < batches; {
		if time.Now().After(deadline) {
			t.Fatalf("%d archives", archives())
		}
		worker := exec.Command(binary, "worker", "--archive-dir", dir, "--redis-url", url, "--metrics-addr", "off",
			"--base-url", "http://127.0.0.1:9/v1")
		worker.Env = append(worker.Environ(), "PLEXY_API_KEY=key")
		testutil.Must(t, worker.Start())
		time.Sleep(200*time.Millisecond + rand.N(time.Second))
		_ = worker.Process.Kill()
		_ = worker.Wait()
		kills++
		// Its lease would last for seconds.
		testutil.Must(t, b.Client().Del(t.Context(), "lc:feeder").Err())
	}
	if kills < 3 {
		t.Errorf("%d kills only", kills)
	}
}
