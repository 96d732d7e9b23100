package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// sample is what one measurement gave: figures by name.
type sample map[string]float64

// series is what one contender gave in one case, time after time.
type series struct {
	Case    string               `json:"case"`
	Who     string               `json:"who"`
	Date    string               `json:"date"`   // of the measurement
	Commit  string               `json:"commit"` // of the product
	Figures map[string][]float64 `json:"figures"`

	fresh bool // of this run
}

// results are all series, and what the tables need beside them.
type results struct {
	Machine machine           `json:"machine"`
	LeftOut map[string]string `json:"left_out,omitempty"` // contenders, and why
	Series  []*series         `json:"series"`
	Micro   string            `json:"micro,omitempty"` // what benchstat says
	Ratios  []ratios          `json:"ratios,omitempty"`
}

// loadResults reads the results of earlier runs; there may be none.
func loadResults(path string) (results, error) {
	r := results{LeftOut: map[string]string{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

func (r *results) save(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// find returns a series, nil if there is none.
func (r *results) find(heading, who string) *series {
	for _, s := range r.Series {
		if s.Case == heading && s.Who == who {
			return s
		}
	}
	return nil
}

// whos are all that a case was measured with, in their order.
func (r *results) whos(heading string) []string {
	var names []string
	for _, s := range r.Series {
		if s.Case == heading {
			names = append(names, s.Who)
		}
	}
	return names
}

// add adds one measurement, and shows it. The first of a run replaces those of earlier ones.
func (b *bench) add(heading, who string, got sample) {
	s := b.results.find(heading, who)
	if s == nil {
		s = &series{Case: heading, Who: who}
		b.results.Series = append(b.results.Series, s)
	}
	if !s.fresh {
		s.fresh, s.Date, s.Commit, s.Figures = true, time.Now().Format(time.DateOnly), b.commit, map[string][]float64{}
	}
	fmt.Printf("%s | %s |", heading, who)
	for _, name := range slices.Sorted(maps.Keys(got)) {
		s.Figures[name] = append(s.Figures[name], got[name])
		fmt.Printf(" %s %.4g", name, got[name])
	}
	fmt.Println()
}

// leaveOut notes that something cannot be measured here.
func (b *bench) leaveOut(who, why string) {
	if b.results.LeftOut[who] == "" {
		fmt.Printf("left out: %s: %s\n", who, why)
	}
	b.results.LeftOut[who] = why
}

// median of a figure; false if it was not measured.
func (r *results) median(heading, who, figure string) (float64, bool) {
	s := r.find(heading, who)
	if s == nil || len(s.Figures[figure]) == 0 {
		return 0, false
	}
	return median(s.Figures[figure]), true
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// printFresh writes the medians of this run, and how the targets stand if wanted.
func (r *results) printFresh(w io.Writer, withTargets bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	heading := ""
	for _, s := range r.Series {
		if !s.fresh {
			continue
		}
		if s.Case != heading {
			heading = s.Case
			fmt.Fprintf(t, "\n%s, medians\n", heading)
		}
		fmt.Fprintf(t, "  %s\t", s.Who)
		for _, name := range slices.Sorted(maps.Keys(s.Figures)) {
			fmt.Fprintf(t, "%s %.4g\t", name, median(s.Figures[name]))
		}
		fmt.Fprintln(t)
	}
	if !withTargets {
		return t.Flush()
	}
	fmt.Fprintln(t)
	for _, one := range targets {
		if got, ok := one.measure(r); ok {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", one.name, one.wanted(), one.show(got), one.verdict(got))
		}
	}
	return t.Flush()
}
