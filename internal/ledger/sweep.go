package ledger

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
)

// keySweep is the hash of the scheduled sweeps.
const keySweep = "lc:sweep"

var (
	//go:embed sweep.lua
	sweepLua    string
	sweepScript = redis.NewScript(history.Lua + sweepLua)
)

const (
	// sweepAlive is how old a heartbeat may be before another worker takes the sweep over.
	sweepAlive = 15 * time.Second
	// SweepBeat is the interval of its heartbeats.
	SweepBeat = 5 * time.Second
	// sweepTimeout is how long the next sweep waits for one without a heartbeat.
	sweepTimeout = 3 * time.Minute
)

const (
	// keySeal is the lock for creating the batch of a sweep.
	keySeal = "lc:sweep:seal"
	// sealLease is when the lock of a dead owner expires. A million links take a few seconds.
	sealLease = time.Minute
	sealRetry = 100 * time.Millisecond
)

// SealSweep waits until no other sweep is creating its batch. release releases the lock.
func (l *Ledger) SealSweep(ctx context.Context) (release func(), err error) {
	var token [8]byte
	rand.Read(token[:])
	owner := hex.EncodeToString(token[:])
	for {
		got, err := leaseScript.Run(ctx, l.rdb, []string{keySeal}, owner, sealLease.Milliseconds()).Int()
		switch {
		case err != nil:
			return nil, fmt.Errorf("wait for the batches of other sweeps: %w", err)
		case got != 0:
			return func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				_ = leaseScript.Run(ctx, l.rdb, []string{keySeal}, owner, 1).Err() // the lock expires otherwise
			}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(sealRetry):
		}
	}
}

// Errors of scheduled sweeps that callers check for.
var (
	ErrSweepBusy     = errors.New("another worker runs a sweep")
	ErrSweepEnded    = errors.New("the sweep has ended")
	ErrSweepOutdated = errors.New("a later sweep has begun")
	ErrSweepNewer    = errors.New("a newer linkcancel runs the sweeps")
	ErrSweepLost     = errors.New("another worker took this sweep over")
)

// SweepCounts are the numbers of links that a sweep found.
type SweepCounts struct {
	Listed   int64 `json:"listed"`
	Selected int64 `json:"selected"`
	Waiting  int64 `json:"waiting"` // selected, but already in an unfinished batch
	// PastExpiry counts all links past their expiry that seem cancellable, selected or not.
	PastExpiry int64 `json:"past_expiry"`
	// Suspicious means that nothing was selected although many links are past their expiry.
	Suspicious bool `json:"suspicious,omitempty"`
	// LeftOut counts the links by the condition that left them out.
	LeftOut map[string]int64 `json:"left_out,omitempty"`
	// By names who ran the sweep: a worker or a user.
	By string `json:"by,omitempty"`
}

// SweepRun is one scheduled sweep.
type SweepRun struct {
	Due      time.Time // scheduled time
	Started  time.Time // first start
	Ended    time.Time // zero while it runs or waits for a retry
	OK       bool      // it ended successfully
	Batch    string    // id of its batch, "" if there is none
	Counts   SweepCounts
	Failures int    // failed attempts
	Crashes  int    // crashed workers
	Error    string // why it waits or failed
}

// Sweeps is the state of the scheduled sweeps.
type Sweeps struct {
	Schedule  string    // last schedule of a worker, "" if there is none
	Next      time.Time // when the next sweep is due
	Running   *SweepRun // the unfinished one, may be nil
	Last      *SweepRun // the latest finished one, may be nil
	Succeeded time.Time // end of the latest successful one, zero without one
	Command   *SweepRun // the latest one by a command, may be nil
}

var commandScript = redis.NewScript(history.Lua + `
-- KEYS[1] sweeps  KEYS[2] history   ARGV how a sweep by a command ended, entry
redis.call('HSET', KEYS[1], 'command', ARGV[1])
local t = redis.call('TIME')
add_history(KEYS[2], t[1] * 1000 + math.floor(t[2] / 1000), cjson.decode(ARGV[2]))
return 1
`)

// NoteCommandSweep stores how a sweep by a command ended. result says for its history what it found;
// if it failed, see Abandon for it.
func (l *Ledger) NoteCommandSweep(ctx context.Context, r SweepRun, by history.By, result string) error {
	action := history.SweepEnded
	if !r.OK {
		action, by.Reason = history.SweepFailed, cutError(r.Error)
	}
	doc, err := json.Marshal(r)
	if err == nil {
		err = commandScript.Run(ctx, l.rdb, []string{keySweep, history.Key(history.Sweep)}, doc, by.Change(action, result)).Err()
	}
	if err != nil {
		return fmt.Errorf("write how the sweep ended: %w", err)
	}
	return nil
}

// Sweeps reads the state of the scheduled sweeps.
func (l *Ledger) Sweeps(ctx context.Context) (Sweeps, error) {
	h, err := l.rdb.HGetAll(ctx, keySweep).Result()
	if err != nil {
		return Sweeps{}, fmt.Errorf("read the state of the sweeps: %w", err)
	}
	s := Sweeps{Schedule: h["schedule"], Next: millis(h["next"]), Succeeded: millis(h["succeeded"])}
	if last := map[string]string{}; json.Unmarshal([]byte(h["last"]), &last) == nil {
		s.Last = parseSweep(last)
	}
	var command SweepRun
	if json.Unmarshal([]byte(h["command"]), &command) == nil {
		s.Command = &command
	}
	switch run := parseSweep(h); {
	case run == nil:
	case h["state"] == "ended":
		s.Last = run
	default:
		s.Running = run
	}
	return s, nil
}

