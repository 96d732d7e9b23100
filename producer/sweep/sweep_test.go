package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
	"linkcancel/internal/plexy"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

// noon is when the sweeps of these tests are.
var noon = time.Date(2031, 5, 20, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

const day = 24 * time.Hour

// stale is what most tests select.
func stale() Selection {
	return Selection{Expired: true, Grace: day, Status: "active", Max: 1_000_000}
}

func sweeping(api Lister, sel Selection) Config {
	return Config{Selection: sel, API: api, Limiter: &answers{}, Log: slog.New(slog.DiscardHandler), Now: atNoon}
}

// expired makes n active links that are expired for long.
func expired(n int) []plexy.Link {
	links := linksOf(testutil.LinkIDs(n))
	for i := range links {
		links[i].ExpiresAt = noon.Add(-30 * day)
	}
	return links
}

// Real requests: 30% of the links are expired, on pages of 50 in another envelope than the
// sandbox's.
func TestSweepOfMany(t *testing.T) {
	const n = 24_000
	var want []string
	wire := make([]string, n)
	for i := range n {
		expires, status := noon.Add(time.Duration(i)*time.Minute), "active"
		if i%10 < 3 {
			expires = noon.Add(-25*time.Hour - time.Duration(i)*time.Minute)
			want = append(want, testutil.LinkID(i))
		} else if i%10 == 3 { // expired too, but paid
			expires, status = noon.Add(-30*day), "paid"
		}
		wire[i] = fmt.Sprintf(`{"id":%q,"status":%q,"expiresAt":%q}`, testutil.LinkID(i), status, expires.Format(time.RFC3339))
	}
	pages := make([]string, n/50)
	for i := range pages {
		pages[i] = fmt.Sprintf(`{"items":[%s],"total":%d}`, strings.Join(wire[50*i:50*i+50], ","), n)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := 1
		if text := r.URL.Query().Get("page"); text != "" {
			page, _ = strconv.Atoi(text)
		}
		w.Header().Set("Date", noon.Format(http.TimeFormat))
		if page > len(pages) {
			_, _ = io.WriteString(w, `{"items":[]}`)
			return
		}
		_, _ = io.WriteString(w, pages[page-1])
	}))
	defer server.Close()
	key, err := plexy.NewKey("test")
	testutil.Must(t, err)
	api, err := plexy.New(plexy.Config{BaseURL: server.URL, Key: key})
	testutil.Must(t, err)
	defer api.CloseIdle()
	b := broker.Embedded()
	defer b.Close()
	l := ledger.New(b.Client())

	r, err := Run(t.Context(), l, sweeping(api, stale()))
	testutil.Must(t, err)
	if diff := cmp.Diff(want, testutil.Collect(t, l.AllLinks(t.Context(), r.Batch))); diff != "" {
		t.Error(diff)
	}
	plan := Plan{
		Listed: n, ByStatus: []StatusCount{{"active", 21_600}, {"paid", 2_400}},
		Dropped:  Dropped{Status: 2_400, NotExpired: 14_400},
		Dates:    Dates{Links: 21_600, Expiry: DateCount{Known: 21_600}},
		Selected: 7_200, PastExpiry: 7_200, Requests: 2*481 + 2, Passes: 2,
	}
	if diff := cmp.Diff(plan, r.Plan); diff != "" {
		t.Error(diff)
	}
	if r.Batch.State != ledger.Ready || r.Batch.Total != 7_200 || r.Batch.Source != importer.SourceSweep || r.Batch.Name != "active, expired for 24h" {
		t.Errorf("%+v", r.Batch)
	}
}

