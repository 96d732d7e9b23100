package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// The contenders, as tables and plots name them.
const (
	product      = "linkcancel"
	plainLoop    = "loop"
	ownLoop      = "loop with our client"
	stockAsynq   = "asynq"
	gocraftWork  = "gocraft/work"
	redpanda     = "Redpanda Connect"
	riverQueue   = "River"
	parallelCurl = "curl -Z"
)

// apiKey is what all contenders send. The stand-in takes any.
const apiKey = "benchmark-key-0123456789abcdef"

// contender is one way to do a job.
type contender struct {
	name     string
	redis    bool
	postgres bool
	queue    func(context.Context, *place) error // puts the work where the contender finds it
	command  func(*place) *exec.Cmd
	check    func(context.Context, *place) error // what must hold afterwards
	ends     bool                                // its process ends when the work is done
	pprof    bool                                // it serves CPU profiles
}

// contenders are all that can run on this machine, by name. What cannot is noted as left out.
func (b *bench) contenders() map[string]contender {
	all := map[string]contender{}
	for _, c := range []contender{
		linkcancelContender(),
		loopContender(plainLoop, "plain"),
		loopContender(ownLoop, "own"),
		asynqContender(),
		workContender(),
		connectContender(),
		riverContender(),
		curlContender(),
	} {
		all[c.name] = c
	}
	if postgresTool("initdb") == "" {
		delete(all, riverQueue)
		b.leaveOut(riverQueue, "no PostgreSQL is installed (apt-get install postgresql)")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		delete(all, parallelCurl)
		b.leaveOut(parallelCurl, "curl is not installed")
	}
	return all
}

// linkcancelContender is the product: ledger, fleet limit and all.
func linkcancelContender() contender {
	const batch = "bench"
	return contender{
		name: product, redis: true, pprof: true,
		queue: func(ctx context.Context, p *place) error {
			return p.runLinkcancel(ctx, "import", "--yes", "--id", batch, "--redis-url", p.redis.url(), p.manifest)
		},
		command: func(p *place) *exec.Cmd {
			return p.worker("redis://"+p.redisAddr+"/0", fmt.Sprintf("%d/s", cmp.Or(p.rate, 1_000_000)), p.concurrency, p.metricsFlags()...)
		},
		check: func(ctx context.Context, p *place) error {
			if p.links > p.want() {
				return nil // the rest waits
			}
			return p.redis.awaitDone(ctx, batch, p.links)
		},
	}
}

// loopContender is a loop in the shop's own program: no queue, no limit, no
// memory. With the product's client it shows what that costs.
func loopContender(name, client string) contender {
	return contender{
		name: name, ends: true,
		command: func(p *place) *exec.Cmd {
			return self("loop", client, p.api.base(), p.manifest, strconv.Itoa(p.concurrency), strconv.Itoa(p.rate))
		},
	}
}

// asynqContender is a stock asynq.Server, one link a task, with the product's HTTP client.
func asynqContender() contender {
	return contender{
		name: stockAsynq, redis: true,
		queue: func(ctx context.Context, p *place) error {
			return runSelf(ctx, "asynq-enqueue", p.redis.addr, p.manifest)
		},
		command: func(p *place) *exec.Cmd {
			return self("asynq-work", p.redisAddr, p.api.base(), strconv.Itoa(p.concurrency), strconv.Itoa(p.rate))
		},
	}
}

// workContender is gocraft/work, one link a job, with the product's HTTP client.
func workContender() contender {
	return contender{
		name: gocraftWork, redis: true,
		queue: func(ctx context.Context, p *place) error {
			return runSelf(ctx, "work-enqueue", p.redis.addr, p.manifest)
		},
		command: func(p *place) *exec.Cmd {
			return self("work-work", p.redisAddr, p.api.base(), strconv.Itoa(p.concurrency))
		},
	}
}

// connectContender is the core of Redpanda Connect: a CSV file to DELETEs.
func connectContender() contender {
	return contender{
		name: redpanda, ends: true,
		queue: func(ctx context.Context, p *place) error { return p.buildConnect(ctx) },
		command: func(p *place) *exec.Cmd {
			return exec.Command(p.connect(), p.api.base(), apiKey, p.manifest, strconv.Itoa(p.concurrency))
		},
	}
}

// riverContender is River on PostgreSQL, one link a job, with the product's HTTP client.
func riverContender() contender {
	return contender{
		name: riverQueue, postgres: true,
		queue: func(ctx context.Context, p *place) error {
			return runSelf(ctx, "river-enqueue", p.postgres.url(), p.manifest)
		},
		command: func(p *place) *exec.Cmd {
			return self("river-work", p.postgres.url(), p.api.base(), strconv.Itoa(p.concurrency))
		},
	}
}

// curlContender is curl with all links in its configuration.
func curlContender() contender {
	return contender{
		name: parallelCurl, ends: true,
		queue: func(_ context.Context, p *place) error {
			ids, err := readManifest(p.manifest)
			if err != nil {
				return err
			}
			f, err := os.Create(curlConfig(p))
			if err != nil {
				return err
			}
			defer f.Close()
			w := bufio.NewWriter(f)
			for _, id := range ids {
				fmt.Fprintf(w, "url = %s/payment-links/%s\n", p.api.base(), id)
			}
			return w.Flush()
		},
		command: func(p *place) *exec.Cmd {
			return exec.Command("curl", "--silent", "--show-error", "--parallel", "--parallel-max", strconv.Itoa(p.concurrency),
				"--request", "DELETE", "--header", "Authorization: "+apiKey, "--config", curlConfig(p))
		},
	}
}

func curlConfig(p *place) string { return p.manifest + ".curl" }
