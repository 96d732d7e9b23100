package promql

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	q, err := Parse(`max by (job) (up{job=~"a|b"}) > sum(rate(hits_total[5m] offset 1h)) or count(ups) + min_over_time((size > 0)[1h:5m])`)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range q.Selectors {
		q.Selectors[i].Matchers = nil
		if _, err := Parse(s.Text); err != nil {
			t.Errorf("the text of a selector does not parse: %v", err)
		}
	}
	want := []Selector{
		{Metric: "up", Aggregation: "max", Text: `up{job=~"a|b"}`},
		{Metric: "hits_total", Aggregation: "sum", Rated: true, Window: "5m0s", Text: "hits_total"},
		{Metric: "ups", Aggregation: "count", Text: "ups"},
		{Metric: "size", Window: "1h0m0s", Text: "size"},
	}
	if diff := cmp.Diff(want, q.Selectors); diff != "" {
		t.Errorf("selectors (-want +have):\n%s", diff)
	}
	if _, err := Parse("sum(("); err == nil {
		t.Error("sum(( was parsed")
	}
}

func TestCatalogue(t *testing.T) {
	c := Catalogue{}
	c.Add(map[string]string{"__name__": "links", "job": "x", "outcome": "cancelled"})
	c.Add(map[string]string{"__name__": "links", "job": "x", "outcome": "failed"})
	c.Add(map[string]string{"__name__": "up", "job": "x"})
	for expr, want := range map[string]string{
		`sum by (outcome) (links{job="x",outcome=~"failed|cancelled"})`: "",
		`links{outcome!="failed"} and on (job) up`:                      "",
		`link`:                                 "no metric link",
		`links{outcom="failed"}`:               "links has no label outcom",
		`links{outcome="failing"}`:             `links never has outcome="failing"`,
		`links{outcome!~"failed|cancel"}`:      `links never has outcome=~"cancel"`,
		`sum by (outcomes) (links)`:            "links has no label outcomes",
		`sum by (outcome) (up)`:                "up has no label outcome",
		`links and on (outcome) up`:            "up has no label outcome",
		`sum without (outcome) (rate(up[5m]))`: "up has no label outcome",
	} {
		q, err := Parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		switch err := c.Check(q); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", expr, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: found %v, not %q", expr, err, want)
		}
	}
}
