package main

import (
	"context"
	"fmt"
	"time"
)

// measureRates: how much of the fleet's limit is used, and how full the fullest
// second is, as the API counts.
func (b *bench) measureRates(ctx context.Context) error {
	type fleet struct{ workers, rate int }
	fleets := map[string]fleet{}
	var names []string
	for _, rate := range []int{50, 500, 2000} {
		for _, workers := range []int{1, 4} {
			name := fmt.Sprintf("%d/s, %d workers", rate, workers)
			if workers == 1 {
				name = fmt.Sprintf("%d/s, 1 worker", rate)
			}
			if b.quick && (rate != 500 || workers != 4) {
				continue
			}
			fleets[name] = fleet{workers, rate}
			names = append(names, name)
		}
	}
	return b.interleaveTimes(3, names, func(name string) error {
		got, err := b.fidelity(ctx, fleets[name].workers, fleets[name].rate)
		if err != nil {
			return err
		}
		b.add("rate", name, got)
		return nil
	})
}

func (b *bench) fidelity(ctx context.Context, workers, rate int) (sample, error) {
	const warm = 2 * time.Second
	window := time.Duration(b.pick(8, 1)) * time.Second
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := b.importLinks(ctx, r, "bench", 0, rate*int((warm+window).Seconds()+5)); err != nil {
		return nil, err
	}
	if err := b.api.reset(ctx, 0, 0, true); err != nil {
		return nil, err
	}
	for range workers {
		w, err := start(b.worker(r.url(), fmt.Sprintf("%d/s", rate), 50, "--metrics-addr", "off"))
		if err != nil {
			return nil, err
		}
		defer func() { _ = w.stop() }()
	}
	ready, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := b.api.awaitLinks(ready, 1); err != nil {
		return nil, err
	}
	if err := pause(ctx, warm+window+100*time.Millisecond); err != nil {
		return nil, err
	}
	stamps, err := b.api.stamps(ctx)
	if err != nil {
		return nil, err
	}
	var times []int64
	begin := stamps[0].at + int64(warm)
	for _, s := range stamps {
		if s.at >= begin && s.at < begin+int64(window) {
			times = append(times, s.at)
		}
	}
	return sample{
		"share":   float64(len(times)) / window.Seconds() / float64(rate),
		"fullest": float64(fullest(times, time.Second)) / float64(rate),
	}, nil
}

// fullest is how many of the times, in order, lie in the fullest window.
func fullest(times []int64, window time.Duration) int {
	most, from := 0, 0
	for i, at := range times {
		for at-times[from] >= int64(window) {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}
