package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// masterName is the name of the master in the Sentinels.
	masterName = "main"
	// A cluster has so many masters, which share so many slots.
	clusterMasters, clusterSlots = 3, 16384
	// busOffset is how far the port of the cluster bus is above that for clients.
	busOffset = 10_000
	// takenOverWithin is how long a failover may take, and wholeWithin how long until all servers are in their places.
	takenOverWithin, wholeWithin = 30 * time.Second, time.Minute
	// What a master writes arrives at a healthy replica within arrivesWithin. mostLag is the longest time for
	// which it writes without one. No command may run in it, which is waited for.
	arrivesWithin, mostLag, quietWithin = 200 * time.Millisecond, time.Second, 2 * time.Second
	// suiteRetries let the suite itself see a failover through.
	suiteRetries = 20
)

// replicating are the arguments of servers with replicas.
var replicating = append(slices.Clip(keeping), "--repl-diskless-sync-delay", "0")

// startSentinel starts a master, two replicas, and three Sentinels, which let a replica take over after two
// seconds. On a busy machine, a shorter time makes them give up a master that is alive.
func (d *database) startSentinel(ctx context.Context, dir, data string) error {
	for n := range 3 {
		s, err := newServer(dir, data, fmt.Sprintf("redis-%d", n+1), freePort, replicating...)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, s)
		if n == 0 {
			err = s.start()
		} else {
			err = s.start(d.servers[0].replica()...)
		}
		if err != nil {
			return err
		}
	}
	for n := range 3 {
		s, err := newServer(dir, data, fmt.Sprintf("sentinel-%d", n+1), freePort)
		if err != nil {
			return err
		}
		config := filepath.Join(s.dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 2\nsentinel down-after-milliseconds %[1]s 2000\nsentinel failover-timeout %[1]s 5000\n", masterName, d.servers[0].port)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return err
		}
		d.sentinels, s.args = append(d.sentinels, s), []string{config, "--sentinel"}
		if err := s.start(); err != nil {
			return err
		}
	}
	d.rdb = redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: masterName, SentinelAddrs: addrs(d.sentinels), MaxRetries: suiteRetries, DialerRetries: 1, DisableIdentity: true, Protocol: 2,
	})
	_, _, err := d.awaitWhole(ctx)
	return err
}

// startCluster starts three masters with a replica each, which takes over after some seconds.
func (d *database) startCluster(ctx context.Context, dir, data string) error {
	for n := range 2 * clusterMasters {
		s, err := newServer(dir, data, fmt.Sprintf("redis-%d", n+1), clusterPort, append(slices.Clip(replicating), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")...)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, s)
		if err = s.start(); err != nil {
			return err
		}
		if n < clusterMasters {
			first, end := n*clusterSlots/clusterMasters, (n+1)*clusterSlots/clusterMasters
			err = errors.Join(s.rdb.ClusterAddSlotsRange(ctx, first, end-1).Err(), s.rdb.Do(ctx, "cluster", "set-config-epoch", n+1).Err())
		}
		if n > 0 {
			err = errors.Join(err, s.rdb.ClusterMeet(ctx, "127.0.0.1", fmt.Sprint(d.servers[0].port)).Err())
		}
		if err != nil {
			return err
		}
	}
	for n, s := range d.servers[clusterMasters:] {
		id, err := d.servers[n].rdb.ClusterMyID(ctx).Result()
		if err == nil {
			err = until(ctx, "a server to know its master", wholeWithin, func() bool { return s.rdb.ClusterReplicate(ctx, id).Err() == nil })
		}
		if err != nil {
			return err
		}
	}
	d.rdb = redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: addrs(d.servers), MaxRedirects: suiteRetries, ClusterStateReloadInterval: time.Second, DialerRetries: 1, DisableIdentity: true, Protocol: 2,
	})
	_, _, err := d.awaitWhole(ctx)
	return err
}

// clusterPort returns a free port that has another one for the cluster bus.
func clusterPort() (int, error) {
	for range 100 {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		if port >= 32768-busOffset {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+busOffset)); err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no two free ports for a server of a cluster")
}

// replica are the arguments of a replica of a server.
func (s *server) replica() []string {
	return []string{"--replicaof", "127.0.0.1 " + fmt.Sprint(s.port)}
}

// roles are the servers that are masters, and the replicas that follow each.
func (d *database) roles(ctx context.Context) (masters []*server, replicas map[*server][]*server) {
	replicas = map[*server][]*server{}
	for _, s := range d.servers {
		info, err := s.info(ctx, "replication")
		switch {
		case err != nil:
		case info["role"] == "master":
			masters = append(masters, s)
		case info["master_link_status"] == "up" && info["master_sync_in_progress"] == "0":
			at := slices.IndexFunc(d.servers, func(m *server) bool { return fmt.Sprint(m.port) == info["master_port"] })
			if at >= 0 {
				replicas[d.servers[at]] = append(replicas[d.servers[at]], s)
			}
		}
	}
	return masters, replicas
}

