package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
)

const (
	// TypeSweep is the type of a task that makes a batch of stale links.
	TypeSweep = "sweep:run"
	// QueueSweep is the queue of these tasks.
	QueueSweep = "sweep"
	// SweepVersion is the newest payload format of sweeps.
	SweepVersion = 1
	// SweepRetention is how long a finished sweep's task is kept, so that it is not repeated.
	SweepRetention = 48 * time.Hour
)

// validSweep matches the names that sweep.Schedule.Name makes.
var validSweep = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{4}[+-][0-9]{4})?$`)

// Sweep is the payload of a sweep task.
type Sweep struct {
	V int `json:"v"`
	// Name identifies the sweep within its schedule.
	Name string    `json:"name"`
	Due  time.Time `json:"due"` // in the schedule's time zone
	// Redeliveries is how often it was enqueued again after a crash.
	Redeliveries int `json:"again,omitempty"`
	// Selection says which links it takes.
	Selection json.RawMessage `json:"selection"`
}

// ID returns the id of the sweep's task, the same on every worker, but its own if redelivered.
func (s Sweep) ID() string {
	id := "sweep:" + s.Name
	if s.Redeliveries > 0 {
		id += "~" + strconv.Itoa(s.Redeliveries)
	}
	return id
}

// Task makes the asynq task of the sweep.
func (s Sweep) Task() (*asynq.Task, error) {
	s.V = SweepVersion
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode task %s: %w", s.ID(), err)
	}
	return asynq.NewTask(TypeSweep, payload,
		asynq.TaskID(s.ID()),
		asynq.Queue(QueueSweep),
		asynq.Timeout(timeout),
		asynq.Retention(SweepRetention),
		asynq.MaxRetry(math.MaxInt32), // as for slices: the ledger counts tries
	), nil
}

// ParseSweep reads the payload of a sweep task. The error is ErrNewer if a newer release wrote it.
func ParseSweep(payload []byte) (Sweep, error) {
	var s Sweep
	err := json.Unmarshal(payload, &s)
	if s.V > SweepVersion { // first, since a newer format may have other types
		return Sweep{}, fmt.Errorf("decode sweep task: format %d: %w", s.V, ErrNewer)
	}
	if err != nil {
		return Sweep{}, fmt.Errorf("decode sweep task: %w", err)
	}
	switch {
	case s.V < 1:
		return Sweep{}, errors.New("decode sweep task: no format version")
	case !validSweep.MatchString(s.Name):
		return Sweep{}, fmt.Errorf("decode sweep task: bad name %q", s.Name)
	case s.Due.IsZero():
		return Sweep{}, errors.New("decode sweep task: it has no time")
	case s.Redeliveries < 0:
		return Sweep{}, fmt.Errorf("decode sweep task: negative count %d", s.Redeliveries)
	}
	return s, nil
}
