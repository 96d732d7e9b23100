package ratelimit

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// fleetKey is the Redis hash with all that the fleet shares. It is one key so
// that the script has one slot on a cluster.
const fleetKey = "lc:rate"

//go:embed fleet_rules.lua
var fleetRulesLua string

//go:embed fleet_reserve.lua
var fleetReserveLua string

var fleetScript = redis.NewScript(fleetRulesLua + fleetReserveLua)

// micros is a time of the fleet's clock or a duration, in µs. The fleet's
// clock is that of the script: Redis' TIME without its steps back.
type micros float64

// neverMicros stands for never in the script.
const neverMicros micros = 1<<53 - 1

func microsOf(d time.Duration) micros { return micros(d) / micros(time.Microsecond) }

func (m micros) duration() time.Duration { return time.Duration(m * micros(time.Microsecond)) }

// event is something that happened, for the fleet's rules.
type event struct {
	kind string // as in fleet_rules.lua
	seq  uint64
	// For proper and unproven: how many, and when; alone if no others may join it.
	// For throttled: the wait, 0 for none, and the suspect. For transient: the
	// link's hash. For hold: how long. For set: the rate.
	count int
	alone bool
	at    instant
	wait  micros
	link  string
	rate  Rate
	text  string // the answer's cause; for proper, ControlLink or nothing
}

// args are the event's five arguments of the script.
func (e event) args(now instant) []any {
	a, b := "0", "0"
	switch e.kind {
	case "proper", "unproven":
		a, b = strconv.Itoa(e.count), microsOf(now-e.at).text()
	case "throttled":
		a, b = e.wait.text(), e.link
	case "hold":
		a = e.wait.text()
	case "transient":
		a = e.link
	case "set":
		a = strconv.FormatFloat(float64(e.rate), 'f', -1, 64)
	}
	return []any{e.kind, e.seq, a, b, e.text}
}

func (m micros) text() string { return strconv.FormatFloat(float64(m), 'f', -1, 64) }

// suspectText is what the script gets about a throttled answer: link, status,
// and 1 for a repeat.
func suspectText(a Answer) string {
	repeat := 0
	if a.Repeat {
		repeat = 1
	}
	return fmt.Sprintf("%s:%d:%d", linkHash(a.Link), a.Status, repeat)
}

// linkHash names a link in the script: short, and without spaces.
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
	run     string // of the process; a new one counts its calls anew
	number  uint64
	flag    Rate
	burst   int // 0: a guest
	usable  int // slots that could be used at once
	want    int
	lead    time.Duration
	epoch   micros
	seen    micros
	seq     uint64
	own     held // the process's own hold
	leave   bool
	events  []event
}

func (r *request) do(ctx context.Context, rdb redis.Scripter, now instant) (*reply, error) {
	reason, lasts := "-", micros(0)
	if r.own.reason != ReasonNone {
		reason, lasts = string(r.own.reason), neverMicros
		if r.own.until != never {
			lasts = microsOf(r.own.until - now)
		}
	}
	leave := 0
	if r.leave {
		leave = 1
	}
	args := append(make([]any, 0, 14+5*len(r.events)),
		r.process, r.run, r.number,
		strconv.FormatFloat(float64(r.flag), 'f', -1, 64), r.burst, r.usable,
		r.want, microsOf(r.lead).text(), r.epoch.text(), r.seen.text(), r.seq,
		reason, lasts.text(), leave)
	for _, e := range r.events {
		args = append(args, e.args(now)...)
	}
	words, err := fleetScript.Run(ctx, rdb, []string{fleetKey}, args...).StringSlice()
	if err != nil {
		return nil, err
	}
	return parseReply(words)
}

// reply is what the script returns. Times are of the fleet's clock.
type reply struct {
	// n slots: number j, from 0, is due at max(from, base + j·spacing); its
	// sequence number is first + j.
	n             int
	from          micros
	base, spacing micros
	first         uint64
	probe         bool   // they are one, a probe
	retry         micros // if n is 0: when to ask again
	horizon       micros // how far ahead slots are given
	active        int    // processes that want slots

	epoch, now              micros
	rate, ceiling, override float64
	burst                   int
	interval                micros // between slots; 0 without a rate

	manualSince, manualUntil     micros
	throttleSince, throttleUntil micros
	outage                       bool
	since, nextProbe             micros
	probeSeq                     uint64 // the probe that is out, or 0
	opens                        micros // a slot may be granted from then on, as far as holds go
	untilOutage                  int    // so many more failures may be an outage
	releases                     uint64
	seq                          uint64 // the latest grant of the fleet

	cause   string   // of the outage or throttled hold
	workers []string // for a command: four words each
}

var errReply = errors.New("the rate limiter's script returned what this version does not know: run one version of linkcancel in a fleet")

func parseReply(words []string) (*reply, error) {
	const numbers = 28 // and the cause
	if len(words) <= numbers || (len(words)-numbers-1)%4 != 0 {
		return nil, errReply
	}
	i := 0
	var failed error
	next := func() float64 {
		v, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			failed = fmt.Errorf("%w: %q", errReply, words[i])
		}
		i++
		return v
	}
	us := func() micros { return micros(next()) }
	r := &reply{
		n: int(next()), from: us(), base: us(), spacing: us(), first: uint64(next()), probe: next() == 1,
		retry: us(), horizon: us(), active: int(next()),
		epoch: us(), now: us(),
		rate: next(), ceiling: next(), override: next(), burst: int(next()), interval: us(),
		manualSince: us(), manualUntil: us(), throttleSince: us(), throttleUntil: us(),
		outage: next() == 1, since: us(), nextProbe: us(), probeSeq: uint64(next()),
		opens: us(), untilOutage: int(next()), releases: uint64(next()), seq: uint64(next()),
	}
	r.cause, r.workers = words[numbers], words[numbers+1:]
	return r, failed
}

// state returns the fleet's state in the caller's instants: here is the fleet's
// instant 0 in them.
func (r *reply) state(here instant) fleetState {
	at := func(m micros) instant {
		if m >= neverMicros {
			return never
		}
		return here + m.duration()
	}
	return fleetState{
		ceiling: r.ceiling, rate: r.rate, interval: r.interval,
		manual:   span{at(r.manualSince), at(r.manualUntil)},
		throttle: span{at(r.throttleSince), at(r.throttleUntil)},
		outage:   r.outage, since: at(r.since), nextProbe: at(r.nextProbe), probing: r.probeSeq != 0,
		opens: at(r.opens), untilOutage: r.untilOutage,
		cause: r.cause,
	}
}
