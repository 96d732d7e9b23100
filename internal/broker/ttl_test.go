package broker

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A command to the embedded Redis must not look at every key. TTLs advance from time to time only.
func TestCommandToTheEmbeddedRedisCostsTheSameWithManyKeys(t *testing.T) {
	const keys, commands = 20_000, 500
	b := Embedded()
	defer b.Close()
	if _, err := b.Client().Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range keys {
			p.Set(t.Context(), fmt.Sprint(i), "x", time.Hour)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range commands {
		if err := b.Client().Get(t.Context(), "1").Err(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// A list of all keys takes 16 bytes for each.
	if got := (after.TotalAlloc - before.TotalAlloc) / commands; got > keys*16/2 {
		t.Errorf("a command allocates %d bytes", got)
	}
}

func TestKeysOfTheEmbeddedRedisExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Embedded()
		defer b.Close()
		rdb := b.Client()
		if err := rdb.Set(t.Context(), "key", "x", 5*time.Second).Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Second - time.Millisecond)
		if left, err := rdb.PTTL(t.Context(), "key").Result(); left != time.Millisecond || err != nil {
			t.Errorf("%v are left, %v", left, err)
		}
		time.Sleep(time.Millisecond)
		if n, err := rdb.Exists(t.Context(), "key").Result(); n != 0 || err != nil {
			t.Errorf("%d keys at the end, %v", n, err)
		}
	})
}

// When advancing takes long, it is done less often, and nothing of the time is lost.
func TestTTLClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		clock := &ttlClock{server: server, at: time.Now(), step: ttlStepMost}
		if err := server.Set("key", "x"); err != nil {
			t.Fatal(err)
		}
		server.SetTTL("key", time.Second)
		after := func(d, want time.Duration) {
			t.Helper()
			time.Sleep(d)
			clock.advance()
			if got := server.TTL("key"); got != want {
				t.Errorf("%v are left, want %v", got, want)
			}
		}
		after(ttlStepMost, time.Second)
		after(time.Millisecond, time.Second-ttlStepMost-time.Millisecond)
		// It took no time, so the next step may follow at once.
		after(time.Millisecond, time.Second-ttlStepMost-2*time.Millisecond)
	})
}
