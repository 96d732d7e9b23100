package main

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// kind is a kind of fault, as the figures show it.
type kind string

// The kinds of faults.
const (
	workerKilled   kind = "worker killed"
	workerEnded    kind = "worker ended"
	workerStopped  kind = "worker stopped"
	importerKilled kind = "importer killed"
	importerEnded  kind = "importer ended"
	importerHalted kind = "importer stopped"
	sweeperKilled  kind = "sweeper killed"
	sweeperEnded   kind = "sweeper ended"
	sweeperHalted  kind = "sweeper stopped"

	redisKilled kind = "Redis killed"
	redisFull   kind = "Redis out of memory"
	failedOver  kind = "Redis failed over"

	connectionsCut kind = "connections cut"
	commandCut     kind = "command cut in two"
	replyCut       kind = "reply cut in two"
	connectionSlow kind = "connection slow"
	connectionThin kind = "connection thin"
	halfOpen       kind = "half-open connection"

	apiOutage  kind = "API outage"
	apiDown    kind = "API unreachable"
	apiBusy    kind = "429 storm"
	apiHangs   kind = "API hangs"
	apiMute    kind = "API answers lost"
	apiErrs    kind = "API errors"
	apiGateway kind = "gateway before the API"
	apiMoved   kind = "API moved"
	poisoned   kind = "links poisoned"
	keyRotated kind = "key rotated"

	batchPaused  kind = "batch paused"
	batchAborted kind = "batch aborted"
	fleetHeld    kind = "fleet held"
	rateSet      kind = "rate set"
	otherCancels kind = "cancelled elsewhere"
	windowSet    kind = "window set"
	verified     kind = "batch verified"
	receiverIll  kind = "receiver fails"
)

// deck is how often each kind of fault comes, in parts of the whole.
var deck = []struct {
	kind   kind
	weight int
}{
	{workerKilled, 5}, {workerEnded, 3}, {workerStopped, 4},
	{importerKilled, 1}, {importerEnded, 1}, {importerHalted, 1},
	{sweeperKilled, 1}, {sweeperEnded, 1}, {sweeperHalted, 1},
	{redisKilled, 2}, {redisFull, 2},
	{connectionsCut, 6}, {commandCut, 6}, {replyCut, 6}, {connectionSlow, 4}, {connectionThin, 3}, {halfOpen, 3},
	{apiOutage, 1}, {apiDown, 1}, {apiBusy, 1}, {apiHangs, 2}, {apiMute, 3}, {apiErrs, 3}, {keyRotated, 1},
	{apiGateway, 3}, {apiMoved, 1}, {poisoned, 1},
	{batchPaused, 2}, {batchAborted, 1}, {fleetHeld, 1}, {rateSet, 1}, {otherCancels, 3},
	{windowSet, 1}, {verified, 2}, {receiverIll, 3},
}

// sweeperFaults begin a sweep each.
var sweeperFaults = []kind{sweeperKilled, sweeperEnded, sweeperHalted}

// event is a fault of the schedule.
type event struct {
	at, lasts time.Duration // from the round's beginning
	kind      kind
	draw      uint64 // decides all else about it
}

// plan is all that is decided before a round begins. The same seed and round
// make the same plan; what the processes make of it varies with their timing.
type plan struct {
	seed    uint64
	round   int
	workers int
	rate    int // requests a second, of the fleet
	links   int // of each of the batches that stand from the beginning
	faults  time.Duration
	sweeps  bool          // the workers sweep by schedule, too
	finish  time.Duration // for all work, after the last fault
	clean   bool          // the API answers each request well
	events  []event
	wrong   string                              // what every request is answered from the beginning, as at a wrong path
	instead func(context.Context, *round) error // of the events
	redis   string                              // see database; "": one server
	lags    bool                                // a master that is killed may have written what its replicas never get
	before  string                              // a program of an earlier commit that half of all processes run until the last fault; "": none
}

const (
	eventsASecond = 2
	// Each round of fastEvery has a limit of fastRate at least, where slices are large, and links for as much as
	// fastLinks a second: a small machine sends no more. The list of so many links is too long for sweeps. Its
	// faults last fastTimes as long.
	fastEvery, fastRate, fastLinks, fastTimes = 4, 5000, 3000, 3
	// In each failoverEvery, a master is killed.
	failoverEvery = 8 * time.Second
	// longStop is longer than the lease of a task: others take its links up.
	longStop = 33 * time.Second
	// longFrom is how long the faults must last for such a stop.
	longFrom = 30 * time.Second
)

