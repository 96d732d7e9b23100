package ratelimit

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// fleetKey is the hash that the fleet shares. Its history is in the same slot of a cluster.
const fleetKey = "lc:rate"

//go:embed fleet_rules.lua
var fleetRulesLua string

//go:embed fleet_reserve.lua
var fleetReserveLua string

var fleetScript = redis.NewScript(history.Lua + fleetRulesLua + fleetReserveLua)

// event is something that happened, for the rules in fleet_rules.lua.
type event struct {
	kind  string // as in the rules
	seq   uint64
	count int            // proper, unproven: how many answers; 0 for other kinds
	at    instant        // of the first of them
	alone bool           // the event must not count other answers
	wait  micros         // throttled, hold: how long; 0 for a 429 that does not say
	link  string         // throttled: see suspectText; transient: see linkHash
	rate  Rate           // set
	last  uint64         // back: the last slot that is given back
	due   micros         // back: when the first of them was due
	text  string         // the answer's cause; for proper, ControlLink or nothing; for hold, by whom
	opens string         // window, opens: when the window is open
	entry history.Change // set, hold, release, window, once
}

// newEvent describes the answer to a slot.
func newEvent(now instant, s Slot, a Answer) event {
	e := event{kind: a.Kind.String(), seq: s.seq, at: now, alone: s.probe, text: a.cause()}
	switch a.Kind {
	case OK:
		e.text = ""
		if a.Link == ControlLink {
			e.text, e.alone = ControlLink, true
		}
	case Unauthorized:
		e.kind = Unproven.String() // of no use to the fleet
		if s.probe {
			e.kind = "refused"
		}
	case Throttled:
		e.link = suspectText(a)
		if a.HasRetryAfter {
			e.wait = max(0, microsOf(a.RetryAfter))
		}
	case Transient:
		e.link = linkHash(a.Link)
	}
	return e
}

// args are the event's five arguments of the script.
func (e event) args(now instant) []any {
	var a, b any = 0, 0
	switch e.kind {
	case "proper", "unproven":
		a, b = e.count, float64(microsOf(now-e.at))
	case "throttled":
		a, b = float64(e.wait), e.link
	case "hold":
		a, b = float64(e.wait), e.entry
	case "release", "once":
		b = e.entry
	case "window":
		a, b = e.opens, e.entry
	case "opens":
		a, b = e.opens, e.text
	case "transient":
		a = e.link
	case "back":
		a, b = e.last, float64(e.due)
	case "set":
		a, b = float64(e.rate), e.entry
	}
	return []any{e.kind, e.seq, a, b, e.text}
}

// suspectText describes a throttled answer to the script: link, status, and 1 for a repeat.
func suspectText(a Answer) string {
	repeat := 0
	if a.Repeat {
		repeat = 1
	}
	return fmt.Sprintf("%s:%d:%d", linkHash(a.Link), a.Status, repeat)
}

// linkHash names a link in the script. It is short and has no spaces.
func linkHash(link string) string {
	if link == ControlLink {
		return link
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(link))
	return strconv.FormatUint(h.Sum64(), 36)
}

// request is one call of the script.
type request struct {
	process string // "": a command
	run     string // of the process; a new run starts a new count of calls
	number  uint64 // of the call
	rate    Rate
	burst   int // 0: an observer
	usable  int // slots that could be used at once
	want    int // slots to reserve
	lead    time.Duration
	epoch   micros
	seen    micros
	seq     uint64
	own     held // the process's own hold
	leave   bool // the process leaves the fleet
	events  []event
}

// do calls the script. A call that is made again with the same number changes nothing.
func (r *request) do(ctx context.Context, rdb redis.Scripter, now instant) (*reply, error) {
	words, err := fleetScript.Run(ctx, rdb, []string{fleetKey, history.Key(history.Rate)}, r.args(now)...).StringSlice()
	if err != nil {
		return nil, err
	}
	return parseReply(words)
}

