package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/ledger"
	"linkcancel/internal/redistest"
	"linkcancel/internal/testutil"
)

var historyBy = history.By{Actor: "w1", Reason: "a test", Auto: true}

// each tests on the embedded and on a real Redis.
func each(t *testing.T, test func(t *testing.T, c *Client)) {
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		redistest.Flush(t, b.Client())
		test(t, newClient(b, "billing"))
	})
}

// end gives links of a batch an outcome.
func (c *Client) end(t *testing.T, id string, outcome ledger.Outcome, from, to int) {
	t.Helper()
	var entries []ledger.Entry
	for n := from; n < to; n++ {
		entries = append(entries, ledger.Entry{Position: n, Record: ledger.Record{Outcome: outcome, Attempts: 1, HTTPStatus: 204}})
	}
	testutil.Must(t, c.ledger.Commit(t.Context(), []ledger.Group{{Batch: id, Entries: entries}})[0].Err)
}

func TestSubmit(t *testing.T) {
	each(t, func(t *testing.T, c *Client) {
		ids := testutil.LinkIDs(300)
		batch := Batch{ID: "march", Name: "links of\nMarch", Reason: "ticket 18", Links: slices.Values(append(ids, "https://checkout.plexypay.com/"+ids[0]))}
		for range 2 { // the second time it is the same
			s, err := c.Submit(t.Context(), batch)
			if err != nil || s.ID != "march" || s.State != Ready || s.Total != 300 || s.Pending != 300 || s.Duplicates != 1 || s.Ended() {
				t.Fatalf("%+v, %v", s, err)
			}
		}
		history, err := c.ledger.History(t.Context(), "march")
		if err != nil || len(history) != 1 || history[0].Actor != "billing" || history[0].Reason != "ticket 18" {
			t.Errorf("%+v, %v", history, err)
		}
		batch.Links = slices.Values(ids[1:])
		if _, err := c.Submit(t.Context(), batch); !errors.Is(err, ErrOtherLinks) {
			t.Errorf("other links: %v", err)
		}
		if s, err := c.Submit(t.Context(), Batch{Links: slices.Values(ids)}); err != nil || s.ID == "" {
			t.Errorf("without an id: %+v, %v", s, err)
		}
		if _, err := c.Submit(t.Context(), Batch{ID: "a b", Links: slices.Values(ids)}); err == nil {
			t.Error("a bad id is taken")
		}
		for name, tt := range map[string]struct {
			batch Batch
			place string
		}{
			"a bad one":       {Batch{Links: slices.Values([]string{ids[0], "a b"})}, "links[1]"},
			"one of lines":    {Batch{Links: slices.Values([]string{ids[0] + "\n" + ids[1]})}, "links[0]"},
			"too many":        {Batch{Links: slices.Values(ids), Max: 299}, "links[299]"},
			"another form":    {Batch{Links: slices.Values([]string{ids[0], "order-7"})}, "links[1]"},
			"several, in one": {Batch{Links: slices.Values([]string{ids[0] + "," + ids[1]})}, "links[0]"},
		} {
			var refused *RefusedError
			if _, err := c.Submit(t.Context(), tt.batch); !errors.As(err, &refused) || len(refused.Links) != 1 || refused.Links[0].Place != tt.place || !strings.Contains(err.Error(), tt.place+": ") {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, links := range map[string][]string{
			"none": nil, "only empty ones": {""}, "an empty one": {ids[0], "", ids[1]}, "a space": {ids[0], " ", ids[1]}, "a wide space": {ids[0], "\u00a0", ids[1]},
			"the header": {ids[0], "a column of links"}, "quotes": {ids[0], `""`}, "a mark": {"\ufeff", ids[0]}, "a line": {ids[0], "\n"},
		} {
			if _, err := c.Submit(t.Context(), Batch{ID: "none", Links: slices.Values(links)}); err == nil {
				t.Errorf("%s: taken", name)
			}
		}
		if _, err := c.Submit(t.Context(), Batch{Links: slices.Values([]string(nil))}); !errors.Is(err, ErrNoLinks) {
			t.Errorf("no links: %v", err)
		}
		if s, err := c.Submit(t.Context(), Batch{Links: slices.Values([]string{ids[0], "order-7"}), AnyID: true}); err != nil || s.Total != 2 {
			t.Errorf("any id: %+v, %v", s, err)
		}
	})
}

func TestWaitAndResults(t *testing.T) {
	each(t, func(t *testing.T, c *Client) {
		ids := testutil.LinkIDs(10)
		_, err := c.Submit(t.Context(), Batch{ID: "march", Links: slices.Values(ids)})
		testutil.Must(t, err)
		c.end(t, "march", ledger.Cancelled, 0, 4)
		_, _, err = c.ledger.Pause(t.Context(), "march", historyBy)
		testutil.Must(t, err)
		if s, err := c.Wait(t.Context(), "march"); !errors.Is(err, ErrPaused) || s.State != Paused || s.Reason != "a test" {
			t.Errorf("paused: %+v, %v", s, err)
		}
		_, _, err = c.ledger.Resume(t.Context(), "march", historyBy)
		testutil.Must(t, err)
		var ends sync.WaitGroup
		ends.Go(func() {
			time.Sleep(300 * time.Millisecond)
			c.end(t, "march", ledger.Failed, 4, 10)
		})
		s, err := c.Wait(t.Context(), "march")
		ends.Wait() // Wait may see the end before the commit returns
		if err != nil || s.State != Done || !s.Ended() || s.Outcomes["cancelled"] != 4 || s.Outcomes["failed"] != 6 || s.Finished.IsZero() {
			t.Errorf("done: %+v, %v", s, err)
		}
		n := 0
		for r, err := range c.Results(t.Context(), "march") {
			want := "cancelled"
			if n >= 4 {
				want = "failed"
			}
			if err != nil || r.Link != ids[n] || r.Outcome != want || r.HTTPStatus != 204 || r.Attempts != 1 || r.Finished.IsZero() {
				t.Errorf("%+v, %v", r, err)
			}
			n++
		}
		if n != 10 {
			t.Errorf("%d results", n)
		}
		if _, err := c.Status(t.Context(), "none"); !errors.Is(err, ErrNoBatch) {
			t.Error(err)
		}
		if _, err := c.Wait(t.Context(), "none"); !errors.Is(err, ErrNoBatch) {
			t.Error(err)
		}
		for _, err := range c.Results(t.Context(), "none") {
			if !errors.Is(err, ErrNoBatch) {
				t.Error(err)
			}
		}
	})
}

// A context that ends stops each call.
func TestContextEnds(t *testing.T) {
	each(t, func(t *testing.T, c *Client) {
		_, err := c.Submit(t.Context(), Batch{ID: "march", Links: slices.Values(testutil.LinkIDs(10))})
		testutil.Must(t, err)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Status(ended, "march"); !errors.Is(err, context.Canceled) {
			t.Errorf("status: %v", err)
		}
		if _, err := c.Submit(ended, Batch{Links: slices.Values(testutil.LinkIDs(10))}); !errors.Is(err, context.Canceled) {
			t.Errorf("submit: %v", err)
		}
		for _, err := range c.Results(ended, "march") {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("results: %v", err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, stop)
		if s, err := c.Wait(ctx, "march"); !errors.Is(err, context.Canceled) || s.Pending != 10 {
			t.Errorf("wait: %+v, %v", s, err)
		}
		// While the links come.
		ctx, stop = context.WithCancel(t.Context())
		endless := func(yield func(string) bool) {
			for n := 0; yield(testutil.LinkID(n)); n++ {
				if n == 50_000 {
					stop()
				}
			}
		}
		if _, err := c.Submit(ctx, Batch{ID: "endless", Links: endless}); !errors.Is(err, context.Canceled) {
			t.Errorf("endless: %v", err)
		}
		if _, err := c.Status(t.Context(), "endless"); !errors.Is(err, ErrNoBatch) {
			t.Errorf("something is left: %v", err)
		}
	})
}

func Example() {
	ctx := context.Background()
	client := Embedded() // or New with the URL of the workers' Redis
	defer client.Close()
	batch, err := client.Submit(ctx, Batch{
		ID: "stale-november", Name: "stale links of November",
		Links: slices.Values([]string{"pl_1c5c4f1cbd4d4e4aa4b2f4c5c9a6b1d0", "https://checkout.plexypay.com/pl_7f0d2d4a8e6b4c0f9a3e5d1b2c4f6a80"}),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(batch.ID, batch.State, batch.Pending, "pending")
	// Output: stale-november ready 2 pending
}
