package ledger

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRecordLayout(t *testing.T) {
	for _, tt := range []struct {
		record Record
		want   []byte
	}{
		{Record{}, make([]byte, 8)},
		{Record{Outcome: Cancelled}, []byte{1, 0, 0, 0, 0, 0, 0, 0}},
		{Record{Outcome: Aborted, Ambiguous: true}, []byte{0x17, 0, 0, 0, 0, 0, 0, 0}},
		{Record{Settling: true, Attempts: 255}, []byte{0x20, 255, 0, 0, 0, 0, 0, 0}},
		{Record{HTTPStatus: 204}, []byte{0, 0, 0, 204, 0, 0, 0, 0}},
		{Record{HTTPStatus: 599, LinkStatus: 1}, []byte{0, 0, 0x06, 0x57, 0, 0, 0, 0}},
		{Record{LinkStatus: 63}, []byte{0, 0, 0xfc, 0, 0, 0, 0, 0}},
		{Record{Outcome: Failed, After: 0x01020304}, []byte{6, 0, 0, 0, 1, 2, 3, 4}},
		{Record{Outcome: NotFound, Plain: true, HTTPStatus: 404}, []byte{0x43, 0, 0x01, 0x94, 0, 0, 0, 0}},
		{Record{Due: 0x01020304}, []byte{0, 0, 0, 0, 1, 2, 3, 4}},
		{Record{Plains: 3, LinkStatus: 63, HTTPStatus: 404, Due: 0x03ffffff}, []byte{0xc0, 0, 0x01, 0x94, 0xff, 0xff, 0xff, 0xff}},
		{Record{Ambiguous: true, Settling: true, Plains: 1, LinkStatus: 1, Due: 1}, []byte{0x70, 0, 0, 0, 0x04, 0, 0, 1}},
		// What belongs to the other state is left out.
		{Record{Outcome: NotFound, Plains: 2, Due: 9, LinkStatus: 1}, []byte{3, 0, 0x04, 0, 0, 0, 0, 0}},
		{Record{Plain: true, After: 9}, make([]byte, 8)},
		// What does not fit is cut off at the limit, and touches no other field.
		{Record{HTTPStatus: 5000, LinkStatus: 64}, []byte{0, 0, 0xff, 0xff, 0, 0, 0, 0}},
		{Record{HTTPStatus: -1, LinkStatus: -1}, make([]byte, 8)},
		{Record{Plains: 4, LinkStatus: 64, Due: 1 << 31}, []byte{0xc0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
	} {
		if got := tt.record.Append(nil); !bytes.Equal(got, tt.want) {
			t.Errorf("%+v: % x, want % x", tt.record, got, tt.want)
		}
	}
}

func TestShortRecordReadsAsZeros(t *testing.T) {
	full := Record{Outcome: Failed, Ambiguous: true, Attempts: 12, HTTPStatus: 500, LinkStatus: 2, After: 0x01020304}
	b := full.Append(nil)
	for n, want := range []Record{
		{},
		{Outcome: Failed, Ambiguous: true},
		{Outcome: Failed, Ambiguous: true, Attempts: 12},
		{Outcome: Failed, Ambiguous: true, Attempts: 12, HTTPStatus: 256, LinkStatus: 2},
		{Outcome: Failed, Ambiguous: true, Attempts: 12, HTTPStatus: 500, LinkStatus: 2},
		{Outcome: Failed, Ambiguous: true, Attempts: 12, HTTPStatus: 500, LinkStatus: 2, After: 0x01000000},
		{Outcome: Failed, Ambiguous: true, Attempts: 12, HTTPStatus: 500, LinkStatus: 2, After: 0x01020000},
		{Outcome: Failed, Ambiguous: true, Attempts: 12, HTTPStatus: 500, LinkStatus: 2, After: 0x01020300},
		full,
	} {
		if diff := cmp.Diff(want, DecodeRecord(b[:n])); diff != "" {
			t.Errorf("%d bytes: %s", n, diff)
		}
	}
}

func TestOnlyAnOutcomeHasATime(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got := (Record{After: 90}).Time(created); !got.IsZero() {
		t.Errorf("a pending link has the time %v", got)
	}
	if got, want := (Record{Outcome: Failed, After: 90}).Time(created), created.Add(90*time.Second); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := (Record{Outcome: Failed, After: 1<<32 - 1}).Time(created); got.Year() != 2162 {
		t.Errorf("the last time is %v", got)
	}
}

// A record of a pending link that was written in format 1 has no plains and no due.
func TestPendingRecordOfFormat1(t *testing.T) {
	want := Record{Ambiguous: true, Settling: true, Attempts: 3, HTTPStatus: 422}
	if diff := cmp.Diff(want, DecodeRecord([]byte{0x30, 3, 0x01, 0xa6, 0, 0, 0, 0})); diff != "" {
		t.Error(diff)
	}
}

// Every record in range comes back as it was; any bytes are some record, whose encoding is stable.
func FuzzRecord(f *testing.F) {
	f.Add(uint8(0), uint8(0), uint8(0), uint16(0), uint8(0), uint32(0), []byte{})
	f.Add(uint8(7), uint8(7), uint8(255), uint16(1023), uint8(63), uint32(1<<32-1), bytes.Repeat([]byte{0xff}, 9))
	f.Add(uint8(0), uint8(0x1b), uint8(12), uint16(404), uint8(62), uint32(1<<26-1), []byte{0xc0, 2, 3, 4, 5, 6, 7, 8})
	f.Add(uint8(1), uint8(2), uint8(3), uint16(204), uint8(1), uint32(86400), []byte{0xc1, 2, 3})
	f.Fuzz(func(t *testing.T, outcome, flags, attempts uint8, status uint16, link uint8, last uint32, raw []byte) {
		r := Record{
			Outcome: Outcome(outcome % uint8(len(outcomeNames))), Ambiguous: flags&1 != 0, Settling: flags&2 != 0, Attempts: attempts,
			HTTPStatus: int(status % (maxStatus + 1)), LinkStatus: int(link % (maxLinkStatus + 1)),
		}
		if r.Outcome == None {
			r.Plains, r.Due = flags>>3&3, last&maxDue
		} else {
			r.Plain, r.After = flags&4 != 0, last
		}
		b := r.Append([]byte("before"))
		if len(b) != len("before")+RecordSize {
			t.Fatalf("%d bytes", len(b))
		}
		if diff := cmp.Diff(r, DecodeRecord(b[len("before"):])); diff != "" {
			t.Errorf("encoded and decoded: %s", diff)
		}
		once := DecodeRecord(raw)
		if diff := cmp.Diff(once, DecodeRecord(once.Append(nil))); diff != "" {
			t.Errorf("decoded, encoded and decoded: %s", diff)
		}
		if diff := cmp.Diff([]Record{once, {}}, decodeRecords(raw[:min(len(raw), RecordSize)], 2)); diff != "" {
			t.Errorf("beside a missing one: %s", diff)
		}
	})
}

func TestOutcomeNames(t *testing.T) {
	want := []string{"cancelled", "already_cancelled", "not_found", "not_cancellable", "rejected", "failed", "aborted"}
	var got []string
	for i, o := range Outcomes {
		if int(o) != i+1 {
			t.Errorf("%v is %d: the numbers are part of the format", o, o)
		}
		got = append(got, o.String())
		if back, err := ParseOutcome(o.String()); back != o || err != nil {
			t.Errorf("ParseOutcome(%s) = %v, %v", o, back, err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if o, err := ParseOutcome("pending"); o != None || err != nil {
		t.Errorf("pending: %v, %v", o, err)
	}
	for _, name := range []string{"", "Cancelled", "canceled", "outcome(11)"} {
		if _, err := ParseOutcome(name); err == nil {
			t.Errorf("ParseOutcome(%q) succeeds", name)
		}
	}
	if got := Outcome(11).String(); got != "outcome(11)" {
		t.Error(got)
	}
}

func TestSumLeavesPendingOut(t *testing.T) {
	c := Counts{None: 100, Cancelled: 1, AlreadyCancelled: 2, NotFound: 4, NotCancellable: 8, Rejected: 16, Failed: 32, Aborted: 64}
	if got := c.Sum(); got != 127 {
		t.Errorf("%d, want 127", got)
	}
}

func TestRest(t *testing.T) {
	created := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		record Record
		after  time.Duration // since the batch was created
		want   time.Duration
	}{
		{"never tried", Record{}, time.Hour, 0},
		{"tried, and to be sent at once", Record{Attempts: 3}, 0, 0},
		{"in a while", Record{Attempts: 1, Due: 90}, time.Minute, 30 * time.Second},
		{"to the part of a second", Record{Attempts: 1, Due: 90}, 89750 * time.Millisecond, 250 * time.Millisecond},
		{"now", Record{Attempts: 1, Due: 90}, 90 * time.Second, 0},
		{"long ago", Record{Attempts: 1, Due: 90}, time.Hour, 90*time.Second - time.Hour},
		{"beside a kind of plain answers", Record{Attempts: 1, Plains: 2, LinkStatus: 1, Due: 90}, time.Minute, 30 * time.Second},
		{"with an outcome", Record{Outcome: Cancelled, Due: 90}, time.Minute, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.record.Rest(created, created.Add(tt.after)); got != tt.want {
				t.Errorf("Rest = %v, want %v", got, tt.want)
			}
		})
	}
}