// args are the arguments of the script.
func (r *request) args(now instant) []any {
	reason, lasts := "-", micros(0)
	if r.own.reason != ReasonNone {
		reason, lasts = string(r.own.reason), neverMicros
		if r.own.until != never {
			lasts = microsOf(r.own.until - now)
		}
	}
	args := append(make([]any, 0, 14+5*len(r.events)),
		r.process, r.run, r.number, float64(r.rate), r.burst, r.usable,
		r.want, float64(microsOf(r.lead)), float64(r.epoch), float64(r.seen), r.seq,
		reason, float64(lasts), r.leave)
	for _, e := range r.events {
		args = append(args, e.args(now)...)
	}
	return args
}

// reply is the script's reply. Times are of the fleet's clock.
type reply struct {
	// n slots: slot j, from 0, is due at max(from, base + j·spacing), and its number is first + j.
	n             int
	from          micros
	base, spacing micros
	first         uint64
	probe         bool   // the one slot is a probe
	retry         micros // without slots: how long to wait before asking again
	horizon       micros // how far ahead slots are given
	active        int    // processes that want slots
	single        bool   // one of them takes slots one by one

	epoch, now              micros
	rate, ceiling, override float64
	burst                   int
	interval                micros // between slots; 0 without a rate

	manualSince, manualUntil     micros
	throttleSince, throttleUntil micros
	outage                       bool
	since, nextProbe             micros
	probeSeq                     uint64 // the probe that is out, or 0
	opens                        micros // the holds allow a slot from then on
	untilOutage                  int    // the number of further failures that may be an outage
	releases                     uint64
	seq                          uint64 // the latest grant of the fleet

	// The window is open from windowFrom to windowTo, and then from windowNext on.
	windowFrom, windowTo, windowNext micros

	cause   string   // of the outage or throttled hold
	window  string   // see windowOf
	manual  string   // who began the manual hold, and why
	workers []string // for a command: rate, reason and length of the own hold, and id of each
}

var errReply = errors.New("the rate limiter's script returned what this version does not know: run one version of linkcancel in a fleet")

// parseReply reads a reply: the numbers, each after its name, two causes, the window, and the workers.
func parseReply(words []string) (*reply, error) {
	if len(words) < 4 {
		return nil, errReply
	}
	fields := strings.Fields(words[0])
	values := make(map[string]string, len(fields)/2)
	for i := 1; i < len(fields); i += 2 {
		values[fields[i-1]] = fields[i]
	}
	var failed error
	number := func(name string) float64 {
		v, err := strconv.ParseFloat(values[name], 64)
		if err != nil {
			failed = fmt.Errorf("%w: %s is %q", errReply, name, values[name])
		}
		return v
	}
	us := func(name string) micros { return micros(number(name)) }
	r := &reply{
		n: int(number("n")), from: us("from"), base: us("base"), spacing: us("spacing"),
		first: uint64(number("first")), probe: number("isProbe") == 1,
		retry: us("retry"), horizon: us("horizon"), active: int(number("active")), single: number("single") == 1,
		epoch: us("epoch"), now: us("now"),
		rate: number("rate"), ceiling: number("ceiling"), override: number("override"),
		burst: int(number("burst")), interval: us("interval"),
		manualSince: us("manualSince"), manualUntil: us("manualUntil"),
		throttleSince: us("throttleSince"), throttleUntil: us("throttleUntil"),
		outage: number("outage") == 1, since: us("since"), nextProbe: us("nextProbe"), probeSeq: uint64(number("probe")),
		opens: us("opens"), untilOutage: int(number("untilOutage")),
		releases: uint64(number("releases")), seq: uint64(number("seq")),
		windowFrom: us("windowFrom"), windowTo: us("windowTo"), windowNext: us("windowNext"),
		cause: words[1], manual: words[2], window: words[3], workers: words[4:],
	}
	return r, failed
}
