package feeder

import (
	"testing"
	"time"

	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/task"
	"linkcancel/internal/testutil"
)

// A batch that is done is verified, by its own setting or that of the workers, before it is retired.
func TestVerifyAtTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name, batch, workers string
		links                int64 // of the verification; 0: there is none
	}{
		{"nobody wants it", "", "", 0},
		{"the setting of the workers", "", "all", 100},
		{"a sample", "", "10%", 10},
		{"the batch wants it", "all", "off", 100},
		{"the batch does not", "off", "all", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, y *yard) {
				_, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(100)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport, Terms: ledger.Terms{Verify: tt.batch}})
				testutil.Must(t, err)
				f := y.feeder(1000)
				f.cfg.Process, f.cfg.Verify = "w1", tt.workers
				y.tick(f)
				y.settle(task.Slice{Batch: "b1", Links: testutil.LinkIDs(100)})
				for range 5 {
					y.tick(f)
					f.verifier.running.Wait()
				}
				b := y.get("b1")
				made, err := y.l.VerificationsOf(t.Context(), b)
				testutil.Must(t, err)
				if b.State != ledger.Done || (len(made) == 1) != (tt.links > 0) {
					t.Fatalf("%+v has the verifications %+v", b, made)
				}
				if ttl := y.rdb.TTL(t.Context(), "lc:{b1}").Val(); ttl <= 0 {
					t.Errorf("it is not retired: %v", ttl)
				}
				if tt.links == 0 {
					return
				}
				v := made[0]
				if v.ID != "b1-verify" || v.Total != tt.links || v.Population != 100 || v.State != ledger.Running || v.By != "w1" {
					t.Errorf("%+v", v)
				}
				for _, s := range y.all() {
					if s.Batch == v.ID && !s.Verify || s.Batch != v.ID && s.Verify {
						t.Errorf("slice %+v", s)
					}
				}
				testutil.Advance(time.Minute)
				y.ticks(f, 2*time.Minute)
				if all, err := y.l.List(t.Context()); len(all) != 2 || err != nil {
					t.Errorf("%d batches, %v", len(all), err)
				}
			})
		})
	}
}

// A batch that reports nothing as not payable needs no verification, and is retired.
func TestNothingToVerify(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		_, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(10)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport, Terms: ledger.Terms{Verify: "all"}})
		testutil.Must(t, err)
		f := y.feeder(1000)
		y.tick(f)
		y.record(ledger.Failed, 0, 0, 10)
		for range 5 {
			y.tick(f)
			f.verifier.running.Wait()
		}
		if b := y.get("b1"); !b.HadNothingToVerify() || y.rdb.TTL(t.Context(), "lc:{b1}").Val() <= 0 {
			t.Errorf("%+v", b)
		}
	})
}

// A leader may die while it makes the verification. The next one makes it.
func TestVerificationIsMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, y *yard) {
		_, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(10)}, importer.BatchConfig{ID: "b1", Source: importer.SourceImport, Terms: ledger.Terms{Verify: "all"}})
		testutil.Must(t, err)
		y.record(ledger.Cancelled, 0, 0, 10)
		testutil.Must(t, y.l.AddVerification(t.Context(), y.get("b1"), "b1-verify"))
		_, _, err = y.l.Create(t.Context(), ledger.DraftConfig{ID: "b1-verify", Source: ledger.SourceVerify, Parent: "b1"})
		testutil.Must(t, err)
		f := y.feeder(1000)
		for range 60 {
			y.tick(f)
			f.verifier.running.Wait()
			testutil.Advance(time.Second)
		}
		made, err := y.l.VerificationsOf(t.Context(), y.get("b1"))
		if len(made) != 1 || err != nil || made[0].Total != 10 {
			t.Errorf("%+v, %v", made, err)
		}
	})
}
