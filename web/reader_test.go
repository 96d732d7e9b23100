package web

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"linkcancel/internal/testutil"
)

// A reading that may be old, such as that of a batch that has ended, is repeated soon after it has failed.
func TestFailedReadingIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cell[int]
		failing, reads := true, 0
		read := func() (int, error) {
			v, _, err := c.get(t.Context(), time.Hour, func(context.Context) (int, error) {
				if reads++; failing {
					return 0, errors.New("Redis is away")
				}
				return 7, nil
			})
			return v, err
		}
		if _, err := read(); err == nil {
			t.Fatal("no error")
		}
		failing = false
		if _, err := read(); err == nil || reads != 1 {
			t.Fatalf("%d readings in the same moment", reads)
		}
		testutil.Advance(freshFor)
		if v, err := read(); v != 7 || err != nil {
			t.Fatalf("%v after the failure: %d, %v", freshFor, v, err)
		}
		testutil.Advance(time.Hour - time.Second)
		if v, err := read(); v != 7 || err != nil || reads != 2 {
			t.Fatalf("%d, %v after %d readings", v, err, reads)
		}
	})
}
