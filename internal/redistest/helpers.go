package redistest

import (
	"fmt"
	"iter"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"linkcancel/internal/broker"
)

// Bubble runs a test on the embedded Redis with a clock of its own, as synctest does.
func Bubble(t *testing.T, test func(t *testing.T, b *broker.Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := broker.Embedded()
		t.Cleanup(func() { _ = b.Close() })
		test(t, b)
	})
	// go-redis keeps timers in a pool. Those of a bubble cannot be used outside of it.
	runtime.GC()
	runtime.GC()
}

// Pass lets time pass in a bubble.
func Pass(d time.Duration) { <-time.After(d) }

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Collect returns all values of a sequence. An error ends the test.
func Collect[T any](t testing.TB, seq iter.Seq2[T, error]) (all []T) {
	t.Helper()
	for v, err := range seq {
		Must(t, err)
		all = append(all, v)
	}
	return all
}

// LinkID returns the n-th of the ids that tests give to payment links.
func LinkID(n int) string { return fmt.Sprintf("pl_%032x", n) }

// LinkIDs returns the ids of n links.
func LinkIDs(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = LinkID(i)
	}
	return all
}
