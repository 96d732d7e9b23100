package worker

import (
	"testing"
	"time"

	"linkcancel/internal/redistest"
)

// cutFor is longer than a lease: what the process had in its hands, another one takes up meanwhile.
const cutFor = 40 * time.Second

// cut makes a network between one of two processes and Redis drop all packets for a while.
func cut(t *testing.T, leads bool) drained {
	mine, its := redistest.NewNetwork(t), redistest.NewNetwork(t)
	m := redistest.NewMachine(t, mine, its)
	s := redistest.NewServerOn(t, m)
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	d := drain{url: s.URLOn(mine), otherURL: s.URLOn(its), otherLeads: leads}
	return d.run(t, func(*fleet) {
		its.Cut(t, m)
		heal(t, cutFor, func() { its.Heal(t, m) })
	})
}

// split makes the network between a master and both its replica and the Sentinels drop all packets for a
// while. The processes reach all of them, so what they write until the Sentinels have a new master is lost.
func split(t *testing.T) drained {
	n := redistest.NewNetwork(t)
	first, others := redistest.NewMachine(t, n), redistest.NewMachine(t, n)
	s := redistest.StartSentinelOn(t, first, others, 1)
	return drain{url: s.URL()}.run(t, func(*fleet) {
		n.Part(t, first, others)
		heal(t, 10*time.Second, func() { n.Heal(t, first); n.Heal(t, others) })
	})
}

// heal ends a fault after a while, at the latest with the test.
func heal(t *testing.T, after time.Duration, do func()) {
	healed := make(chan struct{})
	go func() {
		defer close(healed)
		<-time.After(after)
		do()
	}()
	t.Cleanup(func() { <-healed })
}

func TestPartitions(t *testing.T) {
	t.Parallel()
	if !redistest.HaveNetworks(t) {
		t.Log("left out: partitions need root, and ip (apt-get install iproute2)")
		return
	}
	f := newFigures(t)
	f.of(t, "partition between a worker and Redis", func(t *testing.T) drained { return cut(t, false) })
	f.of(t, "partition between the leader and Redis", func(t *testing.T) drained { return cut(t, true) })
	f.of(t, "partition between the master and its replica with the Sentinels", func(t *testing.T) drained { return split(t) })
}
