package dashboard

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"linkcancel/deploy/proof/promql"
)

// Rows are the rows that the dashboard must have, in this order.
var Rows = []string{"Now", "Outcomes", "API", "Queue and ledger", "Sweep", "Process"}

// Expr is a query of the dashboard.
type Expr struct {
	Where  string // panel and refId
	Expr   string // as written, with variables
	Legend string
}

// Exprs are all queries of the dashboard, those of its annotations too.
func (d *Dashboard) Exprs() []Expr {
	var all []Expr
	for _, a := range d.Annotations.List {
		all = append(all, Expr{"annotation " + a.Name, a.Expr, a.TitleFormat + a.TextFormat})
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all = append(all, Expr{fmt.Sprintf("panel %q, query %s", p.Title, q.RefID), q.Expr, q.LegendFormat})
		}
	}
	return all
}

// Expand puts values in place of the variables, as Grafana does.
func Expand(expr, job, rateInterval string) string {
	return strings.NewReplacer("$job", job, "$__rate_interval", rateInterval).Replace(expr)
}

// Lint checks all that can be checked without series.
func (d *Dashboard) Lint() error {
	return errors.Join(d.lintFrame(), d.lintPlaces(), d.lintPanels(), d.lintQueries())
}

func (d *Dashboard) lintFrame() error {
	var all []error
	if d.UID == "" || d.Title == "" || d.Refresh == "" || len(d.Tags) == 0 {
		all = append(all, errors.New("uid, title, refresh or tags are missing"))
	}
	variables := map[string]Variable{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v
		if v.Label == "" || v.Description == "" {
			all = append(all, fmt.Errorf("variable %s has no label or no description", v.Name))
		}
	}
	if v := variables["datasource"]; v.Type != "datasource" || v.Query != "prometheus" {
		all = append(all, errors.New("there is no variable datasource that chooses a Prometheus"))
	}
	if v := variables["job"]; v.Type != "query" || v.Query != "label_values(linkcancel_build_info, job)" || v.Datasource == nil || *v.Datasource != source {
		all = append(all, errors.New("there is no variable job that is asked of the data source"))
	} else if v.Multi || v.IncludeAll {
		all = append(all, errors.New("variable job takes several fleets: their numbers would be mixed"))
	}
	var rows []string
	for _, p := range d.Panels {
		if p.Type == "row" {
			rows = append(rows, p.Title)
		}
	}
	if !slices.Equal(rows, Rows) {
		all = append(all, fmt.Errorf("rows are %q, not %q", rows, Rows))
	}
	return errors.Join(all...)
}

// lintPlaces: ids are unique, and no panel lies on another or beyond the grid.
func (d *Dashboard) lintPlaces() error {
	var all []error
	ids, titles, taken := map[int]string{}, map[string]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other, ok := ids[p.ID]; ok || p.ID == 0 {
			all = append(all, fmt.Errorf("panel %q has the id %d of %q", p.Title, p.ID, other))
		}
		ids[p.ID] = p.Title
		if titles[p.Title] {
			all = append(all, fmt.Errorf("two panels are called %q", p.Title))
		}
		titles[p.Title] = true
		if p.GridPos.W <= 0 || p.GridPos.H <= 0 || p.GridPos.X < 0 || p.GridPos.X+p.GridPos.W > 24 {
			all = append(all, fmt.Errorf("panel %q is beyond the grid: %+v", p.Title, p.GridPos))
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					all = append(all, fmt.Errorf("panels %q and %q lie on each other", other, p.Title))
					x = 24
					break
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	return errors.Join(all...)
}

// descriptionLeast is how long a description must be to say something.
const descriptionLeast = 40

func (d *Dashboard) lintPanels() error {
	var all []error
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		bad := func(format string, args ...any) {
			all = append(all, fmt.Errorf("panel %q %s", p.Title, fmt.Sprintf(format, args...)))
		}
		if len(p.Description) < descriptionLeast || !strings.HasSuffix(p.Description, ".") {
			bad("has no description of one sentence or more")
		}
		if p.Datasource == nil || *p.Datasource != source {
			bad("does not take the data source that was chosen")
		}
		if len(p.Targets) == 0 {
			bad("has no query")
		}
		if p.FieldConfig == nil {
			bad("has no field configuration")
			continue
		}
		f := p.FieldConfig.Defaults
		if f.Unit == "" {
			bad("has no unit")
		}
		if f.NoValue == "" {
			bad("does not say what it means when there is no data")
		}
		if slices.Contains([]string{"stat", "bargauge", "gauge", "state-timeline"}, p.Type) && !p.colored() {
			bad("has neither thresholds nor colours")
		}
		if f.Thresholds != nil {
			if err := f.Thresholds.check(); err != nil {
				bad("has thresholds that make no sense: %v", err)
			}
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.RefID == "" {
				bad("has two queries %q", q.RefID)
			}
			refs[q.RefID] = true
			if q.Datasource != source {
				bad("query %s does not take the data source that was chosen", q.RefID)
			}
			if q.LegendFormat == "" {
				bad("query %s has no legend", q.RefID)
			}
			// A range would show the last value of a series that has ended.
			if now := p.Type == "stat" || p.Type == "bargauge" || p.Type == "table"; q.Instant != now || q.Range == now {
				bad("query %s: instant is %v in a %s", q.RefID, q.Instant, p.Type)
			}
		}
	}
	return errors.Join(all...)
}

