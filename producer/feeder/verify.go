package feeder

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"linkcancel/internal/broker"
	"linkcancel/internal/history"
	"linkcancel/internal/importer"
	"linkcancel/internal/ledger"
)

// verifyRetry is how long the verifier waits after a failure.
const verifyRetry = 10 * time.Second

// verifier makes the verifications of batches that are done, one at a time and beside the rounds of
// the leader: to choose from a million links takes seconds. A batch is kept until it is made.
type verifier struct {
	cfg     *Config
	ledger  *ledger.Ledger
	trouble broker.Trouble
	running sync.WaitGroup

	mu   sync.Mutex
	busy bool
	next time.Time // no attempt before
}

// made reports whether a batch has the verification that it is to have. If not, it is begun.
func (v *verifier) made(ctx context.Context, b ledger.Batch) (bool, error) {
	sample, err := importer.ParseSample(cmp.Or(b.Verify, v.cfg.Verify, "off"))
	if err != nil || sample.Off() || b.State != ledger.Done || b.Verifies() || b.HadNothingToVerify() {
		return true, nil
	}
	there, err := v.ledger.VerificationsOf(ctx, b)
	if err != nil || len(there) > 0 {
		return len(there) > 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.busy || time.Now().Before(v.next) {
		return false, nil
	}
	v.busy = true
	v.running.Go(func() {
		err := v.make(ctx, b, sample)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.busy = false
		if err != nil && ctx.Err() == nil {
			v.next = time.Now().Add(verifyRetry)
			v.trouble.Begin("cannot verify finished batches, trying until it works", err, "batch", b.ID)
		} else if err == nil {
			v.trouble.End("finished batches are verified again")
		}
	})
	return false, nil
}

func (v *verifier) make(ctx context.Context, b ledger.Batch, sample importer.Sample) error {
	plan, err := importer.PlanVerify(ctx, v.ledger, b, sample, "")
	switch {
	case errors.Is(err, importer.ErrNothingToVerify):
		err = v.ledger.AddVerification(ctx, b, ledger.NothingToVerify)
	case err == nil:
		_, err = plan.Make(ctx, "", history.By{Actor: v.cfg.Process, Auto: true}, nil)
	}
	if errors.Is(err, ledger.ErrNoBatch) {
		return nil // it was deleted
	}
	return err
}