// Which links a selection takes, and which condition drops the others.
func TestSelection(t *testing.T) {
	old := noon.Add(-31 * day)
	date := func(text string) time.Time {
		d, _ := time.Parse(time.RFC3339, text)
		return d
	}
	dropped := func(d Dropped) (int64, Dropped) { return 0, d }
	taken := func() (int64, Dropped) { return 1, Dropped{} }
	expiry := Selection{Expired: true, Grace: day, Status: "active", Max: 10}
	age := Selection{OlderThan: 30 * day, Status: "active", Max: 10}
	both := Selection{Expired: true, Grace: 0, OlderThan: 30 * day, Status: "active", Max: 10}
	of := func(status string) Selection { return Selection{Expired: true, Status: status, Max: 10} }
	for _, test := range []struct {
		sel  Selection
		link plexy.Link
		want func() (int64, Dropped)
	}{
		{expiry, plexy.Link{Status: "active", ExpiresAt: noon.Add(-day - time.Second)}, taken},
		{expiry, plexy.Link{Status: "active", ExpiresAt: noon.Add(-day)}, func() (int64, Dropped) { return dropped(Dropped{NotExpired: 1}) }},
		{expiry, plexy.Link{Status: "active", ExpiresAt: noon.Add(day)}, func() (int64, Dropped) { return dropped(Dropped{NotExpired: 1}) }},
		{expiry, plexy.Link{Status: "active", ExpiresAt: date("2031-05-19T13:59:59+02:00")}, taken},
		{expiry, plexy.Link{Status: "active", ExpiresAt: date("2031-05-19T13:59:59-02:00")}, func() (int64, Dropped) { return dropped(Dropped{NotExpired: 1}) }},
		{expiry, plexy.Link{Status: "active", CreatedAt: old}, func() (int64, Dropped) { return dropped(Dropped{NoExpiry: 1}) }},
		// What many an API sends for "never" is no expiry.
		{expiry, plexy.Link{Status: "active", ExpiresAt: date("0001-01-01T00:00:00Z")}, func() (int64, Dropped) { return dropped(Dropped{NoExpiry: 1}) }},
		{expiry, plexy.Link{Status: "active", ExpiresAt: date("1970-01-01T00:00:00Z")}, func() (int64, Dropped) { return dropped(Dropped{NoExpiry: 1}) }},
		{expiry, plexy.Link{Status: "active", ExpiresAt: date("1969-12-31T23:59:59Z")}, func() (int64, Dropped) { return dropped(Dropped{NoExpiry: 1}) }},
		// The status comes first, in whatever case.
		{expiry, plexy.Link{Status: "ACTIVE", ExpiresAt: old}, taken},
		{expiry, plexy.Link{Status: "inactive", ExpiresAt: old}, func() (int64, Dropped) { return dropped(Dropped{Status: 1}) }},
		{expiry, plexy.Link{ExpiresAt: old}, func() (int64, Dropped) { return dropped(Dropped{Status: 1}) }},
		{expiry, plexy.Link{Status: "paid"}, func() (int64, Dropped) { return dropped(Dropped{Status: 1}) }},
		{of("Canceled"), plexy.Link{Status: "cancelled", ExpiresAt: old}, taken},
		{of("cancelled"), plexy.Link{Status: "CANCELED", ExpiresAt: old}, taken},
		{of("Expired"), plexy.Link{Status: "expired", ExpiresAt: old}, taken},
		// Age.
		{age, plexy.Link{Status: "active", CreatedAt: noon.Add(-30*day - time.Second)}, taken},
		{age, plexy.Link{Status: "active", CreatedAt: noon.Add(-30 * day), ExpiresAt: old}, func() (int64, Dropped) { return dropped(Dropped{NotOld: 1}) }},
		{age, plexy.Link{Status: "active", ExpiresAt: old}, func() (int64, Dropped) { return dropped(Dropped{NoCreated: 1}) }},
		{age, plexy.Link{Status: "active", CreatedAt: old, ExpiresAt: noon.Add(day)}, taken},
		// Both: the expiry comes first.
		{both, plexy.Link{Status: "active", CreatedAt: old, ExpiresAt: noon.Add(-time.Second)}, taken},
		{both, plexy.Link{Status: "active", CreatedAt: old, ExpiresAt: noon}, func() (int64, Dropped) { return dropped(Dropped{NotExpired: 1}) }},
		{both, plexy.Link{Status: "active", CreatedAt: noon, ExpiresAt: old}, func() (int64, Dropped) { return dropped(Dropped{NotOld: 1}) }},
		{both, plexy.Link{Status: "active"}, func() (int64, Dropped) { return dropped(Dropped{NoExpiry: 1}) }},
	} {
		test.link.ID = "pl_1"
		c := newSelector(test.sel, 0)
		c.now = noon
		c.see(test.link, 1)
		p := c.plan(&listReader{})
		selected, d := test.want()
		want := Plan{Listed: 1, ByStatus: []StatusCount{{test.link.Status, 1}}, Dropped: d, Selected: selected}
		want.PastExpiry, want.Dates = p.PastExpiry, p.Dates
		if diff := cmp.Diff(want, p); diff != "" {
			t.Errorf("%v: %+v: %s", test.sel, test.link, diff)
		}
		if p.Listed != p.Dropped.Sum()+p.Waiting+p.Settled+p.Selected {
			t.Errorf("%+v does not add up", p)
		}
	}
}

