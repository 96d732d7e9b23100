package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"linkcancel/internal/history"
)

const (
	live    = "https://api.plexypay.com/v1"
	staging = "https://staging.plexypay.com/v1"
)

func (l *bench) api() API {
	l.Helper()
	got, err := l.API(l.Context())
	l.must(err)
	return got
}

// refused checks that the fleet works on one API, and another is not taken for it.
func (l *bench) otherAPI(err error, has, wants string) {
	l.Helper()
	var other *OtherAPIError
	if !errors.As(err, &other) {
		l.Fatalf("error %v", err)
	}
	l.equal("the API", OtherAPIError{Has: has, Wants: wants}, *other)
	if text := err.Error(); !strings.Contains(text, has) || !strings.Contains(text, wants) {
		l.Errorf("the error does not name both: %s", text)
	}
}

// quiet makes the claim of the API an old one.
func (l *bench) quiet() {
	l.Helper()
	l.set(keyAPI, "claimed", l.ago(claimValid))
}

func TestAPI(t *testing.T) {
	ignoreTimes := cmpopts.IgnoreFields(API{}, "Since")
	hold(t, []rule{
		{"none at first, and the first claim binds", func(l *bench) {
			l.equal("none", API{}, l.api())
			before := l.ago(0)
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			got := l.api()
			l.equal("claimed", API{URL: live}, got, ignoreTimes)
			if got.Since.UnixMilli() < before {
				l.Errorf("since %v", got.Since)
			}
			l.set(keyAPI, "since", 123)
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.equal("claimed again", API{URL: live, Since: time.UnixMilli(123).UTC()}, l.api())
		}},
		{"of two that claim at once one is refused", func(l *bench) {
			urls := []string{live, staging}
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for i := range urls {
				wg.Go(func() { errs[i] = l.ClaimAPI(l.Context(), urls[i], history.By{Actor: "ann"}) })
			}
			wg.Wait()
			won := 0
			if errs[0] != nil {
				won = 1
			}
			l.must(errs[won])
			l.otherAPI(errs[1-won], urls[won], urls[1-won])
			l.equal("claimed", API{URL: urls[won]}, l.api(), ignoreTimes)
		}},
		{"a claim is replaced when nothing is bound to it", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.must(l.ProveAPI(l.Context(), live))
			l.otherAPI(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}), live, staging) // a moment ago
			l.quiet()
			before := l.ago(0)
			l.must(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}))
			got := l.api()
			l.equal("replaced", API{URL: staging}, got, ignoreTimes)
			if got.Since.UnixMilli() < before {
				l.Errorf("since %v", got.Since)
			}
			l.otherAPI(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}), staging, live) // and keeps others out
		}},
		{"a claim that is renewed keeps others out", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.quiet()
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.otherAPI(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}), live, staging)
		}},
		{"a refused claim does not", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.batch("b", 1, false)
			l.quiet()
			l.otherAPI(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}), live, staging)
			l.commit(outcomes(Cancelled, 0, 1)...)
			l.must(l.Retire(l.Context(), l.get("b"), time.Hour))
			l.must(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}))
		}},
		{"not with an open batch, whatever its state", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.quiet()
			l.create(DraftConfig{ID: "b"})
			l.otherAPI(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}), live, staging)
			l.must(l.discardDead("b"))
			l.watched(60)
			l.commit(outcomes(NotFound, 0, 50)...)
			l.otherAPI(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}), live, staging)
		}},
		{"not with a worker alive, of whatever release", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.quiet()
			l.set(keyWorkers, "old", fmt.Sprintf(`%d {"id":"old","rate":10}`, l.ago(time.Second)))
			l.otherAPI(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}), live, staging)
			l.set(keyWorkers, "old", fmt.Sprintf(`%d {"id":"old","rate":10}`, l.ago(heartbeatTTL+time.Second)))
			l.must(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}))
		}},
		{"one that claims between keeps it", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.quiet()
			// As if it looked before, and wrote after.
			has, err := l.writeAPI(l.Context(), "claim", staging, history.By{Actor: "ann"}, "", 0)
			l.must(err)
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			has, err = l.writeAPI(l.Context(), "claim", staging, history.By{Actor: "ann"}, has, claimValid.Milliseconds())
			l.must(err)
			l.equal("the API", live, has)
			// Or set another one.
			l.must(l.SetAPI(l.Context(), "https://third", history.By{Actor: "ann"}))
			l.quiet()
			has, err = l.writeAPI(l.Context(), "claim", staging, history.By{Actor: "ann"}, live, claimValid.Milliseconds())
			l.must(err)
			l.equal("the API", "https://third", has)
		}},
		{"it is set by command, but not under a worker", func(l *bench) {
			l.must(l.SetAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.equal("set", API{URL: live}, l.api(), ignoreTimes)
			has, err := l.writeAPI(l.Context(), "set", staging, history.By{Actor: "ann"}, "123") // and was claimed since
			l.must(err)
			l.equal("just claimed", live, has)
			l.running(3) // an open batch is no obstacle
			l.must(l.Heartbeat(l.Context(), WorkerBeat{ID: "w1"}))
			err = l.SetAPI(l.Context(), staging, history.By{Actor: "ann"})
			l.fails("set", err, ErrWorkersAlive)
			if !strings.Contains(err.Error(), "w1") {
				l.Error(err)
			}
			l.equal("refused", API{URL: live}, l.api(), ignoreTimes)
			l.must(l.Deregister(l.Context(), "w1"))
			l.must(l.SetAPI(l.Context(), staging, history.By{Actor: "ann"}))
			l.equal("set", API{URL: staging}, l.api(), ignoreTimes)
			l.must(l.ClaimAPI(l.Context(), staging, history.By{Actor: "ann"}))
			l.otherAPI(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}), staging, live)
		}},
		{"evidence is remembered once a URL", func(l *bench) {
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			before := l.ago(0)
			l.must(l.ProveAPI(l.Context(), live))
			if got := l.api(); got.Proved.UnixMilli() < before {
				l.Errorf("proved %v", got.Proved)
			}
			l.set(keyAPI, "proved", 123)
			l.must(l.ProveAPI(l.Context(), live))
			l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.must(l.SetAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.equal("proved", int64(123), l.api().Proved.UnixMilli())
			l.otherAPI(l.ProveAPI(l.Context(), staging), live, staging)
			l.must(l.SetAPI(l.Context(), staging, history.By{Actor: "ann"}))
			l.equal("of another", API{URL: staging}, l.api(), ignoreTimes)
			l.otherAPI(l.ProveAPI(l.Context(), live), staging, live)
			l.must(l.SetAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.equal("and back", API{URL: live}, l.api(), ignoreTimes)
		}},
		{"evidence of a URL that nobody claimed binds", func(l *bench) {
			l.must(l.ProveAPI(l.Context(), live))
			got := l.api()
			l.equal("the API", live, got.URL)
			if got.Proved.IsZero() || got.Since.IsZero() {
				l.Errorf("%+v", got)
			}
		}},
		{"the salt is one, and stays", func(l *bench) {
			salts := make([][]byte, 8)
			var wg sync.WaitGroup
			for i := range salts {
				wg.Go(func() {
					salt, err := l.Salt(l.Context())
					if err != nil {
						l.Error(err)
					}
					salts[i] = salt
				})
			}
			wg.Wait()
			l.must(l.SetAPI(l.Context(), live, history.By{Actor: "ann"}))
			l.must(l.SetAPI(l.Context(), staging, history.By{Actor: "ann"}))
			later, err := l.Salt(l.Context())
			l.must(err)
			for _, salt := range salts {
				l.equal("salt", later, salt)
			}
			l.equal("bytes", 16, len(later))
			l.set(keyAPI, "salt", "00")
			if _, err := l.Salt(l.Context()); err == nil {
				l.Error("a damaged salt is taken")
			}
			l.must(l.rdb.HDel(l.Context(), keyAPI, "salt").Err())
			if other, err := l.Salt(l.Context()); err != nil || string(other) == string(later) {
				l.Errorf("not random: %x, %v", other, err)
			}
		}},
	})
}

// Who looks away from Redis while it claims learns of it.
func TestAPIWithoutRedis(t *testing.T) {
	hold(t, []rule{{"cancelled", func(l *bench) {
		l.must(l.ClaimAPI(l.Context(), live, history.By{Actor: "ann"}))
		ctx, cancel := context.WithCancel(l.Context())
		cancel()
		var other *OtherAPIError
		if err := l.ClaimAPI(ctx, staging, history.By{Actor: "ann"}); err == nil || errors.As(err, &other) {
			l.Errorf("claim: %v", err)
		}
	}}})
}
