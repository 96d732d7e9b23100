package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

// reply is an error that Redis answered.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

// fake is a Redis with a list of failures.
type fake struct {
	errs   []error
	takes  time.Duration
	called []time.Duration // since the beginning
	start  time.Time
}

func (f *fake) process(ctx context.Context, cmd redis.Cmder) error {
	f.called = append(f.called, time.Since(f.start))
	wait(ctx, f.takes)
	var err error
	if len(f.errs) > 0 {
		err, f.errs = f.errs[0], f.errs[1:]
	}
	if err != nil {
		cmd.SetErr(err)
	}
	return err
}

// run sends a command through a hook to a fake Redis, in a bubble with a clock
// of its own. deadline 0: the context has none.
func run(t *testing.T, f *fake, deadline time.Duration, test func(ctx context.Context, send func(args ...any) error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		if deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, deadline)
			defer cancel()
		}
		f.start = time.Now()
		process := new(ServerHook).ProcessHook(f.process)
		test(ctx, func(args ...any) error {
			cmd := redis.NewCmd(ctx, args...)
			err := process(ctx, cmd)
			if !errors.Is(cmd.Err(), err) {
				t.Errorf("the command has %v, the caller %v", cmd.Err(), err)
			}
			return err
		})
	})
}

func after(ms ...int) []time.Duration {
	var ds []time.Duration
	for _, n := range ms {
		ds = append(ds, time.Duration(n)*time.Millisecond)
	}
	return ds
}

var passing = []error{
	io.EOF,
	&net.OpError{Op: "dial", Err: errors.New("connection refused")},
	os.ErrDeadlineExceeded,
	context.DeadlineExceeded, // of the connection, not of the caller
	fmt.Errorf("wrapped: %w", io.ErrUnexpectedEOF),
	reply("OOM command not allowed when used memory > 'maxmemory'."),
	reply("ERR Error running script: OOM command not allowed"),
	reply("LOADING Redis is loading the dataset in memory"),
	reply("READONLY You can't write against a read only replica."),
	reply("MASTERDOWN Link with MASTER is down"),
	reply("CLUSTERDOWN The cluster is down"),
	reply("TRYAGAIN Multiple keys request during rehashing of slot"),
	reply("BUSY Redis is busy running a script."),
	reply("MISCONF Redis is configured to save RDB snapshots"),
	reply("NOREPLICAS Not enough good replicas to write."),
	reply("ERR max number of clients reached"),
	fmt.Errorf("wrapped: %w", reply("LOADING")),
}

var lasting = []error{
	reply("NOT FOUND"),
	reply("NOSCRIPT No matching script. Please use EVAL."),
	reply("ERR Error running script: @user_script:3: wrong"),
	reply("WRONGTYPE Operation against a key"),
	reply("NOAUTH Authentication required."),
	redis.Nil,
	redis.ErrClosed,
	context.Canceled,
	fmt.Errorf("wrapped: %w", context.Canceled),
}

