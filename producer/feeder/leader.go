package feeder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"

	"linkcancel/internal/broker"
	"linkcancel/internal/ledger"
	"linkcancel/internal/notify"
	"linkcancel/internal/ratelimit"
	"linkcancel/internal/tick"
)

const (
	leaseTTL   = 5 * time.Second
	leaseRenew = 1900 * time.Millisecond // in each second round at most

	idleInterval = time.Second // between rounds while no batch is open
	// While one is open, the rounds are as far apart as roundLinks take at the present rate.
	roundLinks          = 20
	roundLeast          = 250 * time.Millisecond
	roundFast, fastRate = 100 * time.Millisecond, 5000 // from fastRate on the look-ahead is short
)

// Config configures a Feeder. Process, Limit, Keep and Log are required.
type Config struct {
	Process string                  // names this process in histories
	Limit   func() ratelimit.Status // the state of the fleet's limiter
	// Unsent returns the links in the hands of this process's worker. Nil: its heartbeats say so.
	Unsent func() int
	// Fed is called when so many slices were enqueued. It may be nil.
	Fed  func(context.Context, int)
	Keep time.Duration // how long finished batches are kept
	Log  *slog.Logger
	// Verify says which links of a batch are verified when it is done, if the batch itself does not:
	// see importer.ParseSample. "": none.
	Verify string
	// PauseAbove is the stop condition of batches that have none: see ledger.Terms. "": none.
	PauseAbove string
	// Notifier delivers notifications. nil: there are none.
	Notifier *notify.Dispatcher
	PageURL  string // of the page, for notifications; "": unknown
	// ArchiveDir is the folder for archives of finished batches. "": there are none.
	ArchiveDir string
	Observer   Observer     // may be nil
	Tracer     trace.Tracer // nil: no traces
}

// Observer counts what the leader does, for metrics.
type Observer interface {
	// Repaired is called when slices are enqueued again. The reason is "orphaned" or "missing".
	Repaired(reason string, slices int)
	// Archived is called after each attempt to archive a batch.
	Archived(ok bool)
}

// Feeder moves slices from the ledger into the queue and repairs what crashes leave behind. Every
// worker process runs one. Only the feeder that holds the lease does anything.
type Feeder struct {
	cfg    Config
	ledger *ledger.Ledger
	rdb    redis.UniversalClient
	token  string // identifies this feeder as the owner of the lease

	renewed time.Time // when the lease was last taken or renewed; zero: to be renewed at once
	held    time.Time // when it was last taken or renewed
	trouble broker.Trouble

	archiver archiver
	verifier verifier
	term     *term // nil while another feeder leads

	leads   atomic.Bool
	delayed atomic.Bool
	lone    atomic.Bool
}

// Leads says whether this process leads, as of its last round.
func (f *Feeder) Leads() bool { return f.leads.Load() }

// Delayed says whether this process leads and slices wait for a retry, as of its last look.
func (f *Feeder) Delayed() bool { return f.delayed.Load() }

// Lone says whether this process leads and knows of one worker only, as of its last look.
func (f *Feeder) Lone() bool { return f.lone.Load() }

// New makes a feeder for the queue and the ledger in rdb. Run starts it.
func New(cfg Config, rdb redis.UniversalClient, l *ledger.Ledger) *Feeder {
	var token [8]byte
	rand.Read(token[:])
	f := &Feeder{cfg: cfg, ledger: l, rdb: rdb, token: hex.EncodeToString(token[:]), trouble: broker.Trouble{Log: cfg.Log}}
	f.archiver = archiver{cfg: &f.cfg, ledger: l, trouble: broker.Trouble{Log: cfg.Log}}
	f.verifier = verifier{cfg: &f.cfg, ledger: l, trouble: broker.Trouble{Log: cfg.Log}}
	return f
}

// Run feeds while this process leads, until ctx ends. It logs errors and tries again.
func (f *Feeder) Run(ctx context.Context) {
	defer f.archiver.running.Wait()
	defer f.verifier.running.Wait()
	if f.cfg.Notifier != nil {
		var notifying sync.WaitGroup
		notifying.Go(func() { f.cfg.Notifier.Run(ctx) })
		defer notifying.Wait()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			f.resign()
			return
		case <-timer.C:
		}
		busy, err := f.tick(ctx)
		switch {
		case errors.Is(err, ledger.ErrNotLeader):
			f.term = nil
			f.rest()
		case err != nil && ctx.Err() == nil:
			f.trouble.Begin("feeding is interrupted", err)
			f.renewed = time.Time{} // renew the lease before anything else
			if time.Since(f.held) > leaseTTL {
				f.rest() // another process may lead
			}
			busy = false
		case err == nil:
			f.trouble.End("feeding works again")
		}
		f.leads.Store(f.term != nil)
		if f.term == nil {
			f.delayed.Store(false)
			f.lone.Store(false)
		}
		timer.Reset(tick.In(f.pause(busy)))
	}
}

// pause returns the time until the next round.
func (f *Feeder) pause(busy bool) time.Duration {
	rate := float64(f.cfg.Limit().Rate)
	switch {
	case !busy:
		return idleInterval
	case rate >= fastRate:
		return roundFast
	}
	return time.Duration(max(roundLeast.Seconds(), min(idleInterval.Seconds(), roundLinks/rate)) * float64(time.Second))
}

// tick does one round. busy: there is work. The error is ledger.ErrNotLeader if another leads.
func (f *Feeder) tick(ctx context.Context) (busy bool, err error) {
	if err := f.lead(ctx); err != nil || f.term == nil {
		return false, err
	}
	return f.term.round(ctx)
}

// lead takes or renews the lease. The ledger refuses cursor moves of an earlier epoch.
func (f *Feeder) lead(ctx context.Context) error {
	if f.term != nil && time.Since(f.renewed) < leaseRenew {
		return nil
	}
	now := time.Now()
	epoch, err := f.ledger.Lease(ctx, f.token, leaseTTL)
	switch {
	case err != nil:
		return err
	case epoch == 0 && f.term == nil:
		// The lease is ours, but the reply with its epoch was lost.
		return f.ledger.Unlease(ctx, f.token)
	case epoch > 0:
		f.rest() // others may have led, and delivered, since it led
		f.term = newTerm(f, epoch)
		f.cfg.Log.Debug("this process feeds", "epoch", epoch)
	}
	f.renewed, f.held = now, now
	return nil
}

// rest stops the notifications until this process leads, and knows the outbox.
func (f *Feeder) rest() {
	if f.cfg.Notifier != nil {
		f.cfg.Notifier.Rest()
	}
}

// resign gives up the lease so that another feeder can take over at once.
func (f *Feeder) resign() {
	if f.term == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = f.ledger.Unlease(ctx, f.token) // otherwise it expires
}
