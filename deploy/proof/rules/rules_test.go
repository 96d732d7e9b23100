package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"linkcancel/deploy/proof/repo"
)

func read(t *testing.T) (*Rules, []*Cases) {
	t.Helper()
	r, err := Parse(repo.Read(t, File))
	if err != nil {
		t.Fatal(err)
	}
	var cases []*Cases
	for _, name := range Tests {
		c, err := ParseCases(repo.Read(t, Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	return r, cases
}

func TestLint(t *testing.T) {
	r, cases := read(t)
	if err := r.Lint(); err != nil {
		t.Error(err)
	}
	if err := r.LintCases(cases...); err != nil {
		t.Error(err)
	}
	if err := r.LintRunbook(repo.Read(t, Runbook)); err != nil {
		t.Error(err)
	}
}

func TestLintFinds(t *testing.T) {
	file := repo.Read(t, File)
	for name, test := range map[string]struct{ old, replacement, want string }{
		"unknown key":          {"summary: \"Prometheus knows", "sumary: \"Prometheus knows", "has no summary"},
		"misspelt key":         {"for: 5m\n        labels:\n          severity: critical\n        annotations:\n          summary: \"Prometheus", "form: 5m\n        labels:\n          severity: critical\n        annotations:\n          summary: \"Prometheus", "field form not found"},
		"severity":             {"severity: critical\n        annotations:\n          summary: \"Worker {{ $labels.instance }} of {{ $labels.job }} cannot", "severity: page\n        annotations:\n          summary: \"Worker {{ $labels.instance }} of {{ $labels.job }} cannot", "severity"},
		"runbook":              {"#linkcancelabsent", "#linkcancelgone", "runbook_url"},
		"name":                 {"alert: LinkcancelAbsent", "alert: Absent", "is not called"},
		"name twice":           {"alert: LinkcancelAbsent", "alert: LinkcancelDown", "is there twice"},
		"syntax":               {"expr: absent(up", "expr: absent((up", "does not parse"},
		"fleet summed":         {"expr: max by (job) (linkcancel_fleet_sweep_suspicious)", "expr: sum by (job) (linkcancel_fleet_sweep_suspicious)", "same on every worker"},
		"counter without rate": {"sum by (job, reason) (increase(linkcancel_ledger_repairs_total[30m]))", "max by (job, reason) (linkcancel_ledger_repairs_total)", "counts for itself"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse(repo.Mutate(t, file, test.old, test.replacement))
			if err == nil {
				err = r.Lint()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %v, not %q", err, test.want)
			}
		})
	}

	r, cases := read(t)
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"no case that fires", r.LintCases(cases[1]), "alert LinkcancelRedisAway has no case in which it fires"},
		{"no case that is silent", r.LintCases(cases[0]), "alert LinkcancelSweepMissed has no case in which it does not fire"},
		{"no part of the runbook", r.LintRunbook([]byte("### LinkcancelDown\n")), `0 headings "### LinkcancelRedisAway"`},
		{"alert that is no more", r.LintRunbook([]byte("### LinkcancelFull\n")), "LinkcancelFull, which is not an alert"},
		{"no alerts", new(Rules).Lint(), "no alerts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.err == nil || !strings.Contains(test.err.Error(), test.want) {
				t.Errorf("found %v, not %q", test.err, test.want)
			}
		})
	}
}

// promtool runs promtool on the files of Prometheus, with one of them changed.
func promtool(t *testing.T, change func(name string, b []byte) []byte, args ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range append([]string{filepath.Base(File), filepath.Base(Config)}, Tests...) {
		if err := os.WriteFile(filepath.Join(dir, name), change(name, repo.Read(t, Dir, name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("promtool", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func unchanged(_ string, b []byte) []byte { return b }

func TestPromtool(t *testing.T) {
	if !repo.Have(t, "promtool") {
		return
	}
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "rules.yml"},
		append([]string{"test", "rules"}, Tests...),
	} {
		t.Run(strings.Join(args[:2], " "), func(t *testing.T) {
			t.Parallel()
			if out, err := promtool(t, unchanged, args...); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}

// TestPromtoolFinds: a rule that cannot fire, one that fires always, a threshold
// that moved and a misspelt key do not pass.
func TestPromtoolFinds(t *testing.T) {
	if !repo.Have(t, "promtool") {
		return
	}
	for name, test := range map[string]struct {
		file, old, replacement string
		args                   []string
		want                   string
	}{
		"rule that cannot fire": {"rules.yml", `up{job=~"linkcancel.*"} == 0`, `up{job=~"linkcancel.*"} > 2`,
			[]string{"test", "rules", Tests[0]}, "alertname: LinkcancelDown, time: 2m30s"},
		"rule that never matches": {"rules.yml", `linkcancel_fleet_sweep_suspicious`, `linkcancel_sweep_suspicious`,
			[]string{"test", "rules", Tests[0]}, "alertname: LinkcancelSweepSuspicious"},
		"rule that always fires": {"rules.yml", `linkcancel_fleet_queue_slices{state="archived"}) > 0`, `linkcancel_fleet_queue_slices) >= 0`,
			[]string{"test", "rules", Tests[0]}, "alertname: LinkcancelQueueArchived"},
		"label lost on the way": {"rules.yml", `sum by (job) (linkcancel_hold{reason="unauthorized"})`, `sum(linkcancel_hold{reason="unauthorized"})`,
			[]string{"test", "rules", Tests[0]}, "alertname: LinkcancelUnauthorized"},
		"misspelt key of a rule": {"rules.yml", "for: 1h", "fro: 1h",
			[]string{"check", "rules", "rules.yml"}, "field fro not found"},
		"misspelt key of the configuration": {"prometheus.yml", "refresh_interval:", "refresh_intervall:",
			[]string{"check", "config", "prometheus.yml"}, "field refresh_intervall not found"},
		"rules that are not there": {"prometheus.yml", "- rules.yml", "- ruled.yml",
			[]string{"check", "config", "prometheus.yml"}, "ruled.yml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := promtool(t, func(name string, b []byte) []byte {
				if name != test.file {
					return b
				}
				return repo.Mutate(t, b, test.old, test.replacement)
			}, test.args...)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("promtool %s: %v, not %q\n%s", strings.Join(test.args, " "), err, test.want, out)
			}
		})
	}
}
