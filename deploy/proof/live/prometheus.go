package live

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"linkcancel/deploy/proof/repo"
	"linkcancel/deploy/proof/rules"
)

// prometheus is a Prometheus server that scrapes the workers.
type prometheus struct{ url string }

// startPrometheus starts one on the configuration of deploy/prometheus, but for
// the addresses of its targets. interval, if not "", is used in place of that
// of the workers' job.
func startPrometheus(t *testing.T, dir, name, interval string, workers []string) *prometheus {
	t.Helper()
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(repo.Read(t, rules.Config), &config); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{}
	address := freeAddress(t)
	p.url = "http://" + address
	for _, job := range config["scrape_configs"].([]any) {
		job := job.(map[string]any)
		targets := []string{address}
		if job["job_name"] == "linkcancel" {
			targets = workers
			if interval != "" {
				job["scrape_interval"], job["scrape_timeout"] = interval, interval
			}
		}
		delete(job, "dns_sd_configs")
		job["static_configs"] = []any{map[string]any{"targets": targets}}
	}
	b, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string][]byte{"prometheus.yml": b, "rules.yml": repo.Read(t, rules.File)} {
		if err := os.WriteFile(filepath.Join(home, file), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	start(t, t, home, name, nil, "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
		"--web.listen-address="+address, "--log.level=warn")
	until(t, name+" to be ready", func() (bool, any) {
		status, _, err := get(p.url + "/-/ready")
		return status == http.StatusOK, err
	})
	return p
}

// sample is one value of a series.
type sample struct {
	at    time.Time
	value float64
}

// result is a series that a query returned.
type result struct {
	labels  map[string]string
	samples []sample
}

// last is the latest value.
func (r result) last() float64 { return r.samples[len(r.samples)-1].value }

// query asks for the value at a time; zero: now. An expression with a range
// returns the raw samples.
func (p *prometheus) query(expr string, at time.Time) ([]result, error) {
	form := url.Values{"query": {expr}}
	if !at.IsZero() {
		form.Set("time", seconds(at))
	}
	return p.ask("/api/v1/query", form)
}

// queryRange asks for values at the steps of a time.
func (p *prometheus) queryRange(expr string, from, to time.Time, step time.Duration) ([]result, error) {
	return p.ask("/api/v1/query_range", url.Values{
		"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {step.String()},
	})
}

func seconds(t time.Time) string { return fmt.Sprintf("%.3f", float64(t.UnixMilli())/1000) }

func (p *prometheus) ask(path string, form url.Values) ([]result, error) {
	var data struct {
		Type   string          `json:"resultType"`
		Result json.RawMessage `json:"result"`
	}
	if err := p.get(path, form, &data); err != nil {
		return nil, err
	}
	if data.Type == "scalar" {
		var one [2]any
		if err := json.Unmarshal(data.Result, &one); err != nil {
			return nil, err
		}
		return []result{{samples: []sample{parseSample(one)}}}, nil
	}
	var raw []struct {
		Metric map[string]string `json:"metric"`
		Value  [2]any            `json:"value"`
		Values [][2]any          `json:"values"`
	}
	if err := json.Unmarshal(data.Result, &raw); err != nil {
		return nil, fmt.Errorf("read the answer of Prometheus: %w", err)
	}
	var all []result
	for _, s := range raw {
		r := result{labels: s.Metric}
		if len(s.Values) == 0 {
			s.Values = append(s.Values, s.Value)
		}
		for _, v := range s.Values {
			r.samples = append(r.samples, parseSample(v))
		}
		all = append(all, r)
	}
	return all, nil
}

func parseSample(v [2]any) sample {
	at, _ := v[0].(float64)
	text, _ := v[1].(string)
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		value = math.NaN()
	}
	return sample{time.UnixMilli(int64(at * 1000)), value}
}

// series returns the labels of all series that were there in a time.
func (p *prometheus) series(matchers []string, from, to time.Time) ([]map[string]string, error) {
	var all []map[string]string
	err := p.get("/api/v1/series", url.Values{"match[]": matchers, "start": {seconds(from)}, "end": {seconds(to)}}, &all)
	return all, err
}

func (p *prometheus) get(path string, form url.Values, into any) error {
	_, body, err := get(p.url + path + "?" + form.Encode())
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("read the answer of Prometheus: %w", err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}
