package live

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"linkcancel/deploy/proof/repo"
)

const job = "linkcancel"

// load is the work of a fleet.
type load struct {
	links    int           // of the sandbox API
	rate     string        // of ours
	api      []string      // flags of the sandbox API
	worker   []string      // flags of the workers
	interval string        // at which fast scrapes
	sweep    time.Duration // from the start to the sweep, at least; up to a minute more
}

// stack is a fleet of two workers under load, and two Prometheus servers: shipped
// is just what the repository configures; fast scrapes more often, for rates.
type stack struct {
	load
	life          *testing.T // of the programs
	dir, binary   string
	env           []string
	redisAddress  string
	redis         *program
	sandbox       *program
	requestLog    string
	rows          []string // of the CSV file of all links, the head first
	workers       []string // addresses of their metrics
	fast, shipped *prometheus
	began         time.Time
}

func get(url string) (status int, body []byte, err error) {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func newStack(t *testing.T, l load) *stack {
	t.Helper()
	s := &stack{load: l, life: t, dir: t.TempDir(), began: time.Now()}
	s.binary = filepath.Join(s.dir, "linkcancel")
	run(t, []string{"CGO_ENABLED=0"}, "go", "build", "-C", repo.Root(t), "-trimpath", "-o", s.binary, "./cmd/linkcancel")

	s.redisAddress = freeAddress(t)
	s.startRedis(t)
	s.startSandbox(t)
	at := time.Now().Add(l.sweep).Truncate(time.Minute).Add(time.Minute).UTC()
	for i := range 2 {
		s.workers = append(s.workers, freeAddress(t))
		args := append([]string{"worker", "--rate", l.rate, "--metrics-addr", s.workers[i],
			"--sweep-cron", fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour())}, l.worker...)
		start(t, s.life, s.dir, fmt.Sprintf("worker-%d", i+1), s.env, s.binary, args...)
	}
	s.fast = startPrometheus(t, s.dir, "fast", l.interval, s.workers)
	s.shipped = startPrometheus(t, s.dir, "shipped", "", s.workers)
	for _, p := range []*prometheus{s.fast, s.shipped} {
		until(t, "both workers to be scraped", func() (bool, any) {
			up, err := p.query(fmt.Sprintf("sum(up{job=%q})", job), time.Time{})
			return err == nil && len(up) == 1 && up[0].last() == 2, fmt.Sprint(up, err)
		})
	}
	return s
}

func (s *stack) startRedis(t *testing.T) {
	t.Helper()
	host, port, _ := strings.Cut(s.redisAddress, ":")
	s.redis = start(t, s.life, s.dir, "redis", nil, "redis-server", "--bind", host, "--port", port, "--dir", s.dir,
		"--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction")
}

var servingAt = regexp.MustCompile(`Serving .* at (http://\S+)`)

// startSandbox starts a sandbox API that answers everything there is: most links
// are cancelled, some are not there, paid or cancelled already.
func (s *stack) startSandbox(t *testing.T) {
	t.Helper()
	s.requestLog = filepath.Join(s.dir, "requests.jsonl")
	all := filepath.Join(s.dir, "all.csv")
	s.sandbox = start(t, s.life, s.dir, "sandbox", nil, s.binary, append([]string{"sandbox", "--addr", "127.0.0.1:0",
		"--links", fmt.Sprint(s.links), "--write-csv", all, "--request-log", s.requestLog, "--page-size", "500"}, s.api...)...)
	var url string
	until(t, "the sandbox API", func() (bool, any) {
		m := servingAt.FindSubmatch(s.sandbox.output())
		if m != nil {
			url = string(m[1])
		}
		return m != nil, string(s.sandbox.output())
	})
	s.env = []string{
		"LINKCANCEL_REDIS_URL=redis://" + s.redisAddress + "/0", "PLEXY_BASE_URL=" + url, "PLEXY_API_KEY=proof", "LINKCANCEL_LOG_LEVEL=info",
		"LINKCANCEL_UI_URL=https://links.example.com",
	}
	b, err := os.ReadFile(all)
	if err != nil {
		t.Fatal(err)
	}
	s.rows = strings.SplitAfter(string(b), "\n")
}

// imports makes a batch of the links from one number up to another, without it.
func (s *stack) imports(t *testing.T, id string, from, to int) {
	t.Helper()
	file := filepath.Join(s.dir, id+".csv")
	csv := s.rows[0] + strings.Join(s.rows[1+from:1+to], "")
	if err := os.WriteFile(file, []byte(csv), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, s.env, s.binary, "import", file, "--id", id, "--yes")
}

// batch is as batch list and show print it.
type batch struct {
	Batch    string           `json:"batch"`
	State    string           `json:"state"`
	Source   string           `json:"source"`
	Total    int64            `json:"total"`
	Pending  int64            `json:"pending"`
	Outcomes map[string]int64 `json:"outcomes"`
}

func (s *stack) batches(t *testing.T) []batch {
	t.Helper()
	var list struct {
		Batches []batch `json:"batches"`
	}
	if err := json.Unmarshal(run(t, s.env, s.binary, "batch", "list", "--json"), &list); err != nil {
		t.Fatal(err)
	}
	return list.Batches
}

// show is what batch show prints.
func (s *stack) show(t *testing.T, id string) batch {
	t.Helper()
	var b batch
	if err := json.Unmarshal(run(t, s.env, s.binary, "batch", "show", id, "--json"), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// awaitImport waits for an import to be done.
func (s *stack) awaitImport(t *testing.T) {
	t.Helper()
	until(t, "the import to be done", func() (bool, any) {
		all := s.batches(t)
		return slices.ContainsFunc(all, func(b batch) bool { return b.Source == "import" && b.State == "done" }), all
	})
}

// awaitDone waits for so many batches, all of them done.
func (s *stack) awaitDone(t *testing.T, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d batches to be done", n), func() (bool, any) {
		all := s.batches(t)
		for _, b := range all {
			if b.State != "done" {
				return false, all
			}
		}
		return len(all) == n, all
	})
}

// stopSandbox ends the sandbox API, which writes the rest of its log.
func (s *stack) stopSandbox(t *testing.T) []request {
	t.Helper()
	s.sandbox.end(syscall.SIGTERM)
	b, err := os.ReadFile(s.requestLog)
	if err != nil {
		t.Fatal(err)
	}
	var all []request
	for line := range strings.Lines(string(b)) {
		var r struct {
			T      int64
			Status int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, request{time.Unix(0, r.T), r.Status})
	}
	return all
}

// request is one that the API got.
type request struct {
	at     time.Time
	status int
}
