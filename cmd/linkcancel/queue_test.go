package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Nobody reads: no write waits. Somebody reads again: every line is whole, in order,
// and what was dropped is counted.
func TestQueueDropsLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		q := newQueue(writer)
		q.note = func(lines int64) []byte { return fmt.Appendf(nil, "dropped %d\n", lines) }
		line := strings.Repeat("x", 100)
		const lines = 3 * queueMost / 100
		for n := range lines {
			if _, err := fmt.Fprintf(q, "%d %s\n", n, line); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		q.flush(2 * time.Second)
		q.flush(time.Hour) // it has given up
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("flushing a pipe that nobody reads took %v", took)
		}
		next, dropped := 0, 0
		for scanner := bufio.NewScanner(reader); next < lines && scanner.Scan(); {
			var n int
			switch _, err := fmt.Sscanf(scanner.Text(), "dropped %d", &n); {
			case err == nil:
				next += n
				dropped += n
				continue
			case scanner.Text() != fmt.Sprint(next, " ", line):
				t.Fatalf("line %d is %q", next, scanner.Text())
			}
			next++
		}
		if next != lines || dropped == 0 {
			t.Errorf("%d of %d lines are accounted for, %d of them dropped", next, lines, dropped)
		}
	})
}

func TestQueueFlushes(t *testing.T) {
	var b strings.Builder
	q := newQueue(&b)
	for range 1000 {
		fmt.Fprintln(q, "line")
	}
	q.flush(time.Minute)
	if got := strings.Count(b.String(), "line\n"); got != 1000 || b.Len() != 5000 {
		t.Errorf("%d lines in %d bytes", got, b.Len())
	}
}
