package ratelimit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
)

// byClock is the fleet's script with the time as two more arguments at the end, in
// place of Redis' TIME. It returns the script's reply, and what the script published.
var byClock = scriptByClock(fleetRulesLua + fleetReserveLua)

func scriptByClock(text string) *redis.Script {
	return redis.NewScript(`
local clock, published = {ARGV[#ARGV - 1], ARGV[#ARGV]}, {}
ARGV[#ARGV], ARGV[#ARGV - 1] = nil, nil
` + history.Lua + edited(text,
		"redis.call('TIME')", "clock",
		"redis.pcall('PUBLISH', key, id)", "published[1] = id",
		"\nreturn reply\n", "\nreturn {reply, published}\n"))
}

func edited(text string, edits ...string) string {
	for i := 0; i < len(edits); i += 2 {
		if strings.Count(text, edits[i]) != 1 {
			panic(fmt.Sprintf("the script does not have %q once", edits[i]))
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// runByClock runs the fleet's script as if the time was now.
func runByClock(ctx context.Context, rdb redis.Scripter, now time.Time, args []any) (reply, published []any, err error) {
	us := now.UnixMicro()
	args = append(args[:len(args):len(args)], us/1e6, us%1e6)
	both, err := byClock.Run(ctx, rdb, []string{fleetKey, history.Key(history.Rate)}, args...).Slice()
	if err != nil {
		return nil, nil, err
	}
	return both[0].([]any), both[1].([]any), nil
}

// clockHook runs a client's calls of the fleet's script by a clock of the test's.
type clockHook struct {
	now func() time.Time
	rdb redis.Scripter // on which the script runs
}

func (h clockHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h clockHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h clockHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		script, ok := cmd.(*redis.Cmd)
		if !ok || cmd.Name() != "evalsha" || cmd.Args()[1] != fleetScript.Hash() {
			return next(ctx, cmd)
		}
		reply, _, err := runByClock(ctx, h.rdb, h.now(), cmd.Args()[5:])
		script.SetVal(reply)
		script.SetErr(err)
		return err
	}
}

// bubbleRedis is an embedded Redis in a bubble.
type bubbleRedis struct {
	*miniredis.Miniredis
	state redis.UniversalClient // of the database with the fleet's key
	away  atomic.Bool           // it answers every command with an error
}

// realRedis is a real Redis for the scripts of many bubbles, which it runs several
// times as fast. It is nil on a machine without one.
type realRedis struct {
	opt  *redis.Options
	used atomic.Int64 // databases
}

func startRealRedis(t *testing.T) *realRedis {
	t.Helper()
	if !redistest.Have(t) {
		return nil
	}
	opt, err := redis.ParseURL(redistest.Start(t, "--databases", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	return &realRedis{opt: opt}
}

// newBubbleRedis starts a Redis for the bubble that calls it. With a real one the fleet's script
// runs there, in a database of its own and by the bubble's clock. Connections and channels are
// always embedded: the bubble's clock does not move while a goroutine waits for the network.
func newBubbleRedis(t *testing.T, real *realRedis) *bubbleRedis {
	b := &bubbleRedis{Miniredis: miniredis.NewMiniRedis()}
	t.Cleanup(b.Close)
	b.state = b.dial(t, nil)
	_ = b.state.Ping(t.Context()) // starts the server
	if real != nil {
		opt := *real.opt
		opt.DB = int(real.used.Add(1))
		opt.ReadTimeout = time.Hour // the machine may be busy
		b.state = redis.NewClient(&opt)
		t.Cleanup(func() { _ = b.state.Close() })
	}
	// One call at a time: go-redis shares the timers of its queue among bubbles.
	var mu sync.Mutex
	b.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		switch {
		case b.away.Load():
			c.WriteError("LOADING Redis is loading the dataset in memory")
			return true
		case real == nil || cmd != "EVALSHA" || args[0] != fleetScript.Hash():
			return false
		}
		var argv []any
		for _, arg := range args[4:] {
			argv = append(argv, arg)
		}
		mu.Lock()
		reply, published, err := runByClock(context.Background(), b.state, time.Now(), argv)
		mu.Unlock()
		if err != nil {
			c.WriteError(err.Error())
			return true
		}
		for _, id := range published {
			b.Publish(fleetKey, id.(string))
		}
		c.WriteLen(len(reply))
		for _, word := range reply {
			c.WriteBulk(word.(string))
		}
		return true
	})
	return b
}
