package dashboard

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"linkcancel/deploy/proof/dashboard/schema"
	"linkcancel/deploy/proof/repo"
)

// TestFile: the file is what panels.go makes. UPDATE=1 writes it.
func TestFile(t *testing.T) {
	want, err := Make().JSON()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(repo.Path(t, File), want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(want), string(repo.Read(t, File))); diff != "" {
		t.Errorf("%s is not what panels.go makes (-made +file); UPDATE=1 writes it:\n%s", File, diff)
	}
}

func TestSchema(t *testing.T) {
	file := repo.Read(t, File)
	if err := schema.Check(file); err != nil {
		t.Error(err)
	}
	for name, change := range map[string][2]string{
		"field of the dashboard": {`"refresh": "10s"`, `"refreshes": "10s"`},
		"field of a panel":       {`"title": "Alerts",`, `"title": "Alerts", "subtitle": "",`},
		"field of a query":       {`"expr": "go_goroutines{job=\"$job\"}"`, `"expression": "go_goroutines{job=\"$job\"}"`},
	} {
		if err := schema.Check(repo.Mutate(t, file, change[0], change[1])); err == nil {
			t.Errorf("%s: a mistake was not found", name)
		}
	}
	changed := Make()
	panelOf(changed, "Alerts").Options["colourMode"] = "value"
	panelOf(changed, "In flight").Options["colourMode"] = "value"
	b, err := changed.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Check(b); err == nil {
		t.Error("an option that does not exist was not found")
	}
}

func TestLint(t *testing.T) {
	d, err := Parse(repo.Read(t, File))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Lint(); err != nil {
		t.Error(err)
	}
	if n := len(d.Exprs()); n < 50 {
		t.Errorf("only %d queries were read: does Parse still find them?", n)
	}
}

// TestLintFinds: what is wrong is found, each on its own.
func TestLintFinds(t *testing.T) {
	file := repo.Read(t, File)
	for name, test := range map[string]struct {
		change func(*Dashboard)
		want   string
	}{
		"no description":        {func(d *Dashboard) { panelOf(d, "How far").Description = "" }, "no description"},
		"no unit":               {func(d *Dashboard) { panelOf(d, "Time to answer").FieldConfig.Defaults.Unit = "" }, "has no unit"},
		"no text without data":  {func(d *Dashboard) { panelOf(d, "Time left").FieldConfig.Defaults.NoValue = "" }, "when there is no data"},
		"no thresholds":         {func(d *Dashboard) { panelOf(d, "Failing").FieldConfig.Defaults.Thresholds = nil }, "neither thresholds nor colours"},
		"thresholds unordered":  {func(d *Dashboard) { panelOf(d, "Failing").FieldConfig.Defaults.Thresholds.Steps[2].Value = number(0) }, "thresholds that make no sense"},
		"data source fixed":     {func(d *Dashboard) { panelOf(d, "Failing").Targets[0].Datasource.UID = "prometheus" }, "data source that was chosen"},
		"no data source chosen": {func(d *Dashboard) { d.Templating.List = d.Templating.List[1:] }, "variable datasource"},
		"no fleet chosen":       {func(d *Dashboard) { d.Templating.List = d.Templating.List[:1] }, "variable job"},
		"several fleets":        {func(d *Dashboard) { d.Templating.List[1].Multi = true }, "several fleets"},
		"a row is missing":      {func(d *Dashboard) { panelOf(d, "Sweep").Title = "Sweeping" }, "rows are"},
		"panels overlap":        {func(d *Dashboard) { panelOf(d, "Failing").GridPos.X = 0 }, "lie on each other"},
		"beyond the grid":       {func(d *Dashboard) { panelOf(d, "Alerts").GridPos.W = 5 }, "beyond the grid"},
		"id twice":              {func(d *Dashboard) { panelOf(d, "Alerts").ID = panelOf(d, "Failing").ID }, "has the id"},
		"title twice":           {func(d *Dashboard) { panelOf(d, "Alerts").Title = "Failing" }, "two panels"},
		"all fleets": {func(d *Dashboard) { edit(d, "Oldest task", `{job="$job"}`, "") },
			`job="$job" is missing`},
		"a fleet of one's own": {func(d *Dashboard) { edit(d, "Oldest task", "$job", "linkcancel") }, `job="$job" is missing`},
		"unknown variable":     {func(d *Dashboard) { edit(d, "Oldest task", "$job", "${cluster}") }, "not defined"},
		"window of its own": {func(d *Dashboard) {
			edit(d, "In flight", "sum(linkcancel_api_requests_in_flight", "sum(max_over_time(linkcancel_api_requests_in_flight")
			edit(d, "In flight", `"})`, `"}[5m]))`)
		}, "window of its own"},
		"syntax":               {func(d *Dashboard) { edit(d, "Oldest task", "max by (queue) (", "max by (queue) ((") }, "does not parse"},
		"fleet summed":         {func(d *Dashboard) { edit(d, "Oldest task", "max by", "sum by") }, "wants max"},
		"counter not summed":   {func(d *Dashboard) { edit(d, "Repairs", "sum by", "max by") }, "wants sum"},
		"counter not rated":    {func(d *Dashboard) { edit(d, "Repairs", "increase(", "("); edit(d, "Repairs", "[$__rate_interval]", "") }, "wants sum"},
		"gauge of each worker": {func(d *Dashboard) { edit(d, "In flight", "sum", "") }, "aggregate it"},
		"quantile of nothing":  {func(d *Dashboard) { edit(d, "Time to answer", " >= 0", "") }, "is NaN"},
		"range in a stat":      {func(d *Dashboard) { panelOf(d, "How far").Targets[0].Instant = false }, "instant is false"},
		"no query":             {func(d *Dashboard) { panelOf(d, "Alerts").Targets = nil }, "no query"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse(file)
			if err != nil {
				t.Fatal(err)
			}
			test.change(d)
			if err := d.Lint(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Lint says %v, not %q", err, test.want)
			}
		})
	}
}

func panelOf(d *Dashboard, title string) *Panel {
	for i := range d.Panels {
		if d.Panels[i].Title == title {
			return &d.Panels[i]
		}
	}
	panic("there is no panel " + title)
}

// edit changes the first query of a panel.
func edit(d *Dashboard, title, old, replacement string) {
	q := &panelOf(d, title).Targets[0]
	if !strings.Contains(q.Expr, old) {
		panic("the query of " + title + " has no " + old)
	}
	q.Expr = strings.ReplaceAll(q.Expr, old, replacement)
}

// TestProvisioning: Grafana finds the dashboard where the provider looks, and
// the data source is a Prometheus.
func TestProvisioning(t *testing.T) {
	for file, want := range map[string][]string{
		"deploy/grafana/provisioning/dashboards/linkcancel.yml":  {"path: /etc/grafana/dashboards", "type: file"},
		"deploy/grafana/provisioning/datasources/linkcancel.yml": {"type: prometheus", "uid: prometheus"},
	} {
		for _, line := range want {
			if !bytes.Contains(repo.Read(t, file), []byte(line)) {
				t.Errorf("%s has no %q", file, line)
			}
		}
	}
}
