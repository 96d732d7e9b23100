// Package promql reads what an expression asks for, and checks it against the
// series that exist.
package promql

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

var language = parser.NewParser(parser.Options{})

// Matcher is a condition on a label.
type Matcher = *labels.Matcher

// Selector is one place of an expression that reads series.
type Selector struct {
	Metric   string
	Matchers []Matcher // the name's own left out
	// Aggregation is the nearest aggregation around it, such as "max"; "" without.
	Aggregation string
	// Rated: it is inside rate, increase or changes.
	Rated bool
	// Window is the range that is read, as written; "" for an instant.
	Window string
	// Text is the selector itself, with neither range nor offset.
	Text string
}

// Query is an expression that was read.
type Query struct {
	Text      string
	Selectors []Selector
	groupings []grouping
}

// grouping is a list of labels in by, on and the like, and the metrics that it
// stands over.
type grouping struct {
	labels  []string
	metrics []string
}

// Parse reads an expression. The text must have no variables left.
func Parse(text string) (*Query, error) {
	expr, err := language.ParseExpr(text)
	if err != nil {
		return nil, fmt.Errorf("parse %q: %w", text, err)
	}
	q := &Query{Text: text}
	q.visit(expr, Selector{})
	return q, nil
}

// visit walks down; around lists the enclosing expressions.
func (q *Query) visit(node parser.Node, around Selector) {
	switch n := node.(type) {
	case *parser.VectorSelector:
		around.Metric = n.Name
		for _, m := range n.LabelMatchers {
			if m.Name == model.MetricNameLabel {
				around.Metric = m.Value
			} else {
				around.Matchers = append(around.Matchers, m)
			}
		}
		plain := *n
		plain.OriginalOffset, plain.Timestamp, plain.StartOrEnd = 0, nil, 0
		around.Text = plain.String()
		q.Selectors = append(q.Selectors, around)
		return
	case *parser.AggregateExpr:
		around.Aggregation = n.Op.String()
		if len(n.Grouping) > 0 {
			q.groupings = append(q.groupings, grouping{n.Grouping, metrics(n.Expr)})
		}
	case *parser.Call:
		if slices.Contains([]string{"rate", "irate", "increase", "changes"}, n.Func.Name) {
			around.Rated = true
		}
	case *parser.MatrixSelector:
		around.Window = n.Range.String()
	case *parser.SubqueryExpr:
		around.Window = n.Range.String()
	case *parser.BinaryExpr:
		if m := n.VectorMatching; m != nil && len(m.MatchingLabels) > 0 {
			q.groupings = append(q.groupings, grouping{m.MatchingLabels, metrics(n.LHS, n.RHS)})
		}
	}
	for child := range parser.ChildrenIter(node) {
		q.visit(child, around)
	}
}

func metrics(nodes ...parser.Node) []string {
	var inner Query
	for _, node := range nodes {
		inner.visit(node, Selector{})
	}
	var names []string
	for _, s := range inner.Selectors {
		names = append(names, s.Metric)
	}
	return names
}

// Catalogue is what exists: the values of each label of each metric.
type Catalogue map[string]map[string]map[string]bool

// Add adds a series.
func (c Catalogue) Add(series map[string]string) {
	name := series[model.MetricNameLabel]
	if c[name] == nil {
		c[name] = map[string]map[string]bool{}
	}
	for label, value := range series {
		if label == model.MetricNameLabel {
			continue
		}
		if c[name][label] == nil {
			c[name][label] = map[string]bool{}
		}
		c[name][label][value] = true
	}
}

// Check finds everything in an expression that does not exist: metrics, labels,
// and values of labels.
func (c Catalogue) Check(q *Query) error {
	var all []error
	for _, s := range q.Selectors {
		all = append(all, c.CheckSelector(s.Metric, s.Matchers))
	}
	for _, g := range q.groupings {
		for _, label := range g.labels {
			for _, metric := range g.metrics {
				if known := c[metric]; known != nil && known[label] == nil {
					all = append(all, fmt.Errorf("%s has no label %s to group or match by", metric, label))
				}
			}
		}
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("%s: %w", q.Text, err)
	}
	return nil
}

// CheckSelector is Check for one selector.
func (c Catalogue) CheckSelector(metric string, matchers []Matcher) error {
	known, ok := c[metric]
	if !ok {
		return fmt.Errorf("there is no metric %s", metric)
	}
	var all []error
	for _, m := range matchers {
		values := known[m.Name]
		if values == nil {
			all = append(all, fmt.Errorf("%s has no label %s", metric, m.Name))
			continue
		}
		for _, want := range alternatives(m) {
			if !slices.ContainsFunc(keys(values), want.Matches) {
				all = append(all, fmt.Errorf("%s never has %s", metric, want))
			}
		}
	}
	return errors.Join(all...)
}

// alternatives are the values that a matcher names, each as a matcher that wants
// it; so that a misspelt one among several shows.
func alternatives(m Matcher) []Matcher {
	var all []Matcher
	switch m.Type {
	case labels.MatchEqual, labels.MatchNotEqual:
		all = append(all, labels.MustNewMatcher(labels.MatchEqual, m.Name, m.Value))
	case labels.MatchRegexp, labels.MatchNotRegexp:
		for value := range strings.SplitSeq(m.Value, "|") {
			all = append(all, labels.MustNewMatcher(labels.MatchRegexp, m.Name, value))
		}
	}
	return all
}

func keys(set map[string]bool) []string {
	var all []string
	for k := range set {
		all = append(all, k)
	}
	return all
}
