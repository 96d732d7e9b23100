package worker

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"linkcancel/internal/ledger"
	"linkcancel/internal/testutil"
)

func TestFailuresAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log testutil.Log
		f := failures{level: slog.LevelWarn, log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))}
		add := func(n int, link string, o ledger.Outcome, status, attempts int) {
			for range n {
				f.add(ledger.Entry{Batch: "b", Link: link, Error: "why", Record: ledger.Record{Outcome: o, HTTPStatus: status, Attempts: uint8(attempts)}})
			}
		}
		logged := func(want string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, log.Take()); diff != "" {
				t.Error(diff)
			}
		}
		add(500, "pl_ok", ledger.Cancelled, 204, 1)
		add(30, "pl_1", ledger.None, 500, 1)
		time.Sleep(time.Hour)
		logged("") // the API fails now and then

		add(1, "pl_2", ledger.None, 500, 1)
		add(3, "pl_3", ledger.Rejected, 422, 1)
		logged("")
		time.Sleep(failuresGather)
		logged("level=WARN msg=\"links fail\" kinds=\"rejected, 422: 3; tried again, 500: 1\" batch=b link=pl_3 status=422 error=why\n")
		time.Sleep(time.Second / 2)
		for range 120 { // two minutes
			add(1, "pl_4", ledger.Failed, 0, 12)
			time.Sleep(time.Second)
		}
		logged(strings.Repeat("level=WARN msg=\"links fail\" kinds=\"failed, no answer: 60\" batch=b link=pl_4 status=0 error=why\n", 2))

		add(25, "pl_5", ledger.None, 503, 1) // no other answers: many
		add(5, "pl_6", ledger.None, 429, 0)  // given back
		f.flush()
		logged("level=WARN msg=\"many requests fail, and are tried again\" kinds=\"tried again, 503: 25\" batch=b link=pl_5 status=503 error=why\n")
		f.flush()
		logged("")
	})
}