// A link counts as it was shown last.
func TestSelectionChanges(t *testing.T) {
	c := newSelector(stale(), -1)
	c.now = noon
	see := func(id, status string, expires time.Duration, pass int) {
		c.see(plexy.Link{ID: id, Status: status, ExpiresAt: noon.Add(expires)}, pass)
	}
	see("a", "active", -9*day, 1)
	see("b", "active", -9*day, 1)
	see("c", "active", day, 1)
	see("d", "paid", -9*day, 1)
	see("a", "active", -9*day, 1) // twice in a pass
	see("d", "paid", -9*day, 2)
	see("c", "active", -9*day, 2) // its expiry was changed
	see("b", "paid", -9*day, 2)
	see("a", "active", -9*day, 2)
	p := c.plan(&listReader{})
	want := Plan{
		Listed: 4, ByStatus: []StatusCount{{"active", 2}, {"paid", 2}}, Dropped: Dropped{Status: 2}, Selected: 2, PastExpiry: 2,
		Dates: Dates{Links: 2, Expiry: DateCount{Known: 2}},
		Links: []Link{
			{ID: "a", Status: "active", ExpiresAt: noon.Add(-9 * day)},
			{ID: "c", Status: "active", ExpiresAt: noon.Add(-9 * day)},
		},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	see("b", "active", -9*day, 3)
	see("a", "cancelled", -9*day, 3)
	var got []string
	src := c.source(3)
	for {
		id, err := src.Next()
		if err == io.EOF {
			break
		}
		got = append(got, id)
	}
	if diff := cmp.Diff([]string{"b", "c"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(importer.Stats{Rows: 5, Links: 2, Invalid: 3}, src.Stats()); diff != "" {
		t.Error(diff)
	}
}

// Nothing selected of many that only the status keeps out is suspicious; not
// so if they are settled, or wait already.
func TestSuspicious(t *testing.T) {
	for _, test := range []struct {
		status     string
		n          int
		sel        Selection
		past       int64
		suspicious bool
	}{
		{"open", 10, stale(), 10, true},
		{"expired", 500, stale(), 500, true},
		{"", 10, stale(), 10, true},
		{"open", 9, stale(), 9, false},
		{"cancelled", 500, stale(), 0, false},
		{"CANCELED", 500, stale(), 0, false},
		{"Paid", 500, stale(), 0, false},
		{"charged", 500, stale(), 0, false},
		{"active", 500, stale(), 500, false},
		{"open", 500, Selection{Expired: true, OlderThan: 30 * day, Status: "active", Max: 1}, 500, false}, // not old enough
		{"open", 500, Selection{OlderThan: 5 * day, Status: "active", Max: 1}, 500, true},
	} {
		api := &shop{size: 50, links: expired(test.n)}
		for i := range api.links {
			api.links[i].Status = test.status
			api.links[i].CreatedAt = noon.Add(-20 * day)
		}
		var log strings.Builder
		cfg := sweeping(api, test.sel)
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		cfg.DryRun = true
		b := broker.Embedded()
		r, err := Run(t.Context(), ledger.New(b.Client()), cfg)
		_ = b.Close()
		if err != nil || r.Suspicious != test.suspicious || r.PastExpiry != test.past {
			t.Errorf("%d %s: suspicious %v, past %d, %v", test.n, test.status, r.Suspicious, r.PastExpiry, err)
		}
		if warned := strings.Contains(log.String(), "level=WARN"); warned != test.suspicious {
			t.Errorf("%d %s: %s", test.n, test.status, &log)
		}
	}
}

// Where some links have the wanted status, expired is a state of its own: each
// healthy night ends so. It is told, but no alert.
func TestNothingButExpired(t *testing.T) {
	api := &shop{size: 50, links: expired(500)}
	for i := range api.links {
		api.links[i].Status = "expired"
	}
	fresh := api.links[0]
	fresh.ID, fresh.Status, fresh.ExpiresAt = "pl_fresh", "active", noon.Add(day)
	api.links = append(api.links, fresh)
	var log strings.Builder
	cfg := sweeping(api, stale())
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := broker.Embedded()
	defer b.Close()
	r, err := Run(t.Context(), ledger.New(b.Client()), cfg)
	if err != nil || r.Suspicious || r.Selected != 0 || r.PastExpiry != 500 || !strings.Contains(log.String(), "past_expiry=500") {
		t.Errorf("%+v, %v, told %s", r.Plan, err, &log)
	}
}

// What another sweep batches between a sweep's listing and its own seal is left out.
func TestSweepsAtOneTime(t *testing.T) {
	inBubble(t, func(t *testing.T, y *store) {
		release, err := y.l.SealSweep(t.Context())
		testutil.Must(t, err)
		api := &shop{size: 50, links: expired(30)}
		type end struct {
			r   Result
			err error
		}
		ended := make(chan end)
		go func() {
			r, err := Run(t.Context(), y.l, sweeping(api, stale()))
			ended <- end{r, err}
		}()
		testutil.Advance(30 * time.Second)
		var taken []string
		for _, link := range api.links[:20] {
			taken = append(taken, link.ID)
		}
		_, err = importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: taken}, importer.BatchConfig{ID: "other", Source: importer.SourceSweep})
		testutil.Must(t, err)
		release()
		got := <-ended
		if got.err != nil || got.r.Selected != 10 || got.r.Waiting != 20 || got.r.Batch.Total != 10 {
			t.Errorf("selected %d, waiting %d, batch of %d, %v", got.r.Selected, got.r.Waiting, got.r.Batch.Total, got.err)
		}
	})
}

// An outcome counts if it is as new as the list.
func TestSelectorKnows(t *testing.T) {
	c := &selector{began: noon}
	b := ledger.Batch{Created: noon.Add(-10 * time.Second), State: ledger.Running}
	for _, test := range []struct {
		record ledger.Record
		want   verdict
	}{
		{ledger.Record{}, verdictWaiting},
		{ledger.Record{Outcome: ledger.Cancelled, After: 9}, verdictSelected},
		{ledger.Record{Outcome: ledger.Cancelled, After: 10}, verdictSettled},
		{ledger.Record{Outcome: ledger.NotFound, After: 11}, verdictSettled},
		{ledger.Record{Outcome: ledger.Failed, After: 11}, verdictSelected},
	} {
		if got := c.known(b, test.record); got != test.want {
			t.Errorf("%+v: %v, want %v", test.record, got, test.want)
		}
	}
}

// With clocks that differ, a link is expired when both say so.
func TestSweepClocks(t *testing.T) {
	for _, test := range []struct {
		date     time.Time // of the API; this machine's is noon
		off      time.Duration
		selected int64 // of links expired for 1, 2, … 10 hours
	}{
		{time.Time{}, 0, 10},
		{noon, 0, 10},
		{noon.Add(5 * time.Minute), 0, 10},
		{noon.Add(-5 * time.Minute), 0, 10},
		{noon.Add(5*time.Minute + time.Second), 5*time.Minute + time.Second, 10},
		{noon.Add(9 * time.Hour), 9 * time.Hour, 10},
		{noon.Add(-4*time.Hour - time.Second), -4*time.Hour - time.Second, 6},
		{noon.Add(-1000 * day), -1000 * day, 0},
	} {
		api := &shop{size: 50, date: test.date, links: linksOf(testutil.LinkIDs(12))}
		for i := range 10 {
			api.links[i].ExpiresAt = noon.Add(-time.Duration(i+1)*time.Hour - time.Millisecond)
		}
		api.links[10].ExpiresAt, api.links[11].ExpiresAt = noon.Add(time.Minute), noon.Add(2*time.Hour) // not yet
		var log strings.Builder
		cfg := sweeping(api, Selection{Expired: true, Status: "active", Max: 100})
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		cfg.DryRun = true
		b := broker.Embedded()
		r, err := Run(t.Context(), ledger.New(b.Client()), cfg)
		_ = b.Close()
		if err != nil || r.ClockOff != test.off || r.Selected != test.selected {
			t.Errorf("%v: off %v, selected %d, %v", test.date, r.ClockOff, r.Selected, err)
		}
		if warned := strings.Contains(log.String(), "clock differs"); warned != (test.off != 0) {
			t.Errorf("%v: %s", test.date, &log)
		}
	}
}

// Links that wait in an unfinished batch are left out, and no others.
func TestSweepLeavesOutWaiting(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		y := newStore(t, b)
		ctx := t.Context()
		make := func(id string, from, to int) ledger.Batch {
			batch, err := importer.MakeBatch(ctx, y.l, &importer.Links{IDs: testutil.LinkIDs(to)[from:]}, importer.BatchConfig{ID: id, Source: importer.SourceImport})
			testutil.Must(t, err)
			return batch
		}
		settle := func(batch ledger.Batch, chunk int, positions ...int) {
			g := ledger.Group{Batch: batch.ID, Chunk: chunk}
			for _, p := range positions {
				g.Entries = append(g.Entries, ledger.Entry{Position: p, Record: ledger.Record{Outcome: ledger.Failed}})
			}
			testutil.Must(t, y.l.Commit(ctx, []ledger.Group{g})[0].Err)
		}
		upTo := func(n int) (all []int) {
			for i := range n {
				all = append(all, i)
			}
			return all
		}
		// 3 500 links in the list. Of them, in batches:
		big := make("ready", 0, 2300) // three chunks; the first is done, and some more
		settle(big, 0, upTo(1000)...)
		settle(big, 1, 5, 7, 999)
		settle(big, 2, 299)
		testutil.Must(t, y.l.Start(ctx, &big, 1, 50, "w1"))
		testutil.Must(t, y.l.Advance(ctx, big, 1, 2300, 1000))
		make("paused", 2300, 2310)
		_, _, err := y.l.Pause(ctx, "paused", history.By{Reason: "by command", Auto: true})
		testutil.Must(t, err)
		make("aborted", 2310, 2320)
		_, _, err = y.l.Abort(ctx, "aborted", history.By{Actor: "ann"})
		testutil.Must(t, err)
		done := make("done", 2320, 2330)
		settle(done, 0, upTo(10)...)
		_, _, err = y.l.Create(ctx, ledger.DraftConfig{ID: "importing", Source: importer.SourceImport})
		testutil.Must(t, err)
		make("other", 10_000, 11_000) // not in the list
		testutil.Must(t, b.Client().HSet(ctx, "lc:{newer}", "v", 99).Err())
		testutil.Must(t, b.Client().ZAdd(ctx, "lc:batches", redis.Z{Member: "newer"}, redis.Z{Member: "gone"}).Err())

		var want []string
		for i, id := range testutil.LinkIDs(3500) {
			waits := i >= 1000 && i < 2310 && i != 1005 && i != 1007 && i != 1999 && i != 2299
			if !waits {
				want = append(want, id)
			}
		}
		var log strings.Builder
		cfg := sweeping(&shop{size: 100, links: expired(3500)}, stale())
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		r, err := Run(ctx, y.l, cfg)
		testutil.Must(t, err)
		if r.Waiting != 1306 || r.Selected != int64(len(want)) || r.Batch.Total != r.Selected {
			t.Errorf("waiting %d, selected %d of %d", r.Waiting, r.Selected, len(want))
		}
		if diff := cmp.Diff(want, testutil.Collect(t, y.l.AllLinks(t.Context(), r.Batch))); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(log.String(), "batch=newer") {
			t.Errorf("log: %s", &log)
		}

		// Once more: now all of them wait. That is no error, and no batch.
		cfg = sweeping(&shop{size: 100, links: expired(3500)}, stale())
		cfg.Confirm = func(Plan) error { t.Error("asked about nothing"); return nil }
		r, err = Run(ctx, y.l, cfg)
		if err != nil || r.Batch.ID != "" || r.Waiting != 3500 || r.Selected != 0 || r.Suspicious {
			t.Errorf("the second: %+v, %v", r, err)
		}
	})
}