// newPlan draws the plan of a round whose faults last for a time. only, if any,
// are the kinds of faults that come.
func newPlan(seed uint64, round int, faults time.Duration, only ...kind) plan {
	draw := rand.New(rand.NewPCG(seed, uint64(round)))
	p := plan{
		seed: seed, round: round, faults: faults, finish: finishWithin,
		workers: 2 + draw.IntN(3), rate: 300 + 100*draw.IntN(4), sweeps: draw.IntN(2) == 0,
	}
	fast := len(only) == 0 && round%fastEvery == 0
	if fast {
		p.rate, p.sweeps = fastRate*(1+draw.IntN(4)), false
		faults *= fastTimes
		p.faults = faults
	}
	p.links = int(min(float64(p.rate), fastLinks) * faults.Seconds() / 6)
	var hand []kind
	var all []kind
	for _, card := range deck {
		if len(only) > 0 && !slices.Contains(only, card.kind) || fast && slices.Contains(sweeperFaults, card.kind) {
			continue
		}
		hand = append(hand, card.kind) // each at least once
		for range card.weight {
			all = append(all, card.kind)
		}
	}
	for len(hand) < int(eventsASecond*faults.Seconds()) {
		hand = append(hand, all[draw.IntN(len(all))])
	}
	long := false // one in a round
	for _, kind := range hand {
		e := event{
			at:    time.Duration(draw.Float64() * float64(faults)),
			lasts: 200*time.Millisecond + time.Duration(draw.ExpFloat64()*float64(time.Second)),
			kind:  kind,
			draw:  draw.Uint64(),
		}
		e.lasts = min(e.lasts, 6*time.Second)
		if kind == verified {
			e.at /= 4 // the batch must be done first
		}
		canBeLong := kind == workerStopped || kind == halfOpen || kind == importerHalted
		if canBeLong && faults >= longFrom && !long && draw.IntN(3) == 0 {
			e.at, e.lasts, long = e.at/8, longStop, true
		}
		p.events = append(p.events, e)
	}
	slices.SortStableFunc(p.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return p
}

// upgrade lets half of all processes run an earlier program until the last fault. What that one does not
// promise is left out: to see through gateways, to know windows, to notify of what a newer release does, and
// to leave out of a sweep what is in a batch of a newer format, which it cannot read.
func (p *plan) upgrade(before string) {
	p.before, p.sweeps = before, false
	p.events = slices.DeleteFunc(p.events, func(e event) bool {
		return slices.Contains([]kind{apiGateway, windowSet, receiverIll}, e.kind) || slices.Contains(sweeperFaults, e.kind)
	})
}

// failOver lets Redis fail over, and leaves out what wants one server with a way to it for each process. A
// sweep without a replica may be lost when it has begun to send: there are no sweeps in rounds with lags.
func (p *plan) failOver(redis string) {
	p.redis, p.lags = redis, !p.sweeps
	p.events = slices.DeleteFunc(p.events, func(e event) bool {
		return slices.Contains([]kind{redisKilled, redisFull, connectionsCut, commandCut, replyCut, connectionSlow, connectionThin, halfOpen}, e.kind) ||
			p.lags && slices.Contains(sweeperFaults, e.kind)
	})
	draw := rand.New(rand.NewPCG(p.seed, uint64(p.round)+1<<32))
	for from := time.Duration(0); from < p.faults; from += failoverEvery {
		p.events = append(p.events, event{
			at:    from + time.Duration(draw.Float64()*float64(min(failoverEvery, p.faults-from))),
			lasts: time.Duration(draw.Float64() * float64(2*time.Second)),
			kind:  failedOver,
			draw:  draw.Uint64(),
		})
	}
	slices.SortStableFunc(p.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
}

// pick draws one of n for an event.
func (e event) pick(n int) int { return int(e.draw % uint64(n)) }

// rng draws more for an event.
func (e event) rng() *rand.Rand { return rand.New(rand.NewPCG(e.draw, 1)) }
