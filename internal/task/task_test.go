package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hibiken/asynq"
)

func slice(n int) Slice {
	s := Slice{V: 1, Batch: "b-1", Chunk: 2, Index: 100}
	for i := range n {
		s.Links = append(s.Links, fmt.Sprintf("pl_%d", i))
	}
	return s
}

func TestIDNamesSliceAndRepetition(t *testing.T) {
	for _, tt := range []struct {
		slice   Slice
		key, id string
	}{
		{Slice{Batch: "b"}, "0:0", "b:0:0"},
		{Slice{Batch: "20260102-030405-abc123", Chunk: 39, Index: 950}, "39:950", "20260102-030405-abc123:39:950"},
		{Slice{Batch: "b", Chunk: 1, Index: 50, Redeliveries: 1}, "1:50", "b:1:50~1"},
		{Slice{Batch: "b", Chunk: 1, Index: 50, Redeliveries: 12}, "1:50", "b:1:50~12"},
	} {
		if got := tt.slice.Key(); got != tt.key {
			t.Errorf("Key of %+v: %s, want %s", tt.slice, got, tt.key)
		}
		if got := tt.slice.ID(); got != tt.id {
			t.Errorf("ID of %+v: %s, want %s", tt.slice, got, tt.id)
		}
	}
}

// Workers of an earlier release take slices of up to 50 links.
func TestFormatIsTheOldestThatFits(t *testing.T) {
	for n, want := range map[int]int{1: 1, SmallSlice: 1, SmallSlice + 1: 2, MaxSlice: 2} {
		task, err := slice(n).Task()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(task.Payload())
		if err != nil || got.V != want || len(got.Links) != n {
			t.Errorf("%d links: format %d with %d links, %v; want format %d", n, got.V, len(got.Links), err, want)
		}
	}
	task, err := slice(MaxSlice + 1).Task()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Parse(task.Payload()); err == nil {
		t.Errorf("%d links accepted", len(s.Links))
	}
}

// What asynq makes of the options is what counts: it stores an int32.
func TestTaskIsNeverArchivedByCount(t *testing.T) {
	r := miniredis.RunT(t)
	opt := asynq.RedisClientOpt{Addr: r.Addr()}
	client, inspector := asynq.NewClient(opt), asynq.NewInspector(opt)
	defer client.Close()
	defer inspector.Close()
	s := slice(50)
	s.Redeliveries = 3
	task, err := s.Task()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.EnqueueContext(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	got, err := inspector.GetTaskInfo("cancel", "b-1:2:100~3")
	if err != nil {
		t.Fatal(err)
	}
	want := &asynq.TaskInfo{
		ID: "b-1:2:100~3", Queue: QueueCancel, Type: "links:cancel", Payload: task.Payload(),
		State: asynq.TaskStatePending, MaxRetry: math.MaxInt32, Timeout: timeout,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(asynq.TaskInfo{}), cmpopts.IgnoreFields(asynq.TaskInfo{}, "NextProcessAt")); diff != "" {
		t.Errorf("the task as asynq keeps it: %s", diff)
	}
	if _, err := client.EnqueueContext(t.Context(), task); !errors.Is(err, asynq.ErrTaskIDConflict) {
		t.Errorf("the same slice once more: %v, want a conflict", err)
	}
}

func TestPayloadIsTheDocumentedOne(t *testing.T) {
	for _, tt := range []struct {
		again int
		want  string
	}{
		{0, `{"v":1,"batch":"b-1","chunk":2,"index":100,"links":["pl_0","pl_1"]}`},
		{2, `{"v":1,"batch":"b-1","chunk":2,"index":100,"again":2,"links":["pl_0","pl_1"]}`},
	} {
		s := slice(2)
		s.V, s.Redeliveries = 0, tt.again // Task sets the version
		task, err := s.Task()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(task.Payload())); diff != "" {
			t.Error(diff)
		}
		s.V = 1
		got, err := Parse(task.Payload())
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(s, got); diff != "" {
			t.Errorf("read back: %s", diff)
		}
	}
}

// A trace goes beside the payload, which stays what it is.
func TestHeaders(t *testing.T) {
	r := miniredis.RunT(t)
	opt := asynq.RedisClientOpt{Addr: r.Addr()}
	client, inspector := asynq.NewClient(opt), asynq.NewInspector(opt)
	defer client.Close()
	defer inspector.Close()
	var payloads []string
	for i, want := range []map[string]string{nil, {"traceparent": "00-01-02-01"}} {
		s := slice(2)
		s.Chunk, s.Headers = i, want
		task, err := s.Task()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.EnqueueContext(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		info, err := inspector.GetTaskInfo("cancel", s.ID())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, info.Headers, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("headers: %s", diff)
		}
		payloads = append(payloads, strings.Replace(string(info.Payload), fmt.Sprintf(`"chunk":%d`, i), "", 1))
	}
	if payloads[0] != payloads[1] {
		t.Errorf("payloads %q", payloads)
	}
}

