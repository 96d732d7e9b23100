package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// pacedRates are the rates, in links a second, that APIs such as this one allow.
var pacedRates = []int{10, 50, 200, 1000}

// pacedTimes is how often each rate is measured: each time lasts long enough to be a mean.
const pacedTimes = 2

// measurePaced: what it costs to cancel links at a fixed rate, while many wait.
func (b *bench) measurePaced(ctx context.Context) error {
	contenders := b.contenders()
	rates := pacedRates
	if b.quick {
		rates = rates[2:3]
	}
	for _, rate := range rates {
		if !wanted(b.settingNames, strconv.Itoa(rate)) {
			continue
		}
		err := b.interleaveTimes(pacedTimes, []string{product, plainLoop, stockAsynq}, func(name string) error {
			got, err := b.paced(ctx, contenders[name], rate)
			if err != nil {
				return fmt.Errorf("%s at %d/s: %w", name, rate, err)
			}
			b.add(pacedHeading(rate), name, got)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func pacedHeading(rate int) string { return fmt.Sprintf("paced %d", rate) }

// paced measures the processor time of a contender and of its Redis during some seconds at a rate.
func (b *bench) paced(ctx context.Context, c contender, rate int) (sample, error) {
	const warm = 3 * time.Second
	window := time.Duration(b.pick(12, 2)) * time.Second
	links := rate * int((warm+window).Seconds()+10)
	manifest, err := b.writeManifest(0, links)
	if err != nil {
		return nil, err
	}
	p := &place{bench: b, job: job{links: links, concurrency: 50, rate: rate}, manifest: manifest}
	if c.redis {
		if p.redis, err = b.startRedis(ctx); err != nil {
			return nil, err
		}
		defer p.redis.close()
		p.redisAddr = p.redis.addr
	}
	if c.queue != nil {
		if err := c.queue(ctx, p); err != nil {
			return nil, fmt.Errorf("queue the work: %w", err)
		}
	}
	if err := b.api.reset(ctx, 0, 20*time.Millisecond, false); err != nil {
		return nil, err
	}
	worker, err := start(c.command(p))
	if err != nil {
		return nil, err
	}
	defer worker.kill()
	ready, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := b.api.awaitLinks(ready, 1); err != nil {
		return nil, err
	}
	if err := pause(ctx, warm); err != nil {
		return nil, err
	}
	profiled := func() {}
	if b.profile != "" && c.pprof {
		profiled = b.saveProfile(ctx)
	}
	defer profiled()
	before, err := b.look(ctx, p, worker)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, window); err != nil {
		return nil, err
	}
	after, err := b.look(ctx, p, worker)
	if err != nil {
		return nil, err
	}
	seconds := after.at.Sub(before.at).Seconds()
	s := sample{
		"links/s":    float64(after.links-before.links) / seconds,
		"cpu worker": (after.worker - before.worker) / seconds,
		"cpu":        (after.worker - before.worker + after.redis.cpu - before.redis.cpu) / seconds,
	}
	if c.redis {
		s["cpu redis"] = (after.redis.cpu - before.redis.cpu) / seconds
		s["commands/s"] = float64(after.redis.commands-before.redis.commands-1) / seconds // without the question itself
	}
	return s, nil
}

// seenAt is what was used up to a time.
type seenAt struct {
	at     time.Time
	links  int
	worker float64 // seconds of processor time
	redis  usage
}

func (b *bench) look(ctx context.Context, p *place, worker *process) (s seenAt, err error) {
	t, err := b.api.tally(ctx)
	if err != nil {
		return s, err
	}
	s.at, s.links = time.Now(), t.Distinct
	if s.worker, err = cpuOf(worker.cmd.Process.Pid); err != nil {
		return s, err
	}
	s.redis, err = p.usage(ctx)
	return s, err
}

// cpuOf is the processor time, in seconds, that a running process has used. The kernel counts it exactly
// and shows it in hundredths of a second.
func cpuOf(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name may have spaces
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the processor time of %d: %q", pid, text)
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100, nil
}
