package main

import (
	"testing"
	"time"
)

func TestStopper(t *testing.T) {
	start := time.Now()
	var s stopper
	for _, tt := range []struct {
		after time.Duration
		want  stop
	}{
		{0, stopGently},
		{0, stopAgain},
		{5 * time.Millisecond, stopAgain},
		{doubled - 1, stopAgain},
		{doubled, stopAtOnce},
		{time.Hour, stopAtOnce},
	} {
		if got := s.next(start.Add(tt.after)); got != tt.want {
			t.Errorf("a signal after %v: %v, want %v", tt.after, got, tt.want)
		}
	}
}