// A batch that settles links while the list is read knows better of them than
// a page that was read before.
func TestSweepWhileABatchEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, y *store) {
		settle := func(id string, outcome ledger.Outcome, positions ...int) {
			g := ledger.Group{Batch: id}
			for _, p := range positions {
				g.Entries = append(g.Entries, ledger.Entry{Position: p, Record: ledger.Record{Outcome: outcome}})
			}
			testutil.Must(t, y.l.Commit(t.Context(), []ledger.Group{g})[0].Err)
		}
		// What the list shows in spite of an older outcome is right: the link is selected again.
		y.batch("earlier", importer.SourceImport, 3)
		settle("earlier", ledger.Cancelled, 0, 1, 2)
		y.batch("open", importer.SourceImport, 20)
		settle("open", ledger.Cancelled, 0)
		testutil.Advance(time.Minute)
		api := &shop{size: 50, links: expired(30)}
		read := 0
		api.after = func(plexy.Page) {
			if read++; read > 1 {
				return
			}
			testutil.Advance(time.Minute)
			settle("open", ledger.Cancelled, 1)
			settle("open", ledger.AlreadyCancelled, 2)
			settle("open", ledger.NotFound, 3)
			settle("open", ledger.NotCancellable, 4)
			settle("open", ledger.Failed, 5)
			settle("open", ledger.Rejected, 6)
			done, err := importer.MakeBatch(t.Context(), y.l, &importer.Links{IDs: testutil.LinkIDs(30)[20:25]}, importer.BatchConfig{ID: "done", Source: importer.SourceImport})
			testutil.Must(t, err)
			settle(done.ID, ledger.Cancelled, 0, 1, 2, 3)
			settle(done.ID, ledger.Failed, 4)
		}
		r, err := Run(t.Context(), y.l, sweeping(api, stale()))
		testutil.Must(t, err)
		want := slices.Concat(testutil.LinkIDs(1), testutil.LinkIDs(7)[5:], testutil.LinkIDs(30)[24:])
		if diff := cmp.Diff(want, testutil.Collect(t, y.l.AllLinks(t.Context(), r.Batch))); diff != "" {
			t.Error(diff)
		}
		if r.Settled != 8 || r.Waiting != 13 || r.Listed != r.Selected+r.Waiting+r.Settled {
			t.Errorf("settled %d, waiting %d, selected %d", r.Settled, r.Waiting, r.Selected)
		}
	})
}

