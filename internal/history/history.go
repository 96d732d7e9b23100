// Package history describes who changed what, when and why. The Redis script that makes a change
// also writes its entry, so that neither exists without the other.
//
// A history is a sorted set of at most 1,000 entries, with the number of the entry as its score. A
// batch has one, and so have the rate limit, the API and the scheduled sweeps. ACLs of earlier
// releases allow all commands that it needs.
package history

import (
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Lua defines add_history for scripts.
//
//go:embed history.lua
var Lua string

// Owners of a history other than batches. No batch id has a colon.
const (
	Rate  = "lc:rate"
	API   = "lc:api"
	Sweep = "lc:sweep"
)

// Key is the key of a history. It is in the hash slot of its owner, a batch or one of the above.
func Key(owner string) string { return "lc:{" + owner + "}:h" }

// Action is what was done.
type Action string

// All actions.
const (
	Import  Action = "import" // links were queued as a batch
	Swept   Action = "sweep"  // the same, by a sweep
	Retry   Action = "retry"  // the same, with links of an earlier batch
	Verify  Action = "verify" // the same, to be read only
	Start   Action = "start"
	Pause   Action = "pause"
	Resume  Action = "resume"
	Abort   Action = "abort"
	Finish  Action = "finish"
	Delete  Action = "delete"
	Archive Action = "archive"

	SetPriority Action = "priority"

	RateSet     Action = "rate set"
	RateHold    Action = "rate hold"
	RateRelease Action = "rate release"
	RateWindow  Action = "rate window"
	APISet      Action = "api set"
	SweepEnded  Action = "sweep ended"
	SweepFailed Action = "sweep failed"
)

// Refused is the detail of a sweep that failed because it found more links than are allowed.
const Refused = "refused"

// Self is the actor of what a script does by itself.
const Self = "linkcancel"

// By says who makes a change, and why.
type By struct {
	Actor  string // a user such as ann@laptop, or the id of a process
	Reason string // may be empty
	Auto   bool   // no person asked for it
}

// String names the actor, and the reason if there is one.
func (b By) String() string {
	if b.Reason == "" {
		return "by " + b.Actor
	}
	return "by " + b.Actor + ": " + b.Reason
}

// Change is the argument of a script that makes the change.
func (b By) Change(action Action, detail string) Change {
	return Change{Action: action, Actor: b.Actor, Reason: b.Reason, Auto: b.Auto, Detail: detail, Token: rand.Text()[:12]}
}

// Change is an entry that is not written yet.
type Change struct {
	Action Action `json:"action"`
	Actor  string `json:"actor"`
	Reason string `json:"reason,omitempty"`
	Auto   bool   `json:"auto,omitempty"`
	Detail string `json:"detail,omitempty"` // what the action says of itself, such as the new rate
	Token  string `json:"token,omitempty"`  // tells a repeated call from another one
}

// MarshalBinary makes a Change an argument of a script.
func (c Change) MarshalBinary() ([]byte, error) { return json.Marshal(c) }

// Entry is one entry of a history.
type Entry struct {
	Owner  string // a batch, or one of the constants
	Number int64  // in the history of the owner, from 1
	Time   time.Time
	Change
}

// Batch is the batch that was changed, or "".
func (e Entry) Batch() string {
	if strings.Contains(e.Owner, ":") {
		return ""
	}
	return e.Owner
}

// Parse reads a member of an owner's history.
func Parse(owner, member string) (Entry, error) {
	e := Entry{Owner: owner}
	number, rest, _ := strings.Cut(member, " ")
	millis, doc, _ := strings.Cut(rest, " ")
	var err error
	var at int64
	if e.Number, err = strconv.ParseInt(number, 10, 64); err == nil {
		at, err = strconv.ParseInt(millis, 10, 64)
	}
	if err == nil {
		e.Time = time.UnixMilli(at).UTC()
		err = json.Unmarshal([]byte(doc), &e.Change)
	}
	if err != nil {
		return e, fmt.Errorf("read the history of %s: %w", owner, err)
	}
	return e, nil
}

// ParseIndexed reads a member of the index, which has the owner before it.
func ParseIndexed(member string) (Entry, error) {
	owner, rest, _ := strings.Cut(member, " ")
	return Parse(owner, rest)
}
