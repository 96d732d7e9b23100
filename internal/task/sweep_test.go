package task

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hibiken/asynq"
)

var almaty = time.FixedZone("", 5*3600)

func sweep() Sweep {
	return Sweep{Name: "2026-11-24", Due: time.Date(2026, 11, 24, 2, 0, 0, 0, almaty), Selection: json.RawMessage(`{"status":"active"}`)}
}

// All workers enqueue the same sweep, and asynq keeps one of them.
func TestSweepTask(t *testing.T) {
	r := miniredis.RunT(t)
	opt := asynq.RedisClientOpt{Addr: r.Addr()}
	client, inspector := asynq.NewClient(opt), asynq.NewInspector(opt)
	defer client.Close()
	defer inspector.Close()
	task, err := sweep().Task()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.EnqueueContext(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	got, err := inspector.GetTaskInfo("sweep", "sweep:2026-11-24")
	if err != nil {
		t.Fatal(err)
	}
	want := &asynq.TaskInfo{
		ID: "sweep:2026-11-24", Queue: QueueSweep, Type: "sweep:run", Payload: task.Payload(),
		State: asynq.TaskStatePending, MaxRetry: math.MaxInt32, Timeout: timeout, Retention: 48 * time.Hour,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(asynq.TaskInfo{}), cmpopts.IgnoreFields(asynq.TaskInfo{}, "NextProcessAt")); diff != "" {
		t.Errorf("the task as asynq keeps it: %s", diff)
	}
	if _, err := client.EnqueueContext(t.Context(), task); !errors.Is(err, asynq.ErrTaskIDConflict) {
		t.Errorf("the same sweep once more: %v, want a conflict", err)
	}
	copied := sweep()
	copied.Redeliveries = 2
	if id := copied.ID(); id != "sweep:2026-11-24~2" {
		t.Errorf("a repetition has the id %s", id)
	}
}

func TestSweepPayload(t *testing.T) {
	s := sweep()
	s.Redeliveries = 1
	task, err := s.Task()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"v":1,"name":"2026-11-24","due":"2026-11-24T02:00:00+05:00","again":1,"selection":{"status":"active"}}`
	if got := string(task.Payload()); got != want {
		t.Errorf("payload %s, want %s", got, want)
	}
	got, err := ParseSweep(task.Payload())
	if err != nil {
		t.Fatal(err)
	}
	s.V = 1
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
	if date := got.Due.Format(time.DateOnly); date != "2026-11-24" {
		t.Errorf("the day in its zone is %s", date)
	}

	for name, tt := range map[string]struct {
		payload, want string
		newer         bool
	}{
		"a newer one":                  {`{"v":2}`, "format 2", true},
		"a newer one with other types": {`{"v":2,"name":[1],"due":7}`, "format 2", true},
		"nothing":                      {``, "decode sweep task", false},
		"no version":                   {`{"name":"2026-11-24","due":"2026-11-24T02:00:00+05:00"}`, "no format version", false},
		"no name":                      {`{"v":1,"due":"2026-11-24T02:00:00+05:00"}`, "bad name", false},
		"a name that is none":          {`{"v":1,"name":"2026-11-24~1","due":"2026-11-24T02:00:00+05:00"}`, "bad name", false},
		"no time":                      {`{"v":1,"name":"2026-11-24"}`, "no time", false},
		"a negative count":             {`{"v":1,"name":"2026-11-24T0200-0330","due":"2026-11-24T02:00:00+05:00","again":-1}`, "negative", false},
	} {
		_, err := ParseSweep([]byte(tt.payload))
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrNewer) != tt.newer {
			t.Errorf("%s: %v", name, err)
		}
	}
}