// While the user thinks about it, another batch takes some of the links.
func TestSweepConfirmTakesItsTime(t *testing.T) {
	for _, others := range []int{7, 20} {
		b := broker.Embedded()
		y := newStore(t, b)
		cfg := sweeping(&shop{size: 50, links: expired(20)}, stale())
		cfg.Confirm = func(p Plan) error {
			if p.Selected != 20 {
				t.Errorf("asked about %d", p.Selected)
			}
			y.batch("other", importer.SourceImport, others)
			return nil
		}
		r, err := Run(t.Context(), y.l, cfg)
		testutil.Must(t, err)
		if r.Waiting != int64(others) || r.Batch.Total != int64(20-others) || (r.Batch.ID == "") != (others == 20) {
			t.Errorf("%+v", r)
		}
		_ = b.Close()
	}
}

// What ends a sweep before its batch leaves nothing behind.
func TestSweepLeavesNothingBehind(t *testing.T) {
	no := errors.New("no")
	for name, test := range map[string]struct {
		change func(cfg *Config)
		is     error
		want   string
		plan   bool
	}{
		"dry run":        {func(cfg *Config) { cfg.DryRun = true }, nil, "", true},
		"the user":       {func(cfg *Config) { cfg.Confirm = func(Plan) error { return no } }, no, "no", true},
		"too many":       {func(cfg *Config) { cfg.Selection.Max = 11 }, nil, "the sweep found 12 links, and 11 are allowed: nothing was done", true},
		"too many, dry":  {func(cfg *Config) { cfg.Selection.Max, cfg.DryRun = 1, true }, nil, "found 12 links, and 1 are", true},
		"nothing":        {func(cfg *Config) { cfg.Selection.Status = "open" }, nil, "", true},
		"a refused key":  {func(cfg *Config) { cfg.API = refusing(401) }, ErrKeyRefused, "read the list of payment links: the API refused the key", false},
		"no list":        {func(cfg *Config) { cfg.API = refusing(404) }, ErrNoList, "read the list of payment links: no list is there: GET answered 404", false},
		"page ignored":   {func(cfg *Config) { cfg.API = &shop{size: 5, ignore: true, links: expired(12)} }, ErrPageIgnored, "the list ignores page", false},
		"every link":     {func(cfg *Config) { cfg.Selection.Expired = false }, nil, "sweep: the sweep would take every link", false},
		"negative grace": {func(cfg *Config) { cfg.Selection.Grace = -1 }, nil, "sweep: the grace is negative", false},
		"negative age":   {func(cfg *Config) { cfg.Selection.OlderThan = -1 }, nil, "sweep: the age is negative", false},
		"no status":      {func(cfg *Config) { cfg.Selection.Status = " " }, nil, "sweep: no status is given", false},
		"max 0":          {func(cfg *Config) { cfg.Selection.Max = 0 }, nil, "sweep: at most 0 links are allowed", false},
		"no api":         {func(cfg *Config) { cfg.API = nil }, nil, "a sweep needs", false},
		"bad id":         {func(cfg *Config) { cfg.BatchID = "latest" }, nil, "is not a batch id", false},
	} {
		b := broker.Embedded()
		cfg := sweeping(&shop{size: 5, links: expired(12)}, stale())
		test.change(&cfg)
		r, err := Run(t.Context(), ledger.New(b.Client()), cfg)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
		if r.Batch.ID != "" || (r.Listed == 12) != test.plan {
			t.Errorf("%s: %+v", name, r)
		}
		var many *TooManyError
		if strings.HasPrefix(name, "too many") != (errors.As(err, &many) && many.Found == 12) {
			t.Errorf("%s: %v", name, err)
		}
		if all := redistest.Keys(t, b.Client(), "*"); len(all) > 0 {
			t.Errorf("%s: Redis has %q", name, all)
		}
		_ = b.Close()
	}
}

func refusing(status int) Lister {
	return listFunc(func(context.Context, int, int) (plexy.Page, error) {
		return plexy.Page{}, proven(status)
	})
}

