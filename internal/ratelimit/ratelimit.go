package ratelimit

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Reason says why nothing is sent. "" means that there is no hold.
type Reason string

const (
	ReasonNone         Reason = ""
	ReasonThrottled    Reason = "throttled"    // the API answered 429 about more links than one
	ReasonUnauthorized Reason = "unauthorized" // the API refuses the key: 401, 403
	ReasonOutage       Reason = "outage"       // the API does not work
	ReasonManual       Reason = "manual"       // an operator stopped it
)

// Hold is a stop of sending.
type Hold struct {
	Reason Reason
	// Until is when a throttled or manual hold ends, and when the next probe
	// of an outage or unauthorized hold may go. Zero: not known, as while the
	// answer of a probe is awaited, or a manual hold for ever.
	Until time.Time
	// Since is when the hold began; zero without a hold.
	Since time.Time
	// Cause is the Cause of the answer that began the hold or, later, of the last
	// failed probe. A manual hold has none.
	Cause string
	// Own: the hold is of this process alone, not of the fleet.
	Own bool
}

// Status is what a limiter does at present.
type Status struct {
	Ceiling Rate // the configured rate
	Rate    Rate // the present rate, at most Ceiling; in a hold, that before it, cuts included
	Burst   int  // requests that may be sent at once after a quiet time
	Hold    Hold
}

// staleAfter is how old a slot may be when it is used.
const staleAfter = 50 * time.Millisecond

// Slot is the permission to send one request now. It has to be reported once,
// by the limiter's Report.
type Slot struct {
	granted time.Time
	seq     uint64 // number of the grant, from 1; orders answers and holds
	key     uint64 // how often the API key had changed
	probe   bool
}

// NewSlot returns a slot for a limiter of another kind than [Fleet], with its
// number and the number of times that the API key had changed.
func NewSlot(granted time.Time, seq, key uint64) Slot {
	return Slot{granted: granted, seq: seq, key: key}
}

// Seq returns the number of the grant, from 1. It is higher for a later grant,
// whichever process of the fleet got it.
func (s Slot) Seq() uint64 { return s.seq }

// Key returns how often the API key had changed, as [Fleet.ProbeNow] tells,
// when the slot was granted: answers to slots of one number are answers to one
// key.
func (s Slot) Key() uint64 { return s.key }

// Stale reports whether the slot is older than 50 ms: the process stalled, or
// something else took long. A stale slot must not be used, since many could
// then be used at once: report it as [Unused] and acquire another.
func (s Slot) Stale() bool { return time.Since(s.granted) > staleAfter }

// Probe reports whether the slot was granted in a hold, to find out if the
// hold's cause is gone. Its request is an ordinary one.
func (s Slot) Probe() bool { return s.probe }

// Kind sorts the API's answers by what they mean to the limiter.
type Kind uint8

const (
	// Unused: nothing was sent.
	Unused Kind = iota
	// Proper: an answer that the API itself gave, which shows that API and key work.
	Proper
	// Unproven: an answer that the API may not have given, such as the 404 of a
	// gateway in front of it. It begins no hold and ends none.
	Unproven
	// Throttled: 429, or 503 with Retry-After. A hold needs evidence from two links.
	Throttled
	// Unauthorized: 401 or 403. It begins no hold: see [Fleet.HoldOwn].
	Unauthorized
	// Transient: 408, 425, 5xx, or no answer at all. Many of them in a row, from
	// several links, are an outage.
	Transient
	// Down: the control request, which was sent because of unproven answers, was not
	// answered as by the API. It is an outage at once.
	Down
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Unused:
		return "unused"
	case Proper:
		return "proper"
	case Unproven:
		return "unproven"
	case Throttled:
		return "throttled"
	case Unauthorized:
		return "unauthorized"
	case Transient:
		return "transient"
	case Down:
		return "down"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Answer is what came of a slot.
type Answer struct {
	Kind Kind
	// Link names what the request was about: holds need the answers to requests
	// about different links. It is ControlLink for a control request.
	Link string
	// RetryAfter is the Retry-After of a Throttled answer, as a time from now.
	// It counts only with HasRetryAfter; zero or less (a date gone by) is
	// taken as none.
	RetryAfter    time.Duration
	HasRetryAfter bool
	// Status is the HTTP status, 0 without an answer. Throttled answers are
	// compared with those of the same status.
	Status int
	// Repeat: the same link got the same answer before, so that it may be the
	// link's own fault.
	Repeat bool
	// Cause says what was seen, for people. Of it 200 bytes are kept with a hold.
	Cause string
}

// ControlLink is the Answer.Link of a control request, which asks only how the
// API is. One that is throttled, too, shows that a link's 429 was not its own
// trouble.
const ControlLink = "control"

// causeMost is how many bytes of a cause are kept.
const causeMost = 200

// cause returns the answer's cause, cut to what is kept of it.
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

// ErrHeld is returned by Acquire when a hold lasts longer than work should
// wait in it.
var ErrHeld = errors.New("sending is on hold for long: give the work back and try again later")

// Config configures a limiter. Only Rate is required.
type Config struct {
	// Rate is the ceiling, in requests a second: the rate never exceeds it.
	Rate Rate
	// Burst is how many requests may be sent at once after a quiet time.
	// Default 1.
	Burst int
	// GiveBackOwn is how long one Acquire waits in a hold of this process alone
	// before it returns ErrHeld. Default 30 s.
	GiveBackOwn time.Duration
	// GiveBack is the same for any other hold. Default 1 h.
	GiveBack time.Duration
	// OnHold, if not nil, is called when a hold begins, gives way to one of
	// another reason, or ends (Reason ""). Calls come one at a time and in
	// order, and may use the limiter, but keep one of its callers waiting.
	OnHold func(Hold)
}

func (c Config) withDefaults() Config {
	if c.Burst == 0 {
		c.Burst = 1
	}
	if c.GiveBackOwn == 0 {
		c.GiveBackOwn = 30 * time.Second
	}
	if c.GiveBack == 0 {
		c.GiveBack = time.Hour
	}
	return c
}

// validate checks a Config that has its defaults.
func (c Config) validate() error {
	switch {
	case !c.Rate.valid():
		return fmt.Errorf("rate %v is not between one request a day and %v: use one that ParseRate accepts", c.Rate, MaxRate)
	case c.Burst < 1:
		return fmt.Errorf("burst %d is below 1: nothing could ever be sent; use 1 or more", c.Burst)
	case c.GiveBack < 0 || c.GiveBackOwn < 0:
		return fmt.Errorf("a give-back time is negative (%v, %v): use 0 for the default", c.GiveBack, c.GiveBackOwn)
	}
	return nil
}

// giveUpAfter is how long one Acquire waits in a hold.
func (c Config) giveUpAfter(h held) time.Duration {
	if h.own {
		return c.GiveBackOwn
	}
	return c.GiveBack
}
