package main

import (
	"context"

	"linkcancel/internal/plexy"
)

// counted is the API, and counts the requests that wait for their answer.
type counted struct {
	api      *plexy.Client
	inFlight func(delta int)
}

// Cancel is part of worker.Canceler.
func (c counted) Cancel(ctx context.Context, id string) (status int, err error) {
	c.inFlight(1)
	defer c.inFlight(-1)
	return c.api.Cancel(ctx, id)
}

// Get is part of worker.Canceler.
func (c counted) Get(ctx context.Context, id string) (plexy.Link, error) {
	c.inFlight(1)
	defer c.inFlight(-1)
	return c.api.Get(ctx, id)
}

// List is part of sweep.Lister.
func (c counted) List(ctx context.Context, page, size int) (plexy.Page, error) {
	c.inFlight(1)
	defer c.inFlight(-1)
	return c.api.List(ctx, page, size)
}