// A gateway answers for page 4 of 20: the sweep asks again, and if that does not
// end, it fails and makes no batch.
func TestSweepBehindGateway(t *testing.T) {
	for _, times := range []int{2, 1 << 20} {
		inBubble(t, func(t *testing.T, y *store) {
			shelf := &shop{size: 50, oneBased: true, links: expired(1000)}
			asked := 0
			cfg := sweeping(listFunc(func(ctx context.Context, page, size int) (plexy.Page, error) {
				if page == 4 {
					if asked++; asked <= times {
						return plexy.Page{}, plain(404)
					}
				}
				return shelf.List(ctx, page, size)
			}), stale())
			r, err := Run(t.Context(), y.l, cfg)
			if times == 2 {
				testutil.Must(t, err)
				if r.Batch.Total != 1000 {
					t.Errorf("%+v", r)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "read the list of payment links: page 4 was asked for 8 times: GET answered 404") || asked != listAttempts {
				t.Errorf("%v after %d requests for page 4", err, asked)
			}
			if all, err := y.l.List(t.Context()); err != nil || len(all) > 0 || r.Batch.ID != "" {
				t.Errorf("%v, %v", all, err)
			}
		})
	}
}

// The plan shows as many links as wanted, without those that wait.
func TestSweepKeep(t *testing.T) {
	for keep, want := range map[int][]string{0: nil, 3: testutil.LinkIDs(6)[3:], 100: testutil.LinkIDs(12)[3:], -1: testutil.LinkIDs(12)[3:]} {
		b := broker.Embedded()
		y := newStore(t, b)
		y.batch("other", importer.SourceImport, 3)
		cfg := sweeping(&shop{size: 5, links: expired(12)}, stale())
		cfg.Keep, cfg.DryRun = keep, true
		r, err := Run(t.Context(), y.l, cfg)
		testutil.Must(t, err)
		var got []string
		for _, link := range r.Links {
			got = append(got, link.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" || r.Selected != 9 {
			t.Errorf("%d: %d selected, %s", keep, r.Selected, diff)
		}
		_ = b.Close()
	}
}

// A given id is used as it is; a sealed sweep of that id is returned as it
// stands, an unsealed one is replaced.
func TestSweepOfGivenID(t *testing.T) {
	inBubble(t, func(t *testing.T, y *store) {
		ctx := t.Context()
		api := &shop{size: 50, links: expired(20)}
		cfg := sweeping(api, stale())
		cfg.BatchID, cfg.Name = "mine", "the night's"

		// An earlier one died before its seal: after half a minute its id is free.
		d, _, err := y.l.Create(ctx, ledger.DraftConfig{ID: "mine", Source: importer.SourceSweep})
		testutil.Must(t, err)
		testutil.Must(t, d.Write(ctx, testutil.LinkIDs(1000)))
		if _, err := Run(ctx, y.l, cfg); !errors.Is(err, ledger.ErrBusy) {
			t.Errorf("at once: %v", err)
		}
		testutil.Advance(time.Minute)
		r, err := Run(ctx, y.l, cfg)
		testutil.Must(t, err)
		if r.Batch.ID != "mine" || r.Batch.Total != 20 || r.Batch.Name != "the night's" || r.Existed {
			t.Errorf("%+v", r)
		}
		before := len(api.requests)
		again, err := Run(ctx, y.l, cfg)
		testutil.Must(t, err)
		if !again.Existed || again.Batch.ID != "mine" || again.Batch.Total != 20 || len(api.requests) != before {
			t.Errorf("again: %+v after %d requests", again, len(api.requests)-before)
		}
		y.batch("import", importer.SourceImport, 3)
		cfg.BatchID = "import"
		if r, err = Run(ctx, y.l, cfg); !errors.Is(err, importer.ErrOtherLinks) || r.Existed || len(api.requests) != before {
			t.Errorf("the id of an import: %+v, %v", r, err)
		}
	})
}

// Ids are of the day, of Redis' clock, in the wanted zone.
func TestSweepIDs(t *testing.T) {
	inBubble(t, func(t *testing.T, y *store) { // which begins on 2000-01-01, 00:00 UTC
		free := func(date time.Time) string {
			id, err := FreeID(t.Context(), y.l, date)
			testutil.Must(t, err)
			return id
		}
		almaty := time.FixedZone("Almaty", 5*3600)
		newYork := time.FixedZone("New York", -5*3600)
		now := time.Now()
		if got := []string{free(now.UTC()), free(now.In(almaty)), free(now.In(newYork))}; !slices.Equal(got, []string{"sweep-2000-01-01", "sweep-2000-01-01", "sweep-1999-12-31"}) {
			t.Errorf("%q", got)
		}
		var ids []string
		for range 3 {
			cfg := sweeping(&shop{size: 50, links: expired(3 + len(ids))}, stale())
			cfg.Timezone = newYork
			r, err := Run(t.Context(), y.l, cfg)
			testutil.Must(t, err)
			ids = append(ids, r.Batch.ID)
		}
		// An unsealed one and one of a newer release have their ids too.
		_, _, err := y.l.Create(t.Context(), ledger.DraftConfig{ID: "sweep-1999-12-31-4", Source: importer.SourceSweep})
		testutil.Must(t, err)
		testutil.Must(t, y.rdb.HSet(t.Context(), "lc:{sweep-1999-12-31-5}", "v", 99).Err())
		ids = append(ids, free(now.In(newYork)))
		if want := []string{"sweep-1999-12-31", "sweep-1999-12-31-2", "sweep-1999-12-31-3", "sweep-1999-12-31-6"}; !slices.Equal(ids, want) {
			t.Errorf("%q", ids)
		}
	})
}

// Sweeps at the same moment take each other no id away, and lose no link.
func TestSweepsAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		l := ledger.New(b.Client())
		const n = 5
		var sweeps sync.WaitGroup
		results, errs := make([]Result, n), make([]error, n)
		for i := range n {
			sweeps.Go(func() {
				api := &shop{size: 50, links: expired(2000)[i*400 : i*400+400]} // each another part
				results[i], errs[i] = Run(t.Context(), l, sweeping(api, stale()))
			})
		}
		sweeps.Wait()
		names := map[string]bool{}
		for i := range n {
			testutil.Must(t, errs[i])
			names[results[i].Batch.ID] = true
			if diff := cmp.Diff(testutil.LinkIDs(2000)[i*400:i*400+400], testutil.Collect(t, l.AllLinks(t.Context(), results[i].Batch))); diff != "" {
				t.Errorf("%d: %s", i, diff)
			}
		}
		if len(names) != n {
			t.Errorf("%d batches: %v", len(names), names)
		}
	})
}

