package app

import (
	"context"
	"testing"

	"linkcancel/internal/plexy"
)

// looks calls a function within each request.
type looks func()

func (l looks) Cancel(context.Context, string) (int, error)        { l(); return 204, nil }
func (l looks) Get(context.Context, string) (plexy.Link, error)    { l(); return plexy.Link{}, nil }
func (l looks) List(context.Context, int, int) (plexy.Page, error) { l(); return plexy.Page{}, nil }

// Every request counts as in flight until it ends.
func TestInFlight(t *testing.T) {
	inFlight, within := 0, 0
	api := Observe(looks(func() { within = inFlight }), "https://api.example.com/v1", nil, func(delta int) { inFlight += delta })
	for name, call := range map[string]func() error{
		"Cancel": func() error { _, err := api.Cancel(t.Context(), "a"); return err },
		"Get":    func() error { _, err := api.Get(t.Context(), "a"); return err },
		"List":   func() error { _, err := api.List(t.Context(), 1, 10); return err },
	} {
		within = 0
		if err := call(); err != nil || within != 1 || inFlight != 0 {
			t.Errorf("%s: %d in flight within it, %d after it, %v", name, within, inFlight, err)
		}
	}
}
