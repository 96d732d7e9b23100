package ratelimit

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// clockHook runs the fleet's script by a clock of the test's, in place of
// Redis' TIME.
type clockHook struct {
	now    func() time.Time
	client redis.UniversalClient // on which the script runs; nil: the hook's own
}

// byClock is the fleet's script with the time as two more arguments at the end.
var byClock = `
local clock = {ARGV[#ARGV - 1], ARGV[#ARGV]}
ARGV[#ARGV], ARGV[#ARGV - 1] = nil, nil
` + strings.Replace(fleetRulesLua+fleetReserveLua, "redis.call('TIME')", "clock", 1)

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
		now := h.now().UnixMicro()
		args := append([]any{"eval", byClock}, cmd.Args()[2:]...)
		args = append(args, now/1e6, now%1e6)
		timed := redis.NewCmd(ctx, args...)
		run := next
		if h.client != nil {
			run = h.client.Process
		}
		err := run(ctx, timed)
		script.SetVal(timed.Val())
		script.SetErr(timed.Err())
		return err
	}
}