// What a request came to is told for the metrics.
func TestSweepObserves(t *testing.T) {
	api := &shop{size: 50, links: expired(60)}
	next := 0
	api.before = func() error {
		if next++; next == 2 {
			return &plexy.Error{Method: "GET", Status: 429}
		}
		return nil
	}
	b := broker.Embedded()
	defer b.Close()
	var got []string
	cfg := sweeping(api, stale())
	cfg.Observe = func(method string, status int, _ time.Duration) { got = append(got, fmt.Sprint(method, " ", status)) }
	_, err := Run(t.Context(), ledger.New(b.Client()), cfg)
	testutil.Must(t, err)
	if want := append([]string{"GET 200", "GET 429"}, slices.Repeat([]string{"GET 200"}, len(api.requests)-2)...); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A selection survives its way through a payload.
func TestSelectionJSON(t *testing.T) {
	want := Selection{Expired: true, Grace: 36 * time.Hour, OlderThan: 30 * day, Status: "Active", Max: 12}
	raw, err := json.Marshal(want)
	testutil.Must(t, err)
	var got Selection
	testutil.Must(t, json.Unmarshal(raw, &got))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if text := `{"expired":true,"grace":129600000000000,"older_than":2592000000000000,"status":"Active","max":12}`; string(raw) != text {
		t.Errorf("%s", raw)
	}
	for want, sel := range map[string]Selection{
		"active, expired for 24h":              {Expired: true, Grace: day, Status: "active"},
		"active, expired for 0s":               {Expired: true, Status: "active"},
		"open, expired for 2d, older than 30d": {Expired: true, Grace: 2 * day, OlderThan: 30 * day, Status: "open"},
		"active, older than 36h":               {OlderThan: 36 * time.Hour, Status: "active"},
		"active, older than 1h30m":             {OlderThan: 90 * time.Minute, Status: "active"},
		"active, older than 24h0m10s":          {OlderThan: day + 10*time.Second, Status: "active"},
		"active, older than 10s":               {OlderThan: 10 * time.Second, Status: "active"},
	} {
		if got := sel.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Statuses without end are counted, but not told apart; the wanted one is.
func TestSelectionOfManyStatuses(t *testing.T) {
	sel := stale()
	c := newSelector(sel, 0)
	c.now = noon
	for i := range 3 * statusMost {
		c.see(plexy.Link{ID: testutil.LinkID(i), Status: fmt.Sprint("status", i), ExpiresAt: noon.Add(-9 * day)}, 1)
	}
	c.see(plexy.Link{ID: "pl_1", Status: "Active", ExpiresAt: noon.Add(-9 * day)}, 1)
	p := c.plan(&listReader{})
	if len(p.ByStatus) != statusMost+2 || p.ByStatus[0] != (StatusCount{otherStatus, 2 * statusMost}) || p.Selected != 1 {
		t.Errorf("%d statuses, first %+v, selected %d", len(p.ByStatus), p.ByStatus[0], p.Selected)
	}
	var sum int64
	for _, s := range p.ByStatus {
		sum += s.Links
	}
	if sum != p.Listed || p.Listed != 3*statusMost+1 {
		t.Errorf("%d of %d", sum, p.Listed)
	}
}

var _ Limiter = (*ratelimit.Fleet)(nil)

// dated makes active links with these dates, as their expiry and creation.
func dated(links ...plexy.Link) []plexy.Link {
	for i := range links {
		links[i].ID = testutil.LinkID(i)
		if links[i].Status == "" {
			links[i].Status = "active"
		}
	}
	return links
}

// Dates that cannot be read, or have no zone, are told, and fail a sweep if they
// are most of those that it selects by.
func TestSweepDates(t *testing.T) {
	bad, noZone := plexy.DateNote{Unreadable: true, Text: "soon"}, plexy.DateNote{NoZone: true, Text: "2031-01-01"}
	old := noon.Add(-90 * day)
	var (
		fine      = plexy.Link{ExpiresAt: old, CreatedAt: old}
		badExpiry = plexy.Link{ExpiresNote: bad, CreatedAt: old}
		badBirth  = plexy.Link{ExpiresAt: old, CreatedNote: bad}
		zoneless  = plexy.Link{ExpiresAt: old, ExpiresNote: noZone, CreatedAt: old, CreatedNote: noZone}
		inGrace   = plexy.Link{ExpiresAt: noon.Add(-time.Hour)}
		dateless  = plexy.Link{}
		paid      = plexy.Link{Status: "paid", ExpiresNote: bad}
		open      = plexy.Link{Status: "open", ExpiresNote: bad}
		year1     = plexy.Link{ExpiresAt: time.Date(1, 1, 1, 12, 0, 0, 0, time.UTC), ExpiresNote: noZone}
	)
	expiry := stale()
	age := Selection{OlderThan: 30 * day, Status: "active", Max: 100}
	both := Selection{Expired: true, OlderThan: 30 * day, Status: "active", Max: 100}
	const unread, noZones, noExpiry = "cannot be read", "no time zone", "no link of the wanted status has one"
	for name, test := range map[string]struct {
		sel      Selection
		links    []plexy.Link
		selected int64
		dropped  Dropped
		warned   string // of all lines with its number, or ""
		err      string
	}{
		"all fine":            {expiry, dated(fine, fine), 2, Dropped{}, "", ""},
		"one of three":        {expiry, dated(fine, fine, badExpiry), 2, Dropped{UnreadableExpiry: 1}, unread + ".*unreadable=1 readable=2 example=soon", ""},
		"half":                {expiry, dated(fine, badExpiry), 1, Dropped{UnreadableExpiry: 1}, unread, ""},
		"most":                {expiry, dated(fine, badExpiry, badExpiry), 1, Dropped{UnreadableExpiry: 2}, unread, `the expiry of 2 of 3 links, such as "soon": nothing was done`},
		"all":                 {expiry, dated(badExpiry, badExpiry), 0, Dropped{UnreadableExpiry: 2}, unread, "2 of 2 links"},
		"a single one":        {expiry, dated(badExpiry), 0, Dropped{UnreadableExpiry: 1}, unread, "1 of 1 links"},
		"beside none":         {expiry, dated(dateless, dateless, badExpiry), 0, Dropped{NoExpiry: 2, UnreadableExpiry: 1}, unread, "1 of 1 links"},
		"not looked at":       {age, dated(badExpiry, badExpiry), 2, Dropped{}, "", ""},
		"creation":            {age, dated(fine, badBirth, badBirth), 1, Dropped{UnreadableCreated: 2}, unread, `the date of creation of 2 of 3 links`},
		"creation, some":      {age, dated(fine, badBirth), 1, Dropped{UnreadableCreated: 1}, unread, ""},
		"creation of both":    {both, dated(badBirth, badBirth), 0, Dropped{UnreadableCreated: 2}, unread, `the date of creation of 2 of 2 links`},
		"expiry of both":      {both, dated(badExpiry, badExpiry), 0, Dropped{UnreadableExpiry: 2}, unread, `the expiry of 2 of 2 links`},
		"of settled links":    {expiry, dated(fine, paid, paid), 1, Dropped{Status: 2}, "", ""},
		"of another status":   {expiry, dated(open, open), 0, Dropped{Status: 2}, unread + ".*unreadable=2 readable=0 example=soon", ""},
		"no zone":             {expiry, dated(zoneless, fine), 2, Dropped{}, noZones + ".*links=1 example=2031-01-01", ""},
		"no zone of two":      {both, dated(zoneless), 1, Dropped{}, noZones + ".*links=1 example=2031-01-01", ""},
		"no expiry anywhere":  {expiry, dated(dateless, dateless), 0, Dropped{NoExpiry: 2}, noExpiry + ".*status=active links=2", ""},
		"the year 1":          {expiry, dated(year1), 0, Dropped{NoExpiry: 1}, noExpiry, ""},
		"no expiry but paid":  {expiry, dated(plexy.Link{Status: "paid"}), 0, Dropped{Status: 1}, "", ""},
		"no creation":         {age, dated(dateless), 0, Dropped{NoCreated: 1}, "no link of the wanted status has a date of creation", ""},
		"all within grace":    {expiry, dated(inGrace, inGrace, dateless), 0, Dropped{NotExpired: 2, NoExpiry: 1}, "", ""},
		"an empty list":       {expiry, nil, 0, Dropped{}, "", ""},
		"too many unreadable": {Selection{Expired: true, Status: "active", Max: 1}, dated(fine, fine, badExpiry, badExpiry, badExpiry), 2, Dropped{UnreadableExpiry: 3}, unread, "3 of 5 links"},
	} {
		for _, dryRun := range []bool{true, false} {
			var log strings.Builder
			cfg := sweeping(&shop{size: 50, links: test.links}, test.sel)
			cfg.Log, cfg.DryRun = slog.New(slog.NewTextHandler(&log, nil)), dryRun
			b := broker.Embedded()
			r, err := Run(t.Context(), ledger.New(b.Client()), cfg)
			_ = b.Close()
			if r.Selected != test.selected || r.Dropped != test.dropped || r.Listed != r.Dropped.Sum()+r.Selected {
				t.Errorf("%s: %+v", name, r.Plan)
			}
			var unreadable *UnreadableDatesError
			if test.err == "" && err != nil || test.err != "" && (!errors.As(err, &unreadable) || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%s: %v, want %s", name, err, test.err)
			}
			if made := r.Batch.ID != ""; made != (test.err == "" && test.selected > 0 && !dryRun) {
				t.Errorf("%s, dry run %v: batch %q", name, dryRun, r.Batch.ID)
			}
			lines := strings.Count(log.String(), "level=WARN")
			if matched, _ := regexp.MatchString(test.warned, log.String()); !matched || lines > 1 || (lines == 1) != (test.warned != "") {
				t.Errorf("%s: warned %s", name, &log)
			}
		}
	}
}

// Links that another status keeps out are no sign of a wrong spelling, nor worth a
// word, while those of the wanted status only wait for the grace to pass.
func TestNothingButGrace(t *testing.T) {
	for _, status := range []string{"expired", "open"} {
		links := expired(50)
		for i := range links {
			links[i].Status = status
		}
		links[0].Status, links[0].ExpiresAt = "active", noon.Add(-time.Hour)
		var log strings.Builder
		cfg := sweeping(&shop{size: 50, links: links}, stale())
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		b := broker.Embedded()
		r, err := Run(t.Context(), ledger.New(b.Client()), cfg)
		_ = b.Close()
		if err != nil || r.Suspicious || r.PastExpiry != 49 || log.String() != "" {
			t.Errorf("%s: %+v, %v, told %s", status, r.Plan, err, &log)
		}
	}
}

// A link counts by its date as it was shown last.
func TestDatesChange(t *testing.T) {
	c := newSelector(stale(), 0)
	c.now = noon
	bad := plexy.DateNote{Unreadable: true, Text: "soon"}
	c.see(plexy.Link{ID: "a", Status: "active", ExpiresNote: bad}, 1)
	c.see(plexy.Link{ID: "b", Status: "active", ExpiresAt: noon.Add(-time.Hour), ExpiresNote: plexy.DateNote{NoZone: true, Text: "x"}}, 1)
	c.see(plexy.Link{ID: "c", Status: "open", ExpiresNote: bad}, 1)
	if d := c.plan(&listReader{}).Dates; d.Links != 2 || d.Expiry.Unreadable != 1 || d.Expiry.Known != 1 || d.Other.Unreadable != 1 || d.NoZone != 1 || d.InGrace != 1 {
		t.Errorf("%+v", d)
	}
	c.see(plexy.Link{ID: "a", Status: "active", ExpiresAt: noon.Add(-9 * day)}, 2)
	c.see(plexy.Link{ID: "b", Status: "active", ExpiresAt: noon.Add(-9 * day)}, 2)
	c.see(plexy.Link{ID: "c", Status: "paid", ExpiresNote: bad}, 2)
	c.see(plexy.Link{ID: "a", Status: "active", ExpiresAt: noon.Add(-9 * day)}, 3)
	d := c.plan(&listReader{}).Dates
	d.Expiry.Example, d.Other.Example, d.NoZoneExample = "", "", ""
	if diff := cmp.Diff(Dates{Links: 2, Expiry: DateCount{Known: 2}}, d); diff != "" {
		t.Error(diff)
	}
}
