package redistest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/testutil"
)

// Cluster is a Redis Cluster.
type Cluster struct {
	Servers []*Server // masters, then their replicas in the same order
	masters int
}

const clusterSlots = 16384

// StartCluster starts a cluster of masters, with or without one replica each, for the length of the
// test. A replica takes over after two seconds. args are arguments of all servers.
func StartCluster(t testing.TB, masters int, replicas bool, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{masters: masters}
	n := masters
	if replicas {
		n *= 2
	}
	var clients []*redis.Client
	for range n {
		server := &Server{dir: t.TempDir(), port: clusterPort(t), args: append([]string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0",
		}, args...)}
		server.Start(t)
		t.Cleanup(func() { server.Stop(t) })
		c.Servers = append(c.Servers, server)
		clients = append(clients, server.client(t))
	}
	ctx := t.Context()
	for i, client := range clients {
		if i < masters {
			testutil.Must(t, client.ClusterAddSlotsRange(ctx, i*clusterSlots/masters, (i+1)*clusterSlots/masters-1).Err())
			testutil.Must(t, client.Do(ctx, "cluster", "set-config-epoch", i+1).Err())
		}
		if i > 0 {
			testutil.Must(t, client.ClusterMeet(ctx, "127.0.0.1", fmt.Sprint(c.Servers[0].port)).Err())
		}
	}
	known := func(client *redis.Client) bool {
		info, err := client.ClusterInfo(ctx).Result()
		return err == nil && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", n)) && strings.Contains(info, "cluster_state:ok\r")
	}
	for _, client := range clients {
		testutil.Until(t, "the servers to know each other", func() bool { return known(client) })
	}
	for i := masters; i < n; i++ {
		id, err := clients[i-masters].ClusterMyID(ctx).Result()
		testutil.Must(t, err)
		testutil.Until(t, "a replica to know its master", func() bool { return clients[i].ClusterReplicate(ctx, id).Err() == nil })
	}
	for i, client := range clients {
		testutil.Until(t, "the replicas", func() bool {
			info, err := client.Info(ctx, "replication").Result()
			if i >= masters {
				return err == nil && strings.Contains(info, "role:slave\r") && strings.Contains(info, "master_link_status:up\r")
			}
			return err == nil && strings.Count(info, "state=online") == n/masters-1
		})
		// Only a replica that all know can take over.
		testutil.Until(t, "all to know the replicas", func() bool {
			nodes, err := client.ClusterNodes(ctx).Result()
			return err == nil && strings.Count(nodes, "slave ") == n-masters
		})
	}
	return c
}

// clusterPort returns a free port. The port 10,000 above it, which the cluster bus uses, is
// free too.
func clusterPort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.N(20_000)
		if listens(port) && listens(port+10_000) {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func listens(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// URL returns the URL of the cluster.
func (c *Cluster) URL() string {
	var hosts []string
	for _, one := range c.Servers {
		hosts = append(hosts, one.addr())
	}
	return "redis-cluster://" + strings.Join(hosts, ",")
}

// Owner returns the server that has a key, according to another server.
func (c *Cluster) Owner(t testing.TB, b redis.UniversalClient, key string) *Server {
	t.Helper()
	cluster, ok := b.(*redis.ClusterClient)
	if !ok {
		t.Fatalf("%T is not a cluster client", b)
	}
	var found *Server
	testutil.Until(t, "the owner of "+key, func() bool {
		cluster.ReloadState(t.Context())
		node, err := cluster.MasterForKey(t.Context(), key)
		for _, one := range c.Servers {
			if err == nil && node.Options().Addr == one.addr() {
				found = one
			}
		}
		return found != nil
	})
	return found
}

// Replicas returns the replicas that a server had at the start.
func (c *Cluster) Replicas(server *Server) (all []*Server) {
	for i, one := range c.Servers {
		if one == server && i+c.masters < len(c.Servers) {
			all = append(all, c.Servers[i+c.masters])
		}
	}
	return all
}
