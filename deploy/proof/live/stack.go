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

const (
	job = "linkcancel"
	// The import is large enough for half a minute at what the pretend API allows.
	// Links beyond it are left for the sweep.
	importLinks  = 5000
	moreLinks    = 300
	rateLimit    = "200/s" // of ours
	apiLimit     = "150"   // of the API: it throttles us
	fastInterval = "1s"
)

// stack is a fleet of two workers under load, and two Prometheus servers: shipped
// is just what the repository configures; fast scrapes each second, for rates.
type stack struct {
	life          *testing.T // of the programs
	dir, binary   string
	env           []string
	redisAddress  string
	redis         *program
	sandbox       *program
	requestLog    string
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

func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{life: t, dir: t.TempDir(), began: time.Now()}
	s.binary = filepath.Join(s.dir, "linkcancel")
	run(t, nil, "go", "build", "-C", repo.Root(t), "-o", s.binary, "./cmd/linkcancel")

	s.redisAddress = freeAddress(t)
	s.startRedis(t)
	s.startSandbox(t)
	// A sweep at the next full minute that leaves the workers time to start.
	at := time.Now().Add(8 * time.Second).Truncate(time.Minute).Add(time.Minute).UTC()
	for i := range 2 {
		s.workers = append(s.workers, freeAddress(t))
		start(t, s.life, s.dir, fmt.Sprintf("worker-%d", i+1), s.env, s.binary, "worker", "--rate", rateLimit, "--metrics-addr", s.workers[i],
			"--sweep-cron", fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()))
	}
	s.fast = startPrometheus(t, s.dir, "fast", fastInterval, s.workers)
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

// startSandbox starts a pretend API that throttles, and answers everything there
// is: most links are cancelled, some are not there, paid or cancelled already,
// some answers are 400, 500 or 502, and some never come.
func (s *stack) startSandbox(t *testing.T) {
	t.Helper()
	s.requestLog = filepath.Join(s.dir, "requests.jsonl")
	all := filepath.Join(s.dir, "all.csv")
	s.sandbox = start(t, s.life, s.dir, "sandbox", nil, s.binary, "sandbox", "--addr", "127.0.0.1:0",
		"--links", fmt.Sprint(importLinks+moreLinks), "--write-csv", all, "--request-log", s.requestLog,
		"--limit", apiLimit, "--page-size", "500", "--latency", "10ms", "--jitter", "20ms",
		"--error-500", "0.02", "--html-502", "0.01", "--cut", "0.01", "--cut-before", "0.01", "--bad-request", "0.01", "--friendly", "0.005")
	var url string
	until(t, "the pretend API", func() (bool, any) {
		m := servingAt.FindSubmatch(s.sandbox.output())
		if m != nil {
			url = string(m[1])
		}
		return m != nil, string(s.sandbox.output())
	})
	s.env = []string{
		"LINKCANCEL_REDIS_URL=redis://" + s.redisAddress + "/0", "PLEXY_BASE_URL=" + url, "PLEXY_API_KEY=proof", "LINKCANCEL_LOG_LEVEL=info",
	}
	b, err := os.ReadFile(all)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.SplitAfter(string(b), "\n")
	s.write(t, "some.csv", rows[:1+importLinks])
	s.write(t, "few.csv", rows[:1+200])
}

func (s *stack) write(t *testing.T, name string, rows []string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(strings.Join(rows, "")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// imports makes a batch of a file.
func (s *stack) imports(t *testing.T, file string) {
	t.Helper()
	run(t, s.env, s.binary, "import", filepath.Join(s.dir, file), "--yes")
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

// stopSandbox ends the pretend API, which writes the rest of its log.
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
