package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A drain is measured at the stand-in, and in the same way for all: the work lies where the
// contender looks for it (in its queue, or in a file), the contender's process starts, and the time
// runs from the arrival of the first DELETE to the answer to the last. Processor time and memory
// are those of the whole life of the process.

// job is one drain.
type job struct {
	links       int // that wait
	most        int // ends after so many; 0: all
	concurrency int
	rate        int           // links a second; 0: no limit
	latency     time.Duration // of the API
	distance    time.Duration // to Redis, one way
	redisArgs   []string
}

// want is how many links are drained.
func (j job) want() int {
	if j.most == 0 {
		return j.links
	}
	return min(j.most, j.links)
}

// place is where a contender does a job.
type place struct {
	*bench
	job
	manifest  string
	redis     *redisServer // nil for those without
	redisAddr string       // with the distance
	postgres  *postgres    // nil for those without
}

// setting is a named set of drains: one job for several contenders.
type setting struct {
	name       string
	contenders []string
	job        job
	few        map[string]int // links of contenders that are too slow for all
}

// farRedis is the distance of a Redis that is 1.3 ms away, as in another zone of a cloud.
const farRedis = 650 * time.Microsecond

func (b *bench) settings() []setting {
	n := b.pick(50_000, 2_000)
	everyone := []string{product, plainLoop, ownLoop, stockAsynq, gocraftWork, redpanda, riverQueue, parallelCurl}
	return []setting{
		{name: "near", contenders: everyone, job: job{links: n, concurrency: 50}},
		// A stock server takes a minute for 50,000, at the same speed as for 10,000.
		{name: "far", contenders: []string{product, stockAsynq}, few: map[string]int{stockAsynq: n / 5},
			job: job{links: n, concurrency: 50, distance: farRedis}},
		{name: "20ms", contenders: []string{product, plainLoop, stockAsynq},
			job: job{links: n, concurrency: 50, latency: 20 * time.Millisecond}},
		{name: "20ms-200", contenders: []string{product, plainLoop},
			job: job{links: n, concurrency: 200, latency: 20 * time.Millisecond}},
	}
}

// measureDrains: how fast links that wait are cancelled.
func (b *bench) measureDrains(ctx context.Context) error {
	contenders := b.contenders()
	for _, s := range b.settings() {
		if !wanted(b.settingNames, s.name) {
			continue
		}
		here := slices.DeleteFunc(s.contenders, func(name string) bool { return contenders[name].command == nil })
		err := b.interleave(here, func(name string) error {
			j := s.job
			if n, ok := s.few[name]; ok {
				j.links = n
			}
			if b.drainLinks > 0 {
				j.links = b.drainLinks
			}
			got, err := b.drain(ctx, contenders[name], j)
			if err != nil {
				return err
			}
			b.add("drain "+s.name, name, got)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measureAOF: what it costs when Redis keeps its data on disk.
func (b *bench) measureAOF(ctx context.Context) error {
	return b.interleave([]string{"no", "everysec", "always"}, func(name string) error {
		j := job{links: b.pick(50_000, 2_000), concurrency: 50}
		if name != "no" {
			j.redisArgs = []string{"--appendonly", "yes", "--appendfsync", name}
		}
		got, err := b.drain(ctx, linkcancelContender(), j)
		if err != nil {
			return err
		}
		b.add("aof", name, got)
		return nil
	})
}

// drain does one job and returns what it cost.
func (b *bench) drain(ctx context.Context, c contender, j job) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	manifest, err := b.writeManifest(0, j.links)
	if err != nil {
		return nil, err
	}
	p := &place{bench: b, job: j, manifest: manifest}
	if c.redis {
		if p.redis, err = b.startRedis(ctx, j.redisArgs...); err != nil {
			return nil, err
		}
		defer p.redis.close()
		p.redisAddr = p.redis.addr
	}
	if c.postgres {
		if p.postgres, err = b.startPostgres(ctx); err != nil {
			return nil, err
		}
		defer p.postgres.close()
	}
	empty, err := p.usage(ctx)
	if err != nil {
		return nil, err
	}
	if c.queue != nil {
		if err := c.queue(ctx, p); err != nil {
			return nil, fmt.Errorf("%s: queue the work: %w", c.name, err)
		}
	}
	s := sample{}
	if c.redis && j.distance > 0 {
		distant, err := b.startDelay(ctx, p.redis.addr, j.distance)
		if err != nil {
			return nil, err
		}
		defer func() { _ = distant.stop() }()
		p.redisAddr, s["round trip"] = distant.addr, distant.roundTrip.Seconds()
	}
	waiting, err := p.usage(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.api.reset(ctx, j.want(), j.latency, false); err != nil {
		return nil, err
	}
	worker, err := start(c.command(p))
	if err != nil {
		return nil, err
	}
	defer func() { _ = worker.stop() }()
	profiled := func() {}
	if b.profile != "" && c.pprof {
		profiled = b.saveProfile(ctx)
	}
	seen, err := b.api.done(ctx, worker)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	profiled()
	if c.check != nil {
		if err := c.check(ctx, p); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if c.ends {
		err = worker.wait()
	} else {
		err = worker.stop()
	}
	if err != nil {
		return nil, err
	}
	// Until it ended it may have cancelled more than was waited for.
	all, err := b.api.tally(ctx)
	if err != nil {
		return nil, err
	}
	if all.Strange > 0 {
		return nil, fmt.Errorf("%s: %d requests were no DELETE of a link", c.name, all.Strange)
	}
	after, err := p.usage(ctx)
	if err != nil {
		return nil, err
	}
	per10k := 10_000 / float64(all.Distinct)
	s["links/s"] = float64(j.want()) / seen.seconds()
	s["cpu worker"] = worker.cpu() * per10k
	s["cpu"] = (worker.cpu() + after.cpu - waiting.cpu) * per10k
	s["peak"] = float64(worker.peak.Load())
	s["twice"] = float64(all.Requests - all.Distinct)
	if c.redis {
		s["cpu redis"] = (after.cpu - waiting.cpu) * per10k
		s["commands"] = float64(after.commands-waiting.commands) / float64(all.Distinct)
		s["bytes waiting"] = float64(waiting.memory-empty.memory) / float64(j.links)
		if j.want() == j.links {
			s["bytes done"] = float64(after.memory-empty.memory) / float64(j.links)
		}
	}
	return s, nil
}

// usage is what a job's database has used so far.
type usage struct {
	cpu      float64 // seconds
	memory   int64   // of the data in Redis, in bytes
	commands int64   // of Redis, those inside scripts too
}

func (p *place) usage(ctx context.Context) (usage, error) {
	switch {
	case p.redis != nil:
		return p.redis.usage(ctx)
	case p.postgres != nil:
		return usage{cpu: p.postgres.usedCPU()}, nil
	}
	return usage{}, nil
}
