package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// viewers is how many people look at the page of a batch at once.
const viewers = 10

// measurePages: how long the page of a batch of a million links takes, half of which have ended, and
// what ten viewers cost while it moves.
func (b *bench) measurePages(ctx context.Context) error {
	links, length := b.pick(1_000_000, 20_000), time.Duration(b.pick(20, 2))*time.Second
	r, err := b.startRedis(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	if err := b.importLinks(ctx, r, "bench", 0, links); err != nil {
		return err
	}
	if err := b.drainHalf(ctx, r, links); err != nil {
		return err
	}
	return b.interleave([]string{"the first time", "again", fmt.Sprint(viewers, " viewers"), "no viewer"}, func(name string) error {
		port, err := freePort()
		if err != nil {
			return err
		}
		site := fmt.Sprintf("http://127.0.0.1:%d", port)
		server, err := start(b.linkcancel("serve", "--no-auth", "--addr", fmt.Sprintf("127.0.0.1:%d", port), "--redis-url", r.url()))
		if err != nil {
			return err
		}
		defer func() { _ = server.stop() }()
		if _, err := server.line(ctx); err != nil {
			return err
		}
		switch name {
		case "the first time", "again":
			took, err := timePage(ctx, site, name == "again")
			b.add("page", name, sample{"seconds": took.Seconds()})
			return err
		}
		s, err := b.watchViewers(ctx, r, server, site, name != "no viewer", length)
		b.add("page", name, s)
		return err
	})
}

// drainHalf lets a worker cancel half of the links.
func (b *bench) drainHalf(ctx context.Context, r *redisServer, links int) error {
	w, err := start(b.worker(r.url(), "100000/s", 50, "--metrics-addr", "off"))
	if err != nil {
		return err
	}
	for done := 0; done < links/2; {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			w.kill()
			return err
		}
		if done, err = r.client.HGet(ctx, "lc:{bench}", "cancelled").Int(); err != nil {
			w.kill()
			return fmt.Errorf("ask for the batch: %w", err)
		}
	}
	return w.stop()
}

// timePage gets the page of the batch. again: for the second time.
func timePage(ctx context.Context, site string, again bool) (took time.Duration, err error) {
	for range 2 {
		began := time.Now()
		body, err := get(ctx, site+"/batches/bench")
		if err != nil {
			return 0, err
		}
		defer body.Close()
		page, err := io.ReadAll(body)
		if err != nil || !bytes.Contains(page, []byte("Throughput")) {
			return 0, fmt.Errorf("the page is %.200s: %w", page, err)
		}
		if took = time.Since(began); !again {
			break
		}
	}
	return took, nil
}

func get(ctx context.Context, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return answer.Body, nil
}

// watchViewers counts what the server uses while the batch moves each second.
func (b *bench) watchViewers(ctx context.Context, r *redisServer, server *process, site string, look bool, length time.Duration) (sample, error) {
	looking, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	var events atomic.Int64
	for range viewers {
		if !look {
			break
		}
		stream, err := get(looking, site+"/live?page=/batches/bench")
		if err != nil {
			return nil, err
		}
		group.Go(func() error {
			defer stream.Close()
			for lines := bufio.NewScanner(stream); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "data:") {
					events.Add(1)
				}
			}
			return nil
		})
	}
	if err := pause(ctx, 2*time.Second); err != nil { // the records are read
		return nil, err
	}
	moves := 0
	moving, stand := context.WithCancel(ctx)
	group.Go(func() error {
		for pause(moving, time.Second) == nil {
			if err := r.client.HIncrBy(ctx, "lc:{bench}", "cancelled", 1).Err(); err != nil {
				return err
			}
			moves++
		}
		return nil
	})
	before, began := cpuNow(server.cmd.Process.Pid), events.Load()
	n, err := r.watchCommands(ctx, length)
	used, seen := cpuNow(server.cmd.Process.Pid)-before, events.Load()-began
	stand()
	stop()
	if ended := group.Wait(); err == nil {
		err = ended
	}
	if err != nil {
		return nil, fmt.Errorf("watch the viewers: %w", err)
	}
	return sample{
		"commands/s": float64(n-moves) / length.Seconds(), "share": used / length.Seconds(), "events/s": float64(seen) / length.Seconds(),
	}, nil
}

// cpuNow is the processor time that a running process has used, in seconds.
func cpuNow(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	const ticks = 100 // a second, on Linux
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}
