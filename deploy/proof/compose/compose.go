// Package compose checks docker-compose.yml by the code that Docker Compose
// loads it with, and what it must say beyond being well formed.
package compose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// File is the stack on the sandbox API; Live goes over it for the real one.
const (
	File = "docker-compose.yml"
	Live = "deploy/docker-compose.live.yml"
)

// Services are those that the stack must have.
var Services = []string{"redis", "worker", "sandbox", "prometheus", "grafana"}

// Load reads files, each over the one before, as if they lay in root. A key that
// Compose does not know is an error.
func Load(root string, environment map[string]string, files ...[]byte) (*types.Project, error) {
	details := types.ConfigDetails{WorkingDir: root, Environment: environment}
	for i, b := range files {
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: filepath.Join(root, fmt.Sprintf("file-%d.yml", i)), Content: b})
	}
	p, err := loader.LoadWithContext(context.Background(), details, loader.WithProfiles([]string{"*"}))
	if err != nil {
		return nil, fmt.Errorf("load the compose file: %w", err)
	}
	return p, nil
}

// Lint checks what the stack must be.
func Lint(p *types.Project) error {
	var all []error
	for _, name := range Services {
		if _, ok := p.Services[name]; !ok {
			all = append(all, fmt.Errorf("there is no service %s", name))
		}
	}
	for name, s := range p.Services {
		bad := func(format string, args ...any) {
			all = append(all, fmt.Errorf("service %s %s", name, fmt.Sprintf(format, args...)))
		}
		if s.Privileged || !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			bad("has more rights than it needs: read_only, cap_drop ALL and no-new-privileges are wanted")
		}
		if s.User == "" || strings.HasPrefix(s.User, "0") || strings.HasPrefix(s.User, "root") {
			bad("runs as the user %q", s.User)
		}
		if s.MemLimit == 0 && len(s.Profiles) == 0 {
			bad("has no memory limit")
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				bad("is published beyond this machine, on port %s", port.Published)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				bad("mounts what is not there: %v", err)
			}
		}
		for other, d := range s.DependsOn {
			if d.Condition == types.ServiceConditionHealthy && !strings.Contains("worker sandbox", other) && p.Services[other].HealthCheck == nil {
				bad("waits for %s to be healthy, which has no health check", other)
			}
		}
	}
	return errors.Join(append(all, lintRedis(p.Services["redis"]), lintWorker(p.Services["worker"]))...)
}

// lintRedis: the ledger is on disk, and nothing is ever evicted.
func lintRedis(redis types.ServiceConfig) error {
	var all []error
	for option, want := range map[string]string{"--appendonly": "yes", "--maxmemory-policy": "noeviction", "--maxmemory": ""} {
		i := slices.Index(redis.Command, option)
		if i < 0 || i+1 == len(redis.Command) || want != "" && redis.Command[i+1] != want {
			all = append(all, fmt.Errorf("service redis does not have %s %s", option, want))
		}
	}
	if !slices.ContainsFunc(redis.Volumes, func(v types.ServiceVolumeConfig) bool {
		return v.Type == types.VolumeTypeVolume && v.Source != "" && v.Target == "/data"
	}) {
		all = append(all, errors.New("service redis has no volume at /data"))
	}
	return errors.Join(all...)
}

// graceLeast is how long a worker may take to end.
const graceLeast = 15 * time.Second

func lintWorker(worker types.ServiceConfig) error {
	var all []error
	if worker.Deploy == nil || worker.Deploy.Replicas == nil || *worker.Deploy.Replicas != 2 {
		all = append(all, errors.New("service worker has not two replicas"))
	}
	if worker.StopGracePeriod == nil || time.Duration(*worker.StopGracePeriod) < graceLeast {
		all = append(all, fmt.Errorf("service worker is killed before it can end: stop_grace_period %v or more", graceLeast))
	}
	for _, other := range []string{"redis"} {
		if worker.DependsOn[other].Condition != types.ServiceConditionHealthy {
			all = append(all, fmt.Errorf("service worker does not wait for %s", other))
		}
	}
	return errors.Join(all...)
}

// LintLive checks that with the real API the key is a secret, nothing goes in
// clear, and the sandbox API is not started.
func LintLive(p *types.Project) error {
	var all []error
	worker := p.Services["worker"]
	if v, ok := worker.Environment["PLEXY_API_KEY"]; ok && v != nil {
		all = append(all, errors.New("service worker has an API key in its environment"))
	}
	file := worker.Environment["PLEXY_API_KEY_FILE"]
	if file == nil || !slices.ContainsFunc(worker.Secrets, func(s types.ServiceSecretConfig) bool {
		return "/run/secrets/"+s.Source == *file
	}) {
		all = append(all, errors.New("service worker does not take its API key from a secret"))
	}
	if url := worker.Environment["PLEXY_BASE_URL"]; url == nil || !strings.HasPrefix(*url, "https://") {
		all = append(all, errors.New("service worker does not use https"))
	}
	if slices.Contains(worker.Command, "--insecure-http") {
		all = append(all, errors.New("service worker allows plain http"))
	}
	if s, ok := p.Services["sandbox"]; ok && len(s.Profiles) == 0 {
		all = append(all, errors.New("service sandbox is started with the real API"))
	}
	return errors.Join(all...)
}
