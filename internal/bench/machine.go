package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// machine is where and with what was measured.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Memory   string            `json:"memory"`
	Kernel   string            `json:"kernel"`
	Versions map[string]string `json:"versions"`
}

// describe describes this machine, and the versions of what was compared. What
// cannot be found out is left out; versions of an earlier run stay.
func (m *machine) describe(connect string) {
	m.CPU, m.Cores, m.Kernel = field("/proc/cpuinfo", "model name"), runtime.NumCPU(), firstLine("uname", "-sr")
	var kib int
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err == nil {
		m.Memory = fmt.Sprintf("%d GiB", (kib+512<<10)>>20)
	}
	versions := map[string]string{
		"Go":         strings.TrimPrefix(runtime.Version(), "go"),
		"Redis":      after(firstLine("redis-server", "--version"), "v="),
		"PostgreSQL": after(firstLine(postgresTool("postgres"), "--version"), "(PostgreSQL) "),
		"curl":       after(firstLine("curl", "--version"), "curl "),
	}
	self, _ := os.Executable()
	for path, name := range map[string]string{
		"github.com/hibiken/asynq":    stockAsynq,
		"github.com/gocraft/work":     gocraftWork,
		"github.com/riverqueue/river": riverQueue,
	} {
		versions[name] = moduleVersion(self, path)
	}
	versions[redpanda+" (its core)"] = moduleVersion(connect, "github.com/redpanda-data/benthos/v4")
	if m.Versions == nil {
		m.Versions = map[string]string{}
	}
	for name, version := range versions {
		if version != "" {
			m.Versions[name] = version
		}
	}
}

// moduleVersion is the version of a module in a program.
func moduleVersion(program, path string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return ""
}

// field is the first value of a "name : value" line.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}

// after is the first word behind a mark.
func after(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	first, _, _ := strings.Cut(rest, " ")
	return first
}