func TestParseRefuses(t *testing.T) {
	links := func(n int) string {
		b, _ := json.Marshal(slice(n).Links)
		return string(b)
	}
	for payload, want := range map[string]string{
		``:        "unexpected end of JSON input",
		`{}`:      "no format version",
		`null`:    "no format version",
		`[]`:      "cannot unmarshal array",
		`{"v":1}`: `bad batch id ""`,
		`{"v":-1,"batch":"b","chunk":0,"index":0,"links":["a"]}`:             "no format version",
		`{"v":1,"batch":"a:b","chunk":0,"index":0,"links":["a"]}`:            `bad batch id "a:b"`,
		`{"v":1,"batch":"{b}","chunk":0,"index":0,"links":["a"]}`:            `bad batch id "{b}"`,
		`{"v":1,"batch":"b~1","chunk":0,"index":0,"links":["a"]}`:            `bad batch id "b~1"`,
		`{"v":1,"batch":"b\n","chunk":0,"index":0,"links":["a"]}`:            `bad batch id "b\n"`,
		`{"v":1,"batch":"` + strings.Repeat("b", 65) + `","links":["a"]}`:    "bad batch id",
		`{"v":1,"batch":"b","chunk":-1,"index":0,"links":["a"]}`:             "negative place -1:0~0",
		`{"v":1,"batch":"b","chunk":0,"index":-5,"links":["a"]}`:             "negative place 0:-5~0",
		`{"v":1,"batch":"b","chunk":0,"index":0,"again":-2,"links":["a"]}`:   "negative place 0:0~-2",
		`{"v":1,"batch":"b","chunk":0,"index":0,"links":[]}`:                 "0 links, a slice has 1 to 50",
		`{"v":1,"batch":"b","chunk":0,"index":0,"links":` + links(51) + `}`:  "51 links, a slice has 1 to 50",
		`{"v":1,"batch":"b","chunk":0,"index":0,"links":["a"]}{}`:            "invalid character",
		`{"v":1,"batch":"b","chunk":0,"index":0,"links":[1]}`:                "cannot unmarshal number",
		`{"v":1,"batch":"b","chunk":1e99,"index":0,"links":["a"]}`:           "cannot unmarshal number",
		`{"v":99999999999999999999,"batch":"b","chunk":0,"links":["a"]}`:     "cannot unmarshal number",
		`{"v":1,"batch":"b","chunk":0,"index":0,"links":{"first":"a"}}`:      "cannot unmarshal object",
		`{"v":1,"batch":"b","chunk":0,"index":0,"links":["a"],"again":"1"}`:  "cannot unmarshal string",
		`{"v":1,"batch":"b","chunk":0.5,"index":0,"links":["a"],"again":"1"`: "unexpected end of JSON input",
	} {
		got, err := Parse([]byte(payload))
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v, want %s", payload, err, want)
		}
		if diff := cmp.Diff(Slice{}, got); diff != "" {
			t.Errorf("%s: a slice beside the error: %s", payload, diff)
		}
	}
}

// A newer release may change anything but the version.
func TestNewerFormatIsLeftToNewerRelease(t *testing.T) {
	for _, payload := range []string{
		`{"v":4}`,
		`{"v":4,"batch":"b","chunk":0,"index":0,"links":["a"]}`,
		`{"v":4,"batch":"a:b","chunk":-1,"links":[]}`,
		`{"v":4,"batch":{"id":"b"},"chunk":"0","links":[{"id":"a"}]}`,
		`{"links":[{"id":"a"}],"v":2147483648}`,
	} {
		if _, err := Parse([]byte(payload)); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v, want ErrNewer", payload, err)
		}
	}
}

// What Parse accepts names a slice without doubt: its id cannot be read as that
// of another one, and encoding it again gives the same slice.
func FuzzParse(f *testing.F) {
	for _, s := range []Slice{slice(1), slice(50), {V: 1, Batch: "latest", Redeliveries: 7, Links: []string{""}}} {
		b, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"v":2,"links":{}}`))
	f.Add([]byte(`{"v":2,"batch":"b","chunk":1,"index":100,"links":["pl_0"]}`))
	f.Add([]byte(`{"V":1,"BATCH":"b","v":1,"batch":"{}","links":["\ud800"]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := Parse(payload)
		if err != nil {
			return
		}
		const valid = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
		if s.Batch == "" || len(s.Batch) > 64 || strings.Trim(s.Batch, valid) != "" {
			t.Errorf("batch id %q accepted", s.Batch)
		}
		if n := len(s.Links); n < 1 || n > MaxSlice {
			t.Errorf("%d links accepted", n)
		}
		place := strings.Split(s.ID(), ":")
		if len(place) != 3 || place[0] != s.Batch || strings.Count(s.ID(), "~") != min(s.Redeliveries, 1) {
			t.Errorf("ambiguous id %q", s.ID())
		}
		task, err := s.Task()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(task.Payload())
		if err != nil {
			t.Fatal(err)
		}
		again.V = s.V // Task sets it
		if diff := cmp.Diff(s, again); diff != "" {
			t.Errorf("encoded and read again: %s", diff)
		}
	})
}
