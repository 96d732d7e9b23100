package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"linkcancel/internal/testutil"
)

// masterName is the name of the master in the Sentinels.
const masterName = "main"

// Sentinel is a server with replicas and three Sentinels, which promote a replica after one second.
type Sentinel struct {
	Servers   []*Server // the first was the master at the start
	sentinels []*Server
}

// StartSentinel starts a server with replicas and their Sentinels for the length of the
// test. args are arguments of all servers.
func StartSentinel(t testing.TB, replicas int, args ...string) *Sentinel {
	t.Helper()
	return StartSentinelOn(t, nil, nil, replicas, args...)
}

// StartSentinelOn is StartSentinel with the master on one machine and everything else on another.
func StartSentinelOn(t testing.TB, first, others *Machine, replicas int, args ...string) *Sentinel {
	t.Helper()
	s := &Sentinel{}
	args = append([]string{"--repl-diskless-sync-delay", "0"}, args...)
	master := NewServerOn(t, first, args...)
	master.Start(t)
	t.Cleanup(func() { master.Stop(t) })
	s.Servers = append(s.Servers, master)
	for range replicas {
		s.Servers = append(s.Servers, startReplica(t, others, master, args...))
	}
	for range 3 {
		dir := t.TempDir()
		config := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]d 2\nsentinel down-after-milliseconds %[1]s 1000\nsentinel failover-timeout %[1]s 5000\n",
			masterName, master.host(), master.port)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		sentinel := &Server{dir: dir, config: config, machine: others, args: []string{"--sentinel"}}
		sentinel.Start(t)
		t.Cleanup(func() { sentinel.Stop(t) })
		s.sentinels = append(s.sentinels, sentinel)
	}
	for _, one := range s.sentinels {
		c := one.client(t)
		testutil.Until(t, "the Sentinels to know each other", func() bool {
			m, err := s.ask(t, c)
			return err == nil && m["num-other-sentinels"] == "2" && m["num-slaves"] == fmt.Sprint(replicas)
		})
	}
	return s
}

func (s *Sentinel) ask(t testing.TB, sentinel *redis.Client) (map[string]string, error) {
	cmd := redis.NewMapStringStringCmd(t.Context(), "sentinel", "master", masterName)
	_ = sentinel.Process(t.Context(), cmd)
	return cmd.Result()
}

// URL returns the URL of the database with its Sentinels.
func (s *Sentinel) URL() string {
	var hosts []string
	for _, one := range s.sentinels {
		hosts = append(hosts, one.addr())
	}
	return "redis-sentinel://" + strings.Join(hosts, ",") + "/" + masterName + "/0"
}

// Master returns the master according to all Sentinels.
func (s *Sentinel) Master(t testing.TB) *Server {
	t.Helper()
	var found *Server
	var clients []*redis.Client
	for _, one := range s.sentinels {
		clients = append(clients, one.client(t))
	}
	testutil.Until(t, "the Sentinels to agree on the master", func() bool {
		ports := map[string]int{}
		for _, c := range clients {
			if m, err := s.ask(t, c); err == nil {
				ports[m["port"]]++
			}
		}
		found = nil
		for _, one := range s.Servers {
			if ports[fmt.Sprint(one.port)] == len(clients) {
				found = one
			}
		}
		return found != nil
	})
	return found
}

// Replicas returns all servers except one.
func (s *Sentinel) Replicas(master *Server) (all []*Server) {
	for _, one := range s.Servers {
		if one != master {
			all = append(all, one)
		}
	}
	return all
}
