package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
)

// ask makes a call of a process.
func ask(t *testing.T, rdb redis.UniversalClient, r request) *reply {
	t.Helper()
	got, err := r.do(t.Context(), rdb, 0)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func state(t *testing.T, rdb redis.UniversalClient) map[string]string {
	t.Helper()
	all, err := rdb.HGetAll(t.Context(), fleetKey).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"now", "sending", "clear", "tenth", "counted", "unknown"} { // they change with time
		delete(all, name)
	}
	return all
}

// TestFleetCallTwice repeats calls, as go-redis does when a reply is lost.
func TestFleetCallTwice(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		rdb := b.Client()
		first := request{process: "a b", run: "x", number: 7, rate: 100, burst: 5, usable: 3, want: 3}
		r := ask(t, rdb, first)
		if r.n != 3 || r.first != 1 || r.ceiling != 100 || r.active != 1 {
			t.Fatalf("first call: %+v", r)
		}
		calls := []request{
			first,
			{process: "a b", run: "x", number: 8, rate: 100, burst: 5, usable: 1, want: 1, events: []event{
				{kind: "transient", seq: 1, link: linkHash("a")},
				{kind: "transient", seq: 2, link: linkHash("b")},
			}},
			{process: "a b", run: "x", number: 9, rate: 100, burst: 5, events: []event{{kind: "throttled", seq: 3, link: "a:429:0", text: "why"}}},
		}
		for _, c := range calls {
			r := ask(t, rdb, c)
			before := state(t, rdb)
			again := ask(t, rdb, c)
			if again.n != r.n || again.first != r.first || again.from != r.from || again.base != r.base || again.spacing != r.spacing {
				t.Errorf("call %d returned slots %+v, again %+v", c.number, r, again)
			}
			if diff := cmp.Diff(before, state(t, rdb)); diff != "" {
				t.Errorf("call %d, made again, changed (-before +after):\n%s", c.number, diff)
			}
		}
		// An older call is ignored, unless it is of another run.
		before := state(t, rdb)
		if r := ask(t, rdb, calls[1]); r.n != 0 || r.untilOutage != 20 {
			t.Errorf("an old call: %+v", r)
		}
		if diff := cmp.Diff(before, state(t, rdb)); diff != "" {
			t.Errorf("an old call changed (-before +after):\n%s", diff)
		}
		if r := ask(t, rdb, request{process: "a b", run: "y", number: 1, rate: 200, burst: 1}); r.ceiling != 200 {
			t.Errorf("a new run's call: %+v", r)
		}
	})
}

// TestFleetProbeTwice checks that the probe is granted once, and is not lost with the reply.
func TestFleetProbeTwice(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		rdb := b.Client()
		var failures []event
		for i := range 20 {
			failures = append(failures, event{kind: "transient", seq: uint64(i + 1), link: linkHash(strings.Repeat("x", i))})
		}
		r := ask(t, rdb, request{process: "a", run: "x", number: 1, seq: 20, rate: 100, burst: 1, events: failures})
		if !r.outage {
			t.Fatalf("no outage: %+v", r)
		}
		if err := rdb.HSet(t.Context(), fleetKey, "nextProbe", 0).Err(); err != nil {
			t.Fatal(err)
		}
		c := request{process: "a", run: "x", number: 2, rate: 100, burst: 1, usable: 5, want: 5}
		for range 2 {
			if r := ask(t, rdb, c); r.n != 1 || !r.probe || r.first != 21 || r.probeSeq != 21 {
				t.Errorf("the probe: %+v", r)
			}
		}
		if r := ask(t, rdb, request{process: "b", run: "x", number: 1, rate: 100, burst: 1, usable: 1, want: 1}); r.n != 0 || r.retry <= 0 {
			t.Errorf("a second probe: %+v", r)
		}
		if r := ask(t, rdb, request{process: "a", run: "x", number: 3, rate: 100, burst: 1,
			events: []event{{kind: "unused", seq: 21}}}); r.probeSeq != 0 {
			t.Errorf("an unused probe: %+v", r)
		}
	})
}

// TestFleetCommands runs the commands without a worker.
func TestFleetCommands(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, b *broker.Broker) {
		ctx, rdb := t.Context(), b.Client()
		s, err := ShowFleet(ctx, rdb)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(FleetStatus{Burst: 1}, s); diff != "" {
			t.Errorf("shown of nothing (-want +got):\n%s", diff)
		}
		if n, err := rdb.Exists(ctx, fleetKey).Result(); err != nil || n != 0 {
			t.Errorf("to show has written: %d, %v", n, err)
		}
		if err := SetFleetRate(ctx, rdb, 0.5, history.By{Actor: "ann"}); err != nil {
			t.Fatal(err)
		}
		s, err = ShowFleet(ctx, rdb)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(FleetStatus{Ceiling: 0.5, Rate: 0.5, Burst: 1, Override: true}, s); diff != "" {
			t.Errorf("shown (-want +got):\n%s", diff)
		}
		for _, bad := range []Rate{-1, 2e6, 1e-9} {
			if err := SetFleetRate(ctx, rdb, bad, history.By{Actor: "ann"}); err == nil {
				t.Errorf("a rate of %v was set", float64(bad))
			}
		}
		if err := rdb.HSet(ctx, fleetKey, "rate", "nonsense").Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := ShowFleet(ctx, rdb); err == nil {
			t.Error("a damaged key is shown")
		}
	})
}

func TestParseReply(t *testing.T) {
	for _, words := range [][]string{nil, {""}, {"", ""}, {"n 1", ""}, {"n", "1"}} {
		if _, err := parseReply(words); !errors.Is(err, errReply) {
			t.Errorf("parseReply(%q): error %v", words, err)
		}
	}
}

// TestConstants checks the numbers that both the script and this package know.
func TestConstants(t *testing.T) {
	b := broker.Embedded()
	t.Cleanup(func() { _ = b.Close() })
	constant := func(name string) string {
		text, err := redis.NewScript(fleetRulesLua+"\nreturn string.format('%.17g', tonumber("+name+") or 0)").
			Run(t.Context(), b.Client(), []string{fleetKey}).Text()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, want := range map[string]micros{
		"never": neverMicros, "horizonLeast": firstHorizon, "marginWide": ownShare,
		"outageFirst": microsOf(ownProbeFirst), "outageMost": microsOf(outageProbeMost), "probeExpires": microsOf(ownProbeExpires),
		"second": microsOf(time.Second), "control == '" + ControlLink + "' and 1": 1,
	} {
		if got, err := strconv.ParseFloat(constant(name), 64); err != nil || micros(got) != want {
			t.Errorf("%s is %v in the script and %v here (%v)", name, got, want, err)
		}
	}
	// An idle process must stay alive, and a counted event within a part of the meter.
	for _, condition := range []string{
		fmt.Sprintf("silentAfter > 2 * %v and 1", int64(microsOf(heartbeat*idleHeartbeats+callTimeout))),
		fmt.Sprintf("meterPart > %v and 1", int64(microsOf(countedTime))),
	} {
		if constant(condition) != "1" {
			t.Errorf("not so: %s", condition)
		}
	}
}

func TestNewFleetErrors(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	for _, cfg := range []FleetConfig{
		{Redis: client, Process: "x"},
		{Config: Config{Rate: 1}, Process: "x"},
		{Config: Config{Rate: 1}, Redis: client},
	} {
		if _, err := NewFleet(cfg); err == nil {
			t.Errorf("NewFleet(%+v) has no error", cfg)
		}
	}
}
