package compose

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"

	"linkcancel/deploy/proof/repo"
)

func check(t *testing.T, b []byte) error {
	t.Helper()
	p, err := Load(repo.Root(t), nil, b)
	if err != nil {
		return err
	}
	return Lint(p)
}

func TestLint(t *testing.T) {
	if err := check(t, repo.Read(t, File)); err != nil {
		t.Error(err)
	}
}

func checkLive(t *testing.T, b []byte) error {
	t.Helper()
	p, err := Load(repo.Root(t), map[string]string{"PLEXY_API_KEY_FILE": "/etc/linkcancel/key", "LINKCANCEL_SERVE_TOKEN": "0123456789abcdef0123"}, repo.Read(t, File), b)
	if err != nil {
		return err
	}
	return LintLive(p)
}

func TestLive(t *testing.T) {
	if err := checkLive(t, repo.Read(t, Live)); err != nil {
		t.Error(err)
	}
}

func TestLintFinds(t *testing.T) {
	type mutation struct{ old, replacement, want string }
	run := func(name string, file []byte, check func(*testing.T, []byte) error, m mutation) {
		t.Run(name, func(t *testing.T) {
			if err := check(t, repo.Mutate(t, file, m.old, m.replacement)); err == nil || !strings.Contains(err.Error(), m.want) {
				t.Errorf("found %v, not %q", err, m.want)
			}
		})
	}
	for name, m := range map[string]mutation{
		"misspelt key":           {"stop_grace_period: 20s", "stop_grace_perriod: 20s", "services.worker.stop_grace_perriod"},
		"key at the wrong place": {"replicas: 2", "replica: 2", "replica"},
		"no time to end":         {"stop_grace_period: 20s", "stop_grace_period: 5s", "killed before it can end"},
		"one worker":             {"replicas: 2", "replicas: 1", "two replicas"},
		"service renamed":        {"\n  sandbox:\n    <<: *linkcancel", "\n  pretend:\n    <<: *linkcancel", "sandbox"},
		"no AOF":                 {"--appendonly\n      - \"yes\"", "--appendonly\n      - \"no\"", "--appendonly yes"},
		"evicts":                 {"- noeviction", "- allkeys-lru", "--maxmemory-policy noeviction"},
		"mount of nothing":       {"./deploy/grafana/dashboards:", "./deploy/grafana/dashboard:", "mounts what is not there"},
		"published to all":       {"- 127.0.0.1:${PROMETHEUS_PORT:-9090}:9090", "- ${PROMETHEUS_PORT:-9090}:9090", "beyond this machine"},
		"as root":                {`user: "65534:65534"`, `user: "0:0"`, "runs as the user"},
	} {
		run(name, repo.Read(t, File), check, m)
	}
	for name, m := range map[string]mutation{
		"live: secret of another name": {"PLEXY_API_KEY_FILE: /run/secrets/plexy_api_key\n      LINKCANCEL_RATE: ${LINKCANCEL_RATE:-10/s}\n    secrets:\n      - plexy_api_key\n\n  cli:",
			"PLEXY_API_KEY_FILE: /run/secrets/key\n      LINKCANCEL_RATE: ${LINKCANCEL_RATE:-10/s}\n    secrets:\n      - plexy_api_key\n\n  cli:", "from a secret"},
		"live: sandbox too": {"profiles: [sandbox]", "profiles: []", "sandbox is started"},
		"live: plain http":  {"command: [worker]", "command: [worker, --insecure-http]", "plain http"},
	} {
		run(name, repo.Read(t, Live), checkLive, m)
	}
}

// TestMounts: what the stack mounts is what Prometheus and Grafana are
// configured to read.
func TestMounts(t *testing.T) {
	p, err := Load(repo.Root(t), nil, repo.Read(t, File))
	if err != nil {
		t.Fatal(err)
	}
	mounted := func(service, source string) string {
		i := slices.IndexFunc(p.Services[service].Volumes, func(v types.ServiceVolumeConfig) bool {
			return v.Source == filepath.Join(repo.Root(t), source)
		})
		if i < 0 {
			t.Fatalf("service %s does not mount %s", service, source)
		}
		return p.Services[service].Volumes[i].Target
	}
	if dir := mounted("prometheus", "deploy/prometheus"); !slices.Contains(p.Services["prometheus"].Command, "--config.file="+dir+"/prometheus.yml") {
		t.Errorf("Prometheus does not read its configuration from %s", dir)
	}
	if dir := mounted("grafana", "deploy/grafana/dashboards"); !strings.Contains(string(repo.Read(t, "deploy/grafana/provisioning/dashboards/linkcancel.yml")), "path: "+dir+"\n") {
		t.Errorf("Grafana does not look for dashboards in %s", dir)
	}
	mounted("grafana", "deploy/grafana/provisioning")
	if !strings.Contains(string(repo.Read(t, "deploy/prometheus/prometheus.yml")), "names: [worker]") {
		t.Error("Prometheus does not scrape the service worker")
	}
}
