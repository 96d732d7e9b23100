package ledger

import (
	"testing"
	"time"
)

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
