package ratelimit

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/redistest"
)

// BenchmarkFleet measures fleets of real processes on a real Redis: which part of the
// limit they use, the requests of the fullest second, and the grants per call of Redis.
// FLEET_SECONDS is how long each lasts.
func BenchmarkFleet(b *testing.B) {
	if !redistest.Have(b) {
		return
	}
	for _, limit := range []Rate{50, 500, 2000} {
		for _, processes := range []int{1, 4, 10} {
			b.Run(fmt.Sprintf("%.0f/%d", float64(limit), processes), func(b *testing.B) {
				for b.Loop() {
					measureFleet(b, limit, processes)
				}
			})
		}
	}
}

func measureFleet(b *testing.B, limit Rate, processes int) {
	url := redistest.Start(b)
	length := 5 * time.Second
	if s, err := strconv.Atoi(os.Getenv("FLEET_SECONDS")); err == nil {
		length = time.Duration(s) * time.Second
	}
	const warm = time.Second
	var mu sync.Mutex
	var sent []time.Duration // Unix time
	var wg sync.WaitGroup
	for i := range processes {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "FLEET_CHILD="+url, fmt.Sprintf("FLEET_ID=process-%d", i),
			fmt.Sprintf("FLEET_RATE=%v", float64(limit)), "FLEET_LENGTH="+(length+warm).String())
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			in := bufio.NewReader(out)
			for {
				var at int64
				if binary.Read(in, binary.LittleEndian, &at) != nil {
					break
				}
				mu.Lock()
				sent = append(sent, time.Duration(at))
				mu.Unlock()
			}
			if err := cmd.Wait(); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	calls := scriptCalls(b, url)

	// Processes start one after another, so the first and last moments do not count.
	slices.Sort(sent)
	if len(sent) == 0 {
		b.Fatal("nothing was sent")
	}
	begin := sent[0] + warm
	end := begin + length - 500*time.Millisecond
	counted := 0
	for _, at := range sent {
		if at >= begin && at < end {
			counted++
		}
	}
	b.ReportMetric(100*float64(counted)/(end-begin).Seconds()/float64(limit), "%limit")
	b.ReportMetric(float64(fullest(sent, time.Second)), "fullest-second")
	b.ReportMetric(float64(len(sent))/float64(calls), "grants/call")
	b.ReportMetric(float64(calls)/(length+warm).Seconds(), "calls/s")
	b.ReportMetric(0, "ns/op")
}

// scriptCalls returns how often scripts ran on a Redis.
func scriptCalls(b *testing.B, url string) int {
	opt, err := redis.ParseURL(url)
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(opt)
	defer client.Close()
	stats, err := client.Info(context.Background(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	m := regexp.MustCompile(`cmdstat_evalsha:calls=(\d+)`).FindStringSubmatch(stats)
	if m == nil {
		b.Fatalf("no calls:\n%s", stats)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// TestMain runs this program as one process of BenchmarkFleet, if asked to.
func TestMain(m *testing.M) {
	if url := os.Getenv("FLEET_CHILD"); url != "" {
		if err := fleetChild(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fleetChild sends as fast as the limiter allows, with 50 callers whose requests take
// 5 to 25 ms. It writes to stdout when each was sent.
func fleetChild(url string) error {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	flag, err := strconv.ParseFloat(os.Getenv("FLEET_RATE"), 64)
	if err != nil {
		return err
	}
	length, err := time.ParseDuration(os.Getenv("FLEET_LENGTH"))
	if err != nil {
		return err
	}
	client := redis.NewClient(opt)
	defer client.Close()
	f, err := NewFleet(FleetConfig{Config: Config{Rate: Rate(flag)}, Redis: client, Process: os.Getenv("FLEET_ID")})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	out := bufio.NewWriter(os.Stdout)
	var mu sync.Mutex
	load(ctx, f, 50, func(string) Answer {
		mu.Lock()
		_ = binary.Write(out, binary.LittleEndian, time.Now().UnixNano())
		mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(5*time.Millisecond + rand.N(20*time.Millisecond)):
		}
		return Answer{Kind: OK}
	})
	wg.Wait()
	return out.Flush()
}
