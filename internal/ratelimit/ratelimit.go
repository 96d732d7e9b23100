package ratelimit

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Reason is why nothing is sent. "" means that there is no hold.
type Reason string

const (
	ReasonNone         Reason = ""
	ReasonThrottled    Reason = "throttled"    // the API answered 429 for more than one link
	ReasonUnauthorized Reason = "unauthorized" // the API refuses the key: 401, 403
	ReasonOutage       Reason = "outage"       // the API does not work
	ReasonManual       Reason = "manual"       // an operator stopped sending
	ReasonWindow       Reason = "window"       // the fleet's window is closed
)

// Hold is a stop of sending.
type Hold struct {
	Reason Reason
	// Until is when a throttled or manual hold ends, the window opens, or the next probe of another may go. It is zero
	// while a probe awaits its answer, and for a manual hold without an end.
	Until time.Time
	// Since is when the hold began; zero without a hold.
	Since time.Time
	// Cause is the Cause of the answer that began the hold or of the last failed probe.
	Cause string
	// Own: the hold belongs to this process alone, not to the fleet.
	Own bool
}

// Status is the state of a limiter.
type Status struct {
	Ceiling Rate // the configured rate
	Rate    Rate // the present rate, at most Ceiling; during a hold, the rate to continue at
	Hold    Hold
}

// staleAfter is how old a slot may be when it is used. A request then leaves at most maxLateness + staleAfter
// = 10 ms after its slot's time: the 1% that docs/guarantees.md allows in a second.
const staleAfter = 5 * time.Millisecond

// Slot is the permission to send one request now. It must be passed to the limiter's Report once.
type Slot struct {
	granted time.Time
	seq     uint64 // number of the grant, from 1; orders answers and holds
	key     uint64 // how often the API key had changed
	probe   bool
	until   time.Time // a request may leave until then, if it had to open a connection first; zero: staleAfter
}

// NewSlot returns a slot for limiters other than [Fleet], with the number of the grant.
func NewSlot(granted time.Time, seq uint64) Slot { return Slot{granted: granted, seq: seq} }

// Seq returns the number of the grant, from 1, across the whole fleet.
func (s Slot) Seq() uint64 { return s.seq }

// Stale reports whether the slot is older than 5 ms, as when the process stalled. Many could then
// be used at once: report it as [Unused] and acquire another.
func (s Slot) Stale() bool { return time.Since(s.granted) > staleAfter }

// late reports whether the slot's request would come so late that a second could get too many: the
// requests behind it may be faster. A probe is alone.
func (s Slot) late() bool {
	return !s.probe && s.Stale() && time.Now().After(s.until)
}

// Probe reports whether the slot was granted to find out whether a hold's cause is gone.
func (s Slot) Probe() bool { return s.probe }

// Kind classifies the API's answers by what they mean to the limiter.
type Kind uint8

const (
	// Unused: nothing was sent.
	Unused Kind = iota
	// OK: the API itself answered, which shows that it works and accepts the key.
	OK
	// Unproven: an answer that the API may not have given. It neither begins nor ends a hold.
	Unproven
	// Throttled: 429, or 503 with Retry-After. A hold needs evidence from two links.
	Throttled
	// Unauthorized: 401 or 403. It does not begin a hold: see [Fleet.HoldOwn].
	Unauthorized
	// Transient: 408, 425, 5xx or no answer. Many, from several links, begin an outage.
	Transient
	// Down: the control request got no answer of the API. It begins an outage at once.
	Down
)

var kindNames = [...]string{"unused", "proper", "unproven", "throttled", "unauthorized", "transient", "down"}

// String returns the kind's name in fleet_rules.lua.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Answer is the result of a request.
type Answer struct {
	Kind Kind
	// Link identifies the request's link, since holds need several. ControlLink is a control.
	Link string
	// RetryAfter is the Retry-After of a Throttled answer from now. It needs HasRetryAfter.
	RetryAfter    time.Duration
	HasRetryAfter bool
	// Status is the HTTP status, or 0. Throttled answers of different statuses are separate.
	Status int
	// Repeat: the link got the same answer before, so the link itself may be the reason.
	Repeat bool
	// Cause describes the answer to people. A hold keeps the first 200 bytes.
	Cause string
}

// ControlLink is the Answer.Link of a control request, which only checks the API. If it
// is throttled as well, the 429 of a link was not the link's own trouble.
const ControlLink = "control"

// causeMost is how many bytes of a cause are kept.
const causeMost = 200

// cause returns the start of the answer's cause as valid UTF-8.
func (a Answer) cause() string {
	text := strings.ToValidUTF8(a.Cause, "\uFFFD")
	if len(text) <= causeMost {
		return text
	}
	end := causeMost
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// ErrHeld is returned by Acquire when a hold lasts longer than work should wait.
var ErrHeld = errors.New("sending is on hold for long: give the work back and try again later")

// Config configures a limiter. Only Rate is required.
type Config struct {
	// Rate is the ceiling, in requests per second.
	Rate Rate
	// Burst is how many requests may be sent at once after a quiet time. Default 1.
	Burst int
	// OnHold, if not nil, is called when a hold begins, changes its reason, or ends
	// (Reason ""). Calls come one at a time and in order, and may use the limiter.
	OnHold func(Hold)

	giveUp, giveUpOwn time.Duration // 0: the defaults
}

// How long Acquire waits before ErrHeld: in a hold of this process alone, or any other.
const giveUpOwn, giveUp = 30 * time.Second, time.Hour

// validate checks a Config that has its defaults.
func (c Config) validate() error {
	switch {
	case !c.Rate.valid():
		return fmt.Errorf("rate %v is not between one request a day and %v: use one that ParseRate accepts", c.Rate, MaxRate)
	case c.Burst < 1:
		return fmt.Errorf("burst %d is below 1: nothing could ever be sent; use 1 or more", c.Burst)
	}
	return nil
}
