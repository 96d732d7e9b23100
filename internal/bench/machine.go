package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where and with what was measured.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Memory   string            `json:"memory"`
	Kernel   string            `json:"kernel"`
	Syscall  float64           `json:"syscall"` // seconds for the cheapest system call
	Versions map[string]string `json:"versions"`
}

// describe describes this machine, and the versions of what was compared. What
// cannot be found out is left out; versions of an earlier run stay.
func (m *machine) describe(connect string) {
	m.CPU, m.Cores, m.Kernel = field("/proc/cpuinfo", "model name"), runtime.NumCPU(), firstLine("uname", "-sr")
	m.Syscall = syscallCost()
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

// syscallCost measures the cheapest system call, in seconds. It differs several times between machines, and
// with it what a request costs.
func syscallCost() float64 {
	const calls = 100_000
	var rounds []float64
	for range 5 {
		began := time.Now()
		for range calls {
			_ = unix.Getppid()
		}
		rounds = append(rounds, time.Since(began).Seconds()/calls)
	}
	return median(rounds)
}

// name tells machines apart, as far as their figures differ.
func (m *machine) name() string { return fmt.Sprintf("%s, %d cores, %s", m.CPU, m.Cores, m.Kernel) }

// ratios are the main ratios as one machine measured them last.
type ratios struct {
	Machine string             `json:"machine"`
	Syscall float64            `json:"syscall"`
	Date    string             `json:"date"`
	Commit  string             `json:"commit"`
	Values  map[string]float64 `json:"values"` // by the name of the target
}

// sameSyscall is how much the cost of a system call may differ on one machine.
const sameSyscall = 1.3

// keepRatios keeps the ratios of this run beside those of other machines.
func (r *results) keepRatios(commit string) {
	now := ratios{Machine: r.Machine.name(), Syscall: r.Machine.Syscall, Date: time.Now().Format(time.DateOnly), Commit: commit, Values: map[string]float64{}}
	for _, t := range targets {
		if got, ok := t.measure(r); ok && t.unit == "×" {
			now.Values[t.name] = got
		}
	}
	r.Ratios = slices.DeleteFunc(r.Ratios, func(old ratios) bool {
		return old.Machine == now.Machine && max(old.Syscall, now.Syscall) < sameSyscall*min(old.Syscall, now.Syscall)
	})
	r.Ratios = append(r.Ratios, now)
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
