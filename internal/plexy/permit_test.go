package plexy

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// permit is one that is good after renewals.
type permit struct {
	good    bool
	wait    time.Duration // of Renew
	err     error
	renewed int
}

func (p *permit) Good() bool { return p.good }

func (p *permit) Renew() error {
	time.Sleep(p.wait)
	p.renewed++
	p.good = p.err == nil
	return p.err
}

// A request is sent with a good permission only, on new connections and on kept ones.
func TestPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got atomic.Int32
		s := countConnections(t, func(w http.ResponseWriter, _ *http.Request) {
			got.Add(1)
			w.WriteHeader(http.StatusNoContent)
		})
		none := errors.New("no more slots")
		for _, kept := range []bool{false, true} {
			check := func(what string, p *permit, renewed, arrives int, want error) {
				t.Helper()
				if !kept {
					s.client.CloseIdle()
				}
				before := got.Load()
				_, err := s.client.Cancel(WithPermit(t.Context(), p), testID)
				synctest.Wait()
				if n := int(got.Load() - before); n != arrives || p.renewed != renewed || !errors.Is(err, want) {
					t.Errorf("%s, kept %t: %d requests, %d renewals, %v", what, kept, n, p.renewed, err)
				}
				var broken *TransportError
				if want != nil && (!errors.As(err, &broken) || broken.Sent || broken.Local) {
					t.Errorf("%s, kept %t: %#v", what, kept, err)
				}
			}
			check("good", &permit{good: true}, 0, 1, nil)
			check("renewed", &permit{}, 1, 1, nil)
			check("renewed after long", &permit{wait: 10 * s.client.timeout}, 1, 1, nil)
			check("ended", &permit{err: none}, 1, 0, none)
			check("after it", &permit{good: true}, 0, 1, nil)
		}
		s.client.CloseIdle()
	})
}
