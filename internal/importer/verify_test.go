package importer

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

func TestParseSample(t *testing.T) {
	for text, want := range map[string]int64{ // of 1,000 links
		"off": 0, "all": 1000, "100%": 1000, "5%": 50, "0.05%": 1, "1e-9%": 1, "10%": 100, "33.3%": 333, "7": 7, "1000": 1000, "2000": 1000, " 5% ": 50,
	} {
		s, err := ParseSample(text)
		if got := s.Of(1000); got != want || err != nil || s.Off() != (want == 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "0%", "-1", "101%", "x", "5 %x", "1.5", "NaN%", "1e9%", "all%"} {
		if s, err := ParseSample(text); err == nil {
			t.Errorf("%q: %+v", text, s)
		}
	}
}

// ended makes a batch of n links that are all cancelled, but for some.
func ended(t *testing.T, l *ledger.Ledger, n int, others map[int]ledger.Entry) ledger.Batch {
	t.Helper()
	_, err := MakeBatch(t.Context(), l, &links{ids: testutil.LinkIDs(n)}, BatchConfig{ID: "march", Source: SourceSweep, Name: "march.csv", Terms: ledger.Terms{PauseAbove: "100000"}})
	testutil.Must(t, err)
	for chunk := 0; chunk*ledger.ChunkLinks < n; chunk++ {
		g := ledger.Group{Batch: "march", Chunk: chunk}
		for at := range min(ledger.ChunkLinks, n-chunk*ledger.ChunkLinks) {
			e, ok := others[chunk*ledger.ChunkLinks+at]
			if !ok {
				e = ledger.Entry{Record: ledger.Record{Outcome: ledger.Cancelled, Attempts: 1}}
			}
			e.Position = at
			g.Entries = append(g.Entries, e)
		}
		testutil.Must(t, l.Commit(t.Context(), []ledger.Group{g})[0].Err)
	}
	b, err := l.Get(t.Context(), "march")
	testutil.Must(t, err)
	if b.State != ledger.Done {
		t.Fatalf("%+v", b)
	}
	return b
}

func with(o ledger.Outcome, status string) ledger.Entry {
	return ledger.Entry{Record: ledger.Record{Outcome: o, Attempts: 1}, LinkStatus: status}
}

// What the batch reports as not payable is verified, and nothing else.
func TestPlanVerify(t *testing.T) {
	redistest.Each(t, func(t *testing.T, broker *broker.Broker) {
		ctx, l := t.Context(), ledger.New(broker.Client())
		b := ended(t, l, 2500, map[int]ledger.Entry{
			1: with(ledger.AlreadyCancelled, ""), 2: with(ledger.NotFound, ""), 1003: with(ledger.NotCancellable, "paid"), 4: with(ledger.NotCancellable, "EXPIRED"),
			5: with(ledger.NotCancellable, "active"), 6: with(ledger.NotCancellable, "frozen"), 2007: with(ledger.NotCancellable, "unknown"),
			8: with(ledger.Rejected, ""), 1009: with(ledger.Failed, ""),
		})
		all, _ := ParseSample("all")
		plan, err := PlanVerify(ctx, l, b, all, "")
		testutil.Must(t, err)
		links := testutil.LinkIDs(2500)
		payable := []string{links[5], links[6], links[2007], links[8], links[1009]}
		want := slices.DeleteFunc(slices.Clone(links), func(id string) bool { return slices.Contains(payable, id) })
		if plan.ID != "march-verify" || plan.Population != 2495 || plan.Links() != 2495 {
			t.Errorf("%s: %d of %d", plan.ID, plan.Links(), plan.Population)
		}
		v, err := plan.Make(ctx, "", history.By{Actor: "ann"}, nil)
		testutil.Must(t, err)
		var got []string
		for link, err := range l.AllLinks(ctx, v) {
			testutil.Must(t, err)
			got = append(got, link)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if v.Source != ledger.SourceVerify || v.Parent != "march" || v.Name != "march.csv" || v.Population != 2495 || v.State != ledger.Ready || v.Canary != "off" {
			t.Errorf("%+v", v)
		}

		b, err = l.Get(ctx, "march")
		testutil.Must(t, err)
		some, _ := ParseSample("10%")
		second, err := PlanVerify(ctx, l, b, some, "")
		testutil.Must(t, err)
		_, err = second.Make(ctx, "", history.By{Actor: "ann"}, nil)
		testutil.Must(t, err)
		b, err = l.Get(ctx, "march")
		testutil.Must(t, err)
		made, err := l.VerificationsOf(ctx, b)
		testutil.Must(t, err)
		if len(made) != 2 || made[0].ID != "march-verify" || made[1].ID != "march-verify-2" || made[1].Total != 250 || made[1].Population != 2495 {
			t.Errorf("%+v", made)
		}

		if _, err := PlanVerify(ctx, l, v, all, ""); !errors.Is(err, ErrVerifies) {
			t.Errorf("a verification: %v", err)
		}
		open := v
		open.Source = SourceImport
		if _, err := PlanVerify(ctx, l, open, all, ""); !errors.Is(err, ErrNotEnded) {
			t.Errorf("an open batch: %v", err)
		}
	})
}

// Each link of a sample has the same probability.
func TestSampleIsFair(t *testing.T) {
	const population, sample, draws = 20, 5, 20_000
	var hits [population]int
	for range draws {
		positions := make([]uint32, population)
		for i := range positions {
			positions[i] = uint32(i)
		}
		chosen := choose(positions, sample)
		if len(chosen) != sample || !slices.IsSorted(chosen) || len(slices.Compact(slices.Clone(chosen))) != sample {
			t.Fatal(chosen)
		}
		for _, position := range chosen {
			hits[position]++
		}
	}
	for position, n := range hits { // 5,000 ± 61 is the standard deviation
		if n < 4600 || n > 5400 {
			t.Errorf("position %d was chosen %d times", position, n)
		}
	}
}

// Links that were found payable are retried as links that their batch may have cancelled.
func TestRetryOfVerification(t *testing.T) {
	redistest.Each(t, func(t *testing.T, broker *broker.Broker) {
		ctx, l := t.Context(), ledger.New(broker.Client())
		b := ended(t, l, 10, nil)
		all, _ := ParseSample("all")
		plan, err := PlanVerify(ctx, l, b, all, "")
		testutil.Must(t, err)
		v, err := plan.Make(ctx, "", history.By{Actor: "ann"}, nil)
		testutil.Must(t, err)
		g := ledger.Group{Batch: v.ID}
		for at := range 10 {
			e := with(ledger.NotPayable, "cancelled")
			if at == 3 || at == 7 {
				e = with(ledger.StillPayable, "active")
			}
			e.Position = at
			g.Entries = append(g.Entries, e)
		}
		testutil.Must(t, l.Commit(ctx, []ledger.Group{g})[0].Err)
		v, err = l.Get(ctx, v.ID)
		testutil.Must(t, err)
		if v.State != ledger.Done || v.Counts != (ledger.Counts{ledger.NotPayable: 8, ledger.StillPayable: 2}) {
			t.Fatalf("%+v", v)
		}
		retry, err := PlanRetry(ctx, l, v, []ledger.Outcome{ledger.StillPayable}, "")
		testutil.Must(t, err)
		made, err := retry.Make(ctx, "", history.By{Actor: "ann"}, nil)
		testutil.Must(t, err)
		records, err := l.Records(ctx, made.ID, 0, 0, 2)
		testutil.Must(t, err)
		links, err := l.Links(ctx, made.ID, 0)
		testutil.Must(t, err)
		if made.Source != SourceSweep || made.Parent != v.ID || fmt.Sprint(links) != fmt.Sprint([]string{testutil.LinkIDs(10)[3], testutil.LinkIDs(10)[7]}) || !records[0].Ambiguous || !records[1].Ambiguous {
			t.Errorf("%+v, %v, %+v", made, links, records)
		}
		// A later verification that found nothing does not hide them, and they are retried once.
		sample, _ := ParseSample("1")
		plan, err = PlanVerify(ctx, l, b, sample, "")
		testutil.Must(t, err)
		later, err := plan.Make(ctx, "", history.By{Actor: "ann"}, nil)
		testutil.Must(t, err)
		testutil.Must(t, l.Commit(ctx, []ledger.Group{{Batch: later.ID, Entries: []ledger.Entry{with(ledger.NotPayable, "cancelled")}}})[0].Err)
		b, err = l.Get(ctx, b.ID)
		testutil.Must(t, err)
		found, err := PlanFindings(ctx, l, b, "")
		testutil.Must(t, err)
		if holder, _ := found.Holder(); found.Parent.ID != v.ID || found.Found != 2 || found.Links() != 0 || holder.ID != made.ID {
			t.Errorf("%+v", found)
		}
		if made.PauseAbove != b.PauseAbove || b.PauseAbove == "" || !made.NotBefore.IsZero() {
			t.Errorf("the retry has %+v, its batch %+v", made.Terms, b.Terms)
		}
		if _, err := PlanFindings(ctx, l, made, ""); !errors.Is(err, ErrNotVerified) {
			t.Errorf("%v", err)
		}
		// The retry of a deleted batch that had the id does not count.
		newer := v
		newer.Created = made.Created.Add(time.Minute)
		if p, err := PlanRetry(ctx, l, newer, []ledger.Outcome{ledger.StillPayable}, ""); err != nil || p.Links() != 2 || len(p.Earlier) > 0 {
			t.Errorf("%+v, %v", p, err)
		}
		// Nor does a verification count as a retry of its batch.
		earlier, err := PlanRetry(ctx, l, b, []ledger.Outcome{ledger.Failed}, "")
		testutil.Must(t, err)
		if len(earlier.Earlier) > 0 {
			t.Errorf("%+v", earlier.Earlier)
		}
	})
}
