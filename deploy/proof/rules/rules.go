// Package rules checks the alerts, their tests and the configuration of
// Prometheus, by promtool and beyond it.
package rules

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"linkcancel/deploy/proof/promql"
)

// Where the files are, from the root of the repository.
const (
	Dir     = "deploy/prometheus"
	File    = Dir + "/rules.yml"
	Config  = Dir + "/prometheus.yml"
	Runbook = "deploy/RUNBOOK.md"
)

// Tests are the files of Dir with the cases of the rules.
var Tests = []string{"rules_test.yml", "rules_long_test.yml"}

// Rules is a file of rules.
type Rules struct {
	Groups []Group `yaml:"groups"`
}

// Group is a group of rules that are looked at together.
type Group struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval"`
	Rules    []Rule `yaml:"rules"`
}

// Rule is an alert.
type Rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Parse reads a file of rules. An unknown key is an error.
func Parse(b []byte) (*Rules, error) {
	var r Rules
	if err := strict(b, &r); err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	return &r, nil
}

func strict(b []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	return d.Decode(into)
}

// All are the rules of all groups.
func (r *Rules) All() []Rule {
	var all []Rule
	for _, g := range r.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// Lint checks what promtool does not.
func (r *Rules) Lint() error {
	var all []error
	seen := map[string]bool{}
	for _, a := range r.All() {
		bad := func(format string, args ...any) {
			all = append(all, fmt.Errorf("alert %q %s", a.Alert, fmt.Sprintf(format, args...)))
		}
		if !strings.HasPrefix(a.Alert, "Linkcancel") || seen[a.Alert] {
			bad("is not called Linkcancel…, or is there twice")
		}
		seen[a.Alert] = true
		if !slices.Contains([]string{"critical", "warning"}, a.Labels["severity"]) {
			bad("has the severity %q: use critical or warning", a.Labels["severity"])
		}
		for _, name := range []string{"summary", "description"} {
			if a.Annotations[name] == "" {
				bad("has no %s", name)
			}
		}
		if want := Runbook + "#" + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			bad("has the runbook_url %q, not %q", a.Annotations["runbook_url"], want)
		}
		q, err := promql.Parse(a.Expr)
		if err != nil {
			bad("does not parse: %v", err)
			continue
		}
		for _, s := range q.Selectors {
			if strings.HasPrefix(s.Metric, "linkcancel_fleet_") && s.Aggregation != "max" && s.Aggregation != "min" {
				bad("takes %s, which is the same on every worker, by %q: use max", s.Metric, s.Aggregation)
			}
			if strings.HasPrefix(s.Metric, "linkcancel_") && strings.HasSuffix(s.Metric, "_total") && (s.Aggregation != "sum" || !s.Rated) {
				bad("takes %s, which each worker counts for itself, without a sum of rate or increase", s.Metric)
			}
		}
	}
	if len(seen) == 0 {
		all = append(all, errors.New("there are no alerts"))
	}
	return errors.Join(all...)
}

var heading = regexp.MustCompile(`(?m)^### (Linkcancel\w+)\s*$`)

// LintRunbook checks that the runbook has a part on each alert, and on no other.
// Its heading is the bare name, so that runbook_url leads there.
func (r *Rules) LintRunbook(runbook []byte) error {
	found := map[string]int{}
	for _, m := range heading.FindAllSubmatch(runbook, -1) {
		found[string(m[1])]++
	}
	var all []error
	for _, a := range r.All() {
		if n := found[a.Alert]; n != 1 {
			all = append(all, fmt.Errorf("%s has %d headings \"### %s\", not one", Runbook, n, a.Alert))
		}
		delete(found, a.Alert)
	}
	for name := range found {
		all = append(all, fmt.Errorf("%s describes %s, which is not an alert", Runbook, name))
	}
	return errors.Join(all...)
}

// Cases are the cases of a file for promtool test rules, as far as they are
// looked at here.
type Cases struct {
	Tests []struct {
		Name  string `yaml:"name"`
		Input []struct {
			Series string `yaml:"series"`
		} `yaml:"input_series"`
		Alerts []struct {
			Name     string `yaml:"alertname"`
			Expected []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

// ParseCases reads a file of cases.
func ParseCases(b []byte) (*Cases, error) {
	var c Cases
	if err := yaml.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("read the cases of the rules: %w", err)
	}
	return &c, nil
}

// LintCases checks that each alert has a case that fires and one that does not.
func (r *Rules) LintCases(files ...*Cases) error {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, c := range files {
		for _, test := range c.Tests {
			for _, a := range test.Alerts {
				if len(a.Expected) > 0 {
					fires[a.Name] = true
				} else {
					silent[a.Name] = true
				}
			}
		}
	}
	var all []error
	for _, a := range r.All() {
		if !fires[a.Alert] {
			all = append(all, fmt.Errorf("alert %s has no case in which it fires", a.Alert))
		}
		if !silent[a.Alert] {
			all = append(all, fmt.Errorf("alert %s has no case in which it does not fire", a.Alert))
		}
	}
	return errors.Join(all...)
}
