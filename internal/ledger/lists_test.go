package ledger

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/history"
	"linkcancel/internal/redistest"
)

// before is a hook that does something once, before a client sends a certain command.
type before struct {
	command string
	do      func()
}

func (b *before) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b *before) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if do := b.do; do != nil && cmd.Name() == b.command {
			b.do = nil
			do()
		}
		return next(ctx, cmd)
	}
}

func (b *before) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if do := b.do; do != nil && cmd.Name() == b.command {
				b.do = nil
				do()
			}
		}
		return next(ctx, cmds)
	}
}

// slowly returns the ledger of another process, which is overtaken before it sends a command.
func (l *bench) slowly(command string, overtake func()) *Ledger {
	l.Helper()
	hook := &before{command: command, do: overtake}
	client := l.otherClient()
	client.AddHook(hook)
	l.Cleanup(func() {
		if hook.do != nil {
			l.Errorf("no %s was sent", command)
		}
	})
	return New(client)
}

// A process that removes a batch may be overtaken by an import of the same id.
func TestRemovalIsOvertaken(t *testing.T) {
	var want []string
	// again makes the batch "b" as another import would, with 1,500 links.
	again := func(l *bench) func() {
		return func() {
			l.batch("b", 1500, false)
			want = l.keys()
		}
	}
	whole := func(l *bench) {
		l.Helper()
		l.equal("keys", want, l.keys())
		if ttl := l.rdb.PTTL(l.Context(), "lc:{b}:h").Val(); ttl != -1 {
			l.Errorf("its history expires in %v", ttl)
		}
		for _, list := range []func(context.Context) ([]Batch, error){l.List, func(ctx context.Context) ([]Batch, error) { return l.Unfinished(ctx) }} {
			all, err := list(l.Context())
			l.must(err)
			l.equal("listed", []Batch{l.get("b")}, all)
		}
		n := 0
		for _, err := range l.AllLinks(l.Context(), l.get("b")) {
			l.must(err)
			n++
		}
		l.equal("links", 1500, n)
	}
	finished := func(l *bench) Batch {
		l.batch("b", 2, false)
		l.commit(outcomes(Cancelled, 0, 2)...)
		return l.get("b")
	}
	// forget lets two minutes pass after a deletion.
	forget := func(l *bench) {
		for _, key := range []string{"lc:{b}:gone", keyDeleted} {
			l.must(l.rdb.Del(l.Context(), key).Err())
		}
	}
	// deleted deletes the batch "b" as another process, and waits until its id is free.
	deleted := func(l *bench) {
		l.must(l.Delete(l.Context(), l.get("b"), history.By{Actor: "ann"}, time.Hour))
		forget(l)
	}
	hold(t, []rule{
		{"a leader that saw the discarded one", func(l *bench) {
			l.must(l.rdb.SAdd(l.Context(), keyOpen, "b").Err())
			_, err := l.slowly("srem", again(l)).Unfinished(l.Context())
			l.must(err)
			whole(l)
		}},
		{"an importer that discards, before it", func(l *bench) {
			d := l.draft(1500)
			d.l = l.slowly("evalsha", func() {
				l.must(l.discardDead("b"))
				again(l)()
			})
			l.must(d.Discard(l.Context()))
			whole(l)
		}},
		{"an importer that discards, within it", func(l *bench) {
			for _, command := range []string{"srem", "zrem"} {
				d := l.draft(1500)
				d.l = l.slowly(command, again(l))
				l.must(d.Discard(l.Context()))
				whole(l)
				redistest.Flush(l.T, l.rdb)
			}
		}},
		{"an importer whose discard was not answered", func(l *bench) {
			d := l.draft(1500)
			l.must(d.Discard(l.Context()))
			again(l)()
			l.must(d.Discard(l.Context()))
			whole(l)
		}},
		{"a leader that discards a dead import", func(l *bench) {
			l.draft(1500)
			_, err := l.slowly("srem", again(l)).DiscardDead(l.Context(), "b", 0)
			l.must(err)
			whole(l)
		}},
		{"a leader that retires", func(l *bench) {
			b := finished(l)
			l.must(l.slowly("evalsha", func() { deleted(l); again(l)() }).Retire(l.Context(), b, time.Hour))
			whole(l)
		}},
		{"somebody who deletes", func(l *bench) {
			for _, command := range []string{"zadd", "srem", "zrem"} {
				b := finished(l)
				slow := l.slowly(command, func() {
					if command == "zadd" {
						deleted(l)
					}
					forget(l)
					again(l)()
				})
				l.must(slow.Delete(l.Context(), b, history.By{Actor: "ann"}, time.Hour))
				l.must(l.rdb.Persist(l.Context(), "lc:{b}:h").Err()) // its end is that of the deleted one
				forget(l)
				whole(l)
				redistest.Flush(l.T, l.rdb)
			}
		}},
		{"a leader that prunes", func(l *bench) {
			l.must(l.rdb.ZAdd(l.Context(), keyBatches, redis.Z{Score: 1, Member: "b"}).Err())
			l.must(l.slowly("srem", again(l)).Prune(l.Context()))
			whole(l)
		}},
		{"a process that dies before it looks again", func(l *bench) {
			for _, command := range []string{"hmget", "zrem"} {
				ctx, cancel := context.WithCancel(l.Context())
				l.must(l.rdb.SAdd(l.Context(), keyOpen, "b").Err())
				l.must(l.rdb.ZAdd(l.Context(), keyBatches, redis.Z{Score: 1, Member: "b"}).Err())
				dying := l.slowly("srem", again(l))
				dying.rdb.AddHook(&before{command: command, do: cancel})
				if err := dying.unlist(ctx, "b"); !errors.Is(err, context.Canceled) {
					l.Fatal(err)
				}
				_, err := l.Relist(l.Context())
				l.must(err)
				whole(l)
				redistest.Flush(l.T, l.rdb)
			}
		}},
	})
}