func TestFailingScriptIsRepeatedUntilItSucceeds(t *testing.T) {
	for _, name := range []string{"eval", "evalsha", "EVALSHA"} {
		f := &fake{errs: passing}
		run(t, f, time.Hour, func(_ context.Context, send func(...any) error) {
			if err := send(name, "sha", 0); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		want := after(0, 50, 150, 350, 750, 1550, 2550)
		for len(want) <= len(passing) {
			want = append(want, want[len(want)-1]+time.Second)
		}
		if diff := cmp.Diff(want, f.called); diff != "" {
			t.Errorf("%s was sent at: %s", name, diff)
		}
	}
}

func TestEveryPassingFailureIsRepeated(t *testing.T) {
	for _, failure := range passing {
		f := &fake{errs: []error{failure}}
		run(t, f, time.Minute, func(_ context.Context, send func(...any) error) {
			if err := send("evalsha", "sha", 0); err != nil {
				t.Errorf("%v: %v", failure, err)
			}
		})
		if diff := cmp.Diff(after(0, 50), f.called); diff != "" {
			t.Errorf("%v: sent at: %s", failure, diff)
		}
	}
}

func TestAnswerOfAScriptIsNotRepeated(t *testing.T) {
	for _, answer := range append(lasting, nil) {
		for _, deadline := range []time.Duration{0, time.Minute} {
			f := &fake{errs: []error{answer}}
			run(t, f, deadline, func(_ context.Context, send func(...any) error) {
				if err := send("evalsha", "sha", 0); !errors.Is(err, answer) {
					t.Errorf("%v: %v", answer, err)
				}
				if took := time.Since(f.start); took != 0 {
					t.Errorf("%v: waited %v", answer, took)
				}
			})
			if len(f.called) != 1 {
				t.Errorf("%v: sent %d times", answer, len(f.called))
			}
		}
	}
}

func TestRepetitionEndsWithAnAnswer(t *testing.T) {
	f := &fake{errs: []error{io.EOF, io.EOF, reply("NOT FOUND")}}
	run(t, f, time.Minute, func(_ context.Context, send func(...any) error) {
		if err := send("evalsha", "sha", 0); !errors.Is(err, reply("NOT FOUND")) {
			t.Error(err)
		}
	})
	if diff := cmp.Diff(after(0, 50, 150), f.called); diff != "" {
		t.Errorf("sent at: %s", diff)
	}
}

func TestRepetitionEndsWithTheDeadline(t *testing.T) {
	f := &fake{errs: slices.Repeat([]error{io.EOF}, 100)}
	run(t, f, 3*time.Second, func(_ context.Context, send func(...any) error) {
		if err := send("evalsha", "sha", 0); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if took := time.Since(f.start); took != 3*time.Second {
			t.Errorf("returned after %v", took)
		}
	})
	if diff := cmp.Diff(after(0, 50, 150, 350, 750, 1550, 2550), f.called); diff != "" {
		t.Errorf("sent at: %s", diff)
	}
}

func TestRepetitionEndsWhenTheProcessGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		h := &ServerHook{}
		time.AfterFunc(400*time.Millisecond, h.GiveUp)
		f := &fake{errs: slices.Repeat([]error{io.EOF}, 100), start: time.Now()}
		process := h.ProcessHook(f.process)
		err := process(ctx, redis.NewCmd(ctx, "evalsha", "sha", 0))
		if took := time.Since(f.start); !errors.Is(err, io.EOF) || took > 750*time.Millisecond || len(f.called) < 4 {
			t.Errorf("%v after %v and %d calls", err, took, len(f.called))
		}
		sent := len(f.called)
		if err := process(ctx, redis.NewCmd(ctx, "evalsha", "sha", 0)); !errors.Is(err, errGivenUp) || len(f.called) != sent {
			t.Errorf("%v after %d calls", err, len(f.called)-sent)
		}
	})
}

func TestWithoutADeadlineAScriptWaitsAndFails(t *testing.T) {
	for _, failure := range passing {
		f := &fake{errs: []error{failure, failure}}
		run(t, f, 0, func(_ context.Context, send func(...any) error) {
			if err := send("evalsha", "sha", 0); !errors.Is(err, failure) {
				t.Errorf("%v: %v", failure, err)
			}
			if took := time.Since(f.start); took != 200*time.Millisecond {
				t.Errorf("%v: returned after %v", failure, took)
			}
		})
		if len(f.called) != 1 {
			t.Errorf("%v: sent %d times", failure, len(f.called))
		}
	}
}

func TestEndedContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(70*time.Millisecond, cancel)
		f := &fake{errs: []error{io.EOF}, start: time.Now()}
		err := new(ServerHook).ProcessHook(f.process)(ctx, redis.NewCmd(ctx, "evalsha", "sha", 0))
		if took := time.Since(f.start); !errors.Is(err, io.EOF) || took != 70*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestOnlyScriptsAreRepeated(t *testing.T) {
	for _, args := range [][]any{{"get", "key"}, {"brpop", "key", 0}, {"publish", "asynq:cancel", ""}, {"zadd", "asynq:{cancel}:lease", "xx", 1, "id"}, {"script", "load"}} {
		f := &fake{errs: []error{io.EOF}}
		run(t, f, time.Minute, func(_ context.Context, send func(...any) error) {
			if err := send(args...); !errors.Is(err, io.EOF) {
				t.Errorf("%v: %v", args, err)
			}
			if took := time.Since(f.start); took != 0 {
				t.Errorf("%v: waited %v", args, took)
			}
		})
		if len(f.called) != 1 {
			t.Errorf("%v: sent %d times", args, len(f.called))
		}
	}
}

func TestRenewalOfLeasesIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &ServerHook{}
		f := &fake{takes: 3 * time.Second, start: time.Now()}
		send := func(args ...any) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_ = h.ProcessHook(f.process)(ctx, redis.NewCmd(ctx, args...))
		}
		if got := h.LastRenewal(); !got.IsZero() {
			t.Errorf("renewed at %v before anything", got)
		}
		for _, other := range [][]any{
			{"zadd", "asynq:{cancel}:retry", "xx", 1, "id"},
			{"zadd", "lc:lease", 1, "id"},
			{"zadd", 7, 1, "id"},
			{"zadd"},
			{"zrem", "asynq:{cancel}:lease", "id"},
			{"evalsha", "sha", 1, "asynq:{cancel}:lease"},
		} {
			send(other...)
			if got := h.LastRenewal(); !got.IsZero() {
				t.Errorf("%v renewed a lease", other)
			}
		}
		renewal := []any{"zadd", "asynq:{cancel}:lease", "xx", "GT", 1, "id"}
		for range 2 {
			sent := time.Now()
			send(renewal...)
			if got := h.LastRenewal(); !got.Equal(sent) {
				t.Errorf("renewed %v after it was sent", got.Sub(sent))
			}
		}
		last := h.LastRenewal()
		f.errs = []error{io.EOF}
		send(renewal...)
		if got := h.LastRenewal(); !got.Equal(last) {
			t.Error("a renewal that failed counts")
		}
		send(renewal...)
		if got := h.LastRenewal(); !got.After(last) {
			t.Error("the renewal after it does not count")
		}
	})
}

// seam counts what comes through the hook on a real connection.
type seam struct {
	called int
	then   func(called int)
}

func (s *seam) DialHook(next redis.DialHook) redis.DialHook { return next }
func (s *seam) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (s *seam) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s.called++
		s.then(s.called)
		return next(ctx, cmd)
	}
}

func TestServerClientRepeatsARealScript(t *testing.T) {
	b := Embedded()
	defer b.Close()
	client := b.NewServerClient(&ServerHook{})
	defer client.Close()
	s := &seam{then: func(called int) {
		b.embedded.SetError("")
		if called < 3 {
			b.embedded.SetError("OOM command not allowed")
		}
	}}
	client.AddHook(s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := client.Eval(ctx, "return redis.call('INCR', KEYS[1])", []string{"key"}).Int()
	if got != 1 || err != nil || s.called != 3 {
		t.Errorf("%d, %v after %d calls", got, err, s.called)
	}
	// The other connections of the broker have no such patience.
	b.embedded.SetError("OOM command not allowed")
	if err := b.Client().Eval(ctx, "return 1", nil).Err(); !redis.HasErrorPrefix(err, "OOM") {
		t.Error(err)
	}
}

func TestPipelinesPassUnchanged(t *testing.T) {
	b := Embedded()
	defer b.Close()
	client := b.NewServerClient(&ServerHook{})
	defer client.Close()
	replies, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Set(t.Context(), "key", "value", 0)
		p.Get(t.Context(), "key")
		return nil
	})
	if err != nil || len(replies) != 2 || replies[1].(*redis.StringCmd).Val() != "value" {
		t.Errorf("%v, %v", replies, err)
	}
}