// colored says whether thresholds or fixed colors distinguish values.
func (p Panel) colored() bool {
	if p.FieldConfig.Defaults.Thresholds != nil {
		return true
	}
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if property["id"] == "thresholds" || property["id"] == "color" {
				return true
			}
		}
	}
	return false
}

func (t Thresholds) check() error {
	if t.Mode != "absolute" || len(t.Steps) == 0 || t.Steps[0].Value != nil {
		return errors.New("the first step must have no value, and the mode be absolute")
	}
	for i, s := range t.Steps {
		switch {
		case s.Color == "":
			return fmt.Errorf("step %d has no colour", i)
		case i > 0 && s.Value == nil, i > 1 && *s.Value <= *t.Steps[i-1].Value:
			return fmt.Errorf("step %d is not above the one before", i)
		}
	}
	return nil
}

var (
	variable = regexp.MustCompile(`\$(\w+|\{\w+\})`)
	counter  = regexp.MustCompile(`_(total|bucket|sum|count)$`)
	ours     = "linkcancel_"
	fleet    = ours + "fleet_"
)

// fixedWindows are ranges that may stand in place of $__rate_interval, in a stat
// whose description names them.
var fixedWindows = map[string]string{"15m0s": "15 minutes"}

func (d *Dashboard) lintQueries() error {
	descriptions := map[string]string{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			descriptions[q.Expr] = p.Description
		}
	}
	var all []error
	for _, e := range d.Exprs() {
		bad := func(format string, args ...any) {
			all = append(all, fmt.Errorf("%s %s", e.Where, fmt.Sprintf(format, args...)))
		}
		for _, v := range variable.FindAllString(e.Expr, -1) {
			if v != "$job" && v != "$__rate_interval" {
				bad("uses the variable %s, which is not defined", v)
			}
		}
		// It would be a value, in place of the words for no data.
		if strings.Contains(e.Expr, "histogram_quantile(") && !strings.Contains(e.Expr, ">= 0") {
			bad("is NaN where nothing was observed: compare it")
		}
		// A window of 7 s can only have come from the variable.
		q, err := promql.Parse(Expand(e.Expr, "JOB", "7s"))
		if err != nil {
			bad("does not parse: %v", err)
			continue
		}
		for _, s := range q.Selectors {
			if !slices.ContainsFunc(s.Matchers, func(m promql.Matcher) bool { return m.String() == `job="JOB"` }) {
				bad(`asks for %s of all fleets: job="$job" is missing`, s.Metric)
			}
			if words, ok := fixedWindows[s.Window]; s.Window != "" && s.Window != "7s" && !(ok && strings.Contains(descriptions[e.Expr], words)) {
				bad("has a window of its own, %s: use $__rate_interval", s.Window)
			}
			if err := aggregated(s); err != nil {
				bad("%v", err)
			}
		}
	}
	return errors.Join(all...)
}

// aggregated: what is the same on every worker is not summed over them, and what
// each worker counts for itself is.
func aggregated(s promql.Selector) error {
	switch {
	case strings.HasPrefix(s.Metric, fleet):
		if s.Aggregation != "max" && s.Aggregation != "avg" {
			return fmt.Errorf("%s is the same on every worker: it wants max or avg, not %q", s.Metric, s.Aggregation)
		}
	case strings.HasPrefix(s.Metric, ours) && counter.MatchString(s.Metric):
		if s.Aggregation != "sum" || !s.Rated {
			return fmt.Errorf("%s is counted by each worker: it wants sum of rate or increase, not %q", s.Metric, s.Aggregation)
		}
	case strings.HasPrefix(s.Metric, ours) && s.Aggregation == "":
		return fmt.Errorf("%s has a value for each worker: aggregate it", s.Metric)
	}
	return nil
}