// awaitWhole waits until all servers are in their places: another failover is possible. It returns their roles.
func (d *database) awaitWhole(ctx context.Context) (masters []*server, replicas map[*server][]*server, err error) {
	err = until(ctx, "all servers to be in their places", wholeWithin, func() bool {
		masters, replicas = d.roles(ctx)
		if d.kind == withCluster {
			return len(masters) == clusterMasters && !slices.ContainsFunc(masters, func(m *server) bool { return len(replicas[m]) != 1 }) && d.clusterKnows(ctx)
		}
		return len(masters) == 1 && len(replicas[masters[0]]) == 2 && d.sentinelsKnow(ctx, masters[0])
	})
	return masters, replicas, err
}

// sentinelsKnow says whether each Sentinel knows the master, both replicas as well, and the others.
func (d *database) sentinelsKnow(ctx context.Context, master *server) bool {
	for _, s := range d.sentinels {
		sentinel := redis.NewSentinelClient(s.rdb.Options())
		known, err := sentinel.Master(ctx, masterName).Result()
		replicas, err2 := sentinel.Replicas(ctx, masterName).Result()
		_ = sentinel.Close()
		if err != nil || err2 != nil || known["port"] != fmt.Sprint(master.port) || known["flags"] != "master" || known["num-other-sentinels"] != "2" || len(replicas) != 2 {
			return false
		}
		for _, r := range replicas {
			if r["flags"] != "slave" || r["master-link-status"] != "ok" {
				return false
			}
		}
	}
	return true
}

// clusterKnows says whether each server knows all others, and that all is well.
func (d *database) clusterKnows(ctx context.Context) bool {
	for _, s := range d.servers {
		nodes, err := s.rdb.ClusterNodes(ctx).Result()
		info, err2 := s.rdb.ClusterInfo(ctx).Result()
		well := strings.Contains(info, "cluster_state:ok") && !strings.Contains(nodes, "fail") &&
			strings.Count(nodes, "master ") == clusterMasters && strings.Count(nodes, "slave ") == clusterMasters
		if err != nil || err2 != nil || !well {
			return false
		}
	}
	return true
}

// failover kills a master, waits until a replica has taken over, and starts the server again as a replica.
func (r *round) failover(ctx context.Context, e event) error {
	r.redisBusy.Lock()
	defer r.redisBusy.Unlock()
	masters, replicas, err := r.redis.awaitWhole(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	old := masters[e.pick(len(masters))]
	lag, err := r.crash(ctx, e, old, replicas[old])
	if err != nil {
		return err
	}
	killed := time.Now()
	var next *server
	err = until(ctx, "a replica to take over", takenOverWithin, func() bool {
		masters, _ := r.redis.roles(ctx)
		at := slices.IndexFunc(masters, func(m *server) bool { return slices.Contains(replicas[old], m) })
		if at >= 0 {
			next = masters[at]
		}
		return at >= 0
	})
	if err != nil {
		return fmt.Errorf("%w: see %s", err, old.log)
	}
	dark := time.Since(killed)
	sleep(ctx, e.lasts)
	var args []string
	if r.redis.kind == withSentinel {
		args = next.replica()
	}
	if err := old.start(args...); err != nil {
		return err
	}
	_, _, err = r.redis.awaitWhole(ctx)
	r.happened(e.kind, began, "%s for %s after %.1f s, lag %.1f s", filepath.Base(next.dir), filepath.Base(old.dir), dark.Seconds(), lag.Seconds())
	return err
}

// crash kills a master. Often, what it wrote last has reached no replica: that of the lag. A command that
// comes back has found a replica, so there is no lag while one runs.
func (r *round) crash(ctx context.Context, e event, master *server, replicas []*server) (lag time.Duration, err error) {
	if !r.plan.lags || until(ctx, "commands to end", quietWithin, r.confirms.TryLock) != nil {
		master.kill()
		return 0, nil
	}
	defer r.confirms.Unlock()
	sleep(ctx, arrivesWithin)
	for _, s := range replicas {
		s.freeze() // so that it does not connect again
	}
	lag = time.Duration(e.rng().Float64() * float64(mostLag))
	err = master.rdb.ClientKillByFilter(ctx, "type", "replica").Err()
	sleep(ctx, lag)
	master.kill()
	for _, s := range replicas {
		s.thaw()
	}
	return lag, err
}