func parseSweep(h map[string]string) *SweepRun {
	if h["due"] == "" {
		return nil
	}
	r := &SweepRun{
		Due: millis(h["due"]), Started: millis(h["started"]), Ended: millis(h["ended"]), OK: h["ok"] == "1",
		Batch: h["batch"], Failures: int(number(h["failures"])), Crashes: int(number(h["crashes"])), Error: h["error"],
	}
	_ = json.Unmarshal([]byte(h["counts"]), &r.Counts) // missing at first
	return r
}

// PlanSweep stores when the next sweep is due, so that later workers know of a missed one.
func (l *Ledger) PlanSweep(ctx context.Context, schedule string, next time.Time) error {
	if err := l.rdb.HSet(ctx, keySweep, "schedule", schedule, "next", next.UnixMilli()).Err(); err != nil {
		return fmt.Errorf("write when the next sweep is due: %w", err)
	}
	return nil
}

// SweepLease is the right to run a sweep, as long as Beat is called every SweepBeat. Its
// methods may be repeated. Their error is ErrSweepLost if another worker has taken over.
type SweepLease struct {
	l     *Ledger
	token string

	Run SweepRun  // at the beginning
	Now time.Time // time of Redis
	// GivenUp is when an unfinished sweep was due that this one replaced, zero without one.
	GivenUp time.Time
}

// BeginSweep begins or continues the sweep of a scheduled time. Only one sweep runs at a
// time. The error is ErrSweepBusy if another one is running (retry later), ErrSweepEnded or
// ErrSweepOutdated if this one is over, and ErrSweepNewer if newer workers must run it.
func (l *Ledger) BeginSweep(ctx context.Context, due time.Time) (*SweepLease, error) {
	var token [8]byte
	rand.Read(token[:])
	s := &SweepLease{l: l, token: hex.EncodeToString(token[:])}
	reply, err := s.run(ctx, "begin", due.UnixMilli(), sweepAlive.Milliseconds(), sweepTimeout.Milliseconds(), formatVersion).Slice()
	if err != nil {
		return nil, fmt.Errorf("begin the sweep: %w", err)
	}
	switch reply[0] {
	case "busy":
		return nil, ErrSweepBusy
	case "ended":
		return nil, ErrSweepEnded
	case "outdated":
		return nil, ErrSweepOutdated
	case "newer":
		return nil, ErrSweepNewer
	}
	h, err := l.rdb.HGetAll(ctx, keySweep).Result()
	if err != nil {
		return nil, fmt.Errorf("begin the sweep: %w", err)
	}
	if h["token"] != s.token {
		return nil, ErrSweepBusy
	}
	now, _ := reply[1].(int64)
	lost, _ := reply[2].(int64)
	s.Run, s.Now = *parseSweep(h), time.UnixMilli(now).UTC()
	if lost > 0 {
		s.GivenUp = time.UnixMilli(lost).UTC()
	}
	return s, nil
}

func (s *SweepLease) run(ctx context.Context, verb string, args ...any) *redis.Cmd {
	keys := []string{keySweep, history.Key(history.Sweep)}
	return sweepScript.Run(ctx, s.l.rdb, keys, append([]any{verb, s.token}, args...)...)
}

func (s *SweepLease) write(ctx context.Context, verb string, args ...any) (string, error) {
	reply, err := s.run(ctx, verb, args...).Text()
	if err != nil && strings.HasPrefix(err.Error(), "LOST") {
		return "", ErrSweepLost
	}
	if err != nil {
		return "", fmt.Errorf("write the state of the sweep (%s): %w", verb, err)
	}
	return reply, nil
}

// Beat writes a heartbeat.
func (s *SweepLease) Beat(ctx context.Context) error {
	_, err := s.write(ctx, "beat", sweepAlive.Milliseconds())
	return err
}

// Claim stores the id of the batch before it is created, replacing the earlier id ("" for
// none). It returns the stored id, which differs if the earlier id was not as given.
func (s *SweepLease) Claim(ctx context.Context, earlier, id string) (string, error) {
	return s.write(ctx, "claim", earlier, id)
}

// Note stores what the sweep found, before its batch is created.
func (s *SweepLease) Note(ctx context.Context, c SweepCounts) error {
	doc, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the counts of the sweep: %w", err)
	}
	_, err = s.write(ctx, "note", doc)
	return err
}

// GiveBack lets another worker continue the sweep after a delay. text says why.
func (s *SweepLease) GiveBack(ctx context.Context, delay time.Duration, text string) error {
	_, err := s.write(ctx, "wait", delay.Milliseconds(), 0, cutError(text))
	return err
}

// Fail ends a failed attempt, to be retried after a delay unless a later sweep is due first.
func (s *SweepLease) Fail(ctx context.Context, delay time.Duration, text string) error {
	_, err := s.write(ctx, "wait", delay.Milliseconds(), 1, cutError(text))
	return err
}

// End ends the sweep as successful. result says for its history what it found.
func (s *SweepLease) End(ctx context.Context, worker, result string) error {
	by := history.By{Actor: worker, Auto: true}
	_, err := s.write(ctx, "end", 1, "", by.Change(history.SweepEnded, result))
	return err
}

// Abandon ends the sweep as failed. text says why; detail: see history.Refused.
func (s *SweepLease) Abandon(ctx context.Context, worker, text, detail string) error {
	by := history.By{Actor: worker, Reason: cutError(text), Auto: true}
	_, err := s.write(ctx, "end", 0, cutError(text), by.Change(history.SweepFailed, detail))
	return err
}
