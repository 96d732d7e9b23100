package app

import (
	"context"
	"time"
)

// queueChannel is where a leader tells the other processes that slices wait in the queue.
const queueChannel = "lc:queue"

// listenAgain is the pause after a subscription that failed. Workers look into the queue by themselves, too.
const listenAgain = 5 * time.Second

// fed tells all workers that slices were put into the queue.
func (a *App) fed(ctx context.Context, slices int) {
	a.worker.Tell(slices)
	if a.opt.Shared && !a.feeder.Lone() {
		// Without permission to publish the other workers still look by themselves.
		_ = a.opt.Broker.Client().Publish(ctx, queueChannel, a.opt.ID).Err()
	}
}

// listen has the worker look into the queue when another process has fed it.
func (a *App) listen(ctx context.Context) {
	told := a.opt.Broker.Client().Subscribe(ctx, queueChannel)
	defer context.AfterFunc(ctx, func() { _ = told.Close() })()
	for ctx.Err() == nil {
		message, err := told.ReceiveMessage(ctx)
		switch {
		case err != nil:
			select {
			case <-time.After(listenAgain):
			case <-ctx.Done():
			}
		case message.Payload != a.opt.ID:
			a.worker.Tell(0)
		}
	}
}
