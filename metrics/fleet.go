package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"linkcancel/internal/ledger"
)

// All label values of batches and their links.
var (
	batchStates = [...]ledger.State{
		ledger.Importing, ledger.Ready, ledger.Running, ledger.Paused, ledger.Done, ledger.AbortedState,
	}
	// pendingStates are the states with pending links. An aborted batch has some until it is
	// filled.
	pendingStates = [...]ledger.State{ledger.Ready, ledger.Running, ledger.Paused, ledger.AbortedState, scheduled}
	// scheduled is instead of ready while --not-before is ahead.
	scheduled = ledger.State("scheduled")
	// linkStates are the states of a link: pending, or one of the outcomes.
	linkStates = append([]ledger.Outcome{ledger.None}, ledger.Outcomes[:]...)
)

// fleetDescs describe what all processes report alike, so query these with max.
type fleetDescs struct {
	links, batches, pending, batchLinks, verified, workers, keys, tasks, oldest, rows *prometheus.Desc
	sweepStart, sweepEnd, sweepGood, sweepNext, sweepLinks, sweepOK, sweepSuspicious  *prometheus.Desc
}

func newFleetDescs() fleetDescs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("linkcancel_fleet_"+name, help, labels, nil)
	}
	return fleetDescs{
		links:   desc("links", "Links of all batches in the ledger, by outcome.", "source", "outcome"),
		batches: desc("batches", "Batches in the ledger, by state.", "source", "state"),
		pending: desc("pending_links", "Links without an outcome, by state of their batch; those of an aborted one are about to get the outcome aborted, and scheduled ones wait for --not-before.", "source", "state"),
		batchLinks: desc("batch_links", "Links of the 15 newest unfinished batches, by outcome.",
			"batch", "outcome"),
		verified: desc("verified_links", "Links of the latest verification of each batch, by result; of earlier ones, too, if that is a sample.", "result"),
		workers:  desc("workers", "Live workers."),
		keys:     desc("api_keys", "Different API keys of the live workers. Workers of earlier releases do not report theirs."),
		tasks:    desc("queue_slices", "Tasks in the queue: slices of links in cancel and verify, sweeps in sweep.", "queue", "state"),
		oldest:   desc("queue_oldest_seconds", "How long the oldest pending task has waited for a worker; 0 without one.", "queue"),
		rows:     desc("import_rows", "Rows of the files of all batches in the ledger: links, duplicates, and invalid rows.", "result"),

		sweepStart: desc("sweep_last_start_timestamp_seconds", "When the latest scheduled sweep began; 0 without one."),
		sweepEnd:   desc("sweep_last_end_timestamp_seconds", "When the latest sweep ended, successful or not; 0 without one."),
		sweepGood:  desc("sweep_last_success_timestamp_seconds", "When the latest successful sweep ended; 0 without one."),
		sweepNext:  desc("sweep_next_timestamp_seconds", "When the next sweep is due; 0 without one. In the past if it is overdue."),
		sweepLinks: desc("sweep_last_links", "Links of the last sweep that has ended: listed by the API; selected; selected but waiting in an unfinished batch already; past their expiry; cancelled of its batch so far.", "result"),
		sweepOK:    desc("sweep_last_success", "1 if the latest ended sweep was successful, else 0."),
		sweepSuspicious: desc("sweep_suspicious",
			"1 if the last sweep that has ended selected nothing though many links are past their expiry."),
	}
}

func (d *fleetDescs) describe(ch chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{
		d.links, d.batches, d.pending, d.batchLinks, d.verified, d.workers, d.keys, d.tasks, d.oldest, d.rows,
		d.sweepStart, d.sweepEnd, d.sweepGood, d.sweepNext, d.sweepLinks, d.sweepOK, d.sweepSuspicious,
	} {
		ch <- one
	}
}

func (d *fleetDescs) collect(ch chan<- prometheus.Metric, f *fleet) {
	d.collectBatches(ch, f.batches, f.now)
	d.collectSweeps(ch, f)
	ch <- gauge(d.workers, float64(f.workers))
	ch <- gauge(d.keys, float64(f.keys))
	for i, name := range queues {
		for k, state := range taskStates {
			ch <- gauge(d.tasks, float64(f.queues[i].tasks[k]), name, state)
		}
		var oldest time.Duration
		if since := f.queues[i].since; !since.IsZero() {
			oldest = max(0, f.now.Sub(since)) // by the clock of the process that enqueued it
		}
		ch <- gauge(d.oldest, oldest.Seconds(), name)
	}
}

func (d *fleetDescs) collectBatches(ch chan<- prometheus.Metric, batches []*ledger.Batch, now time.Time) {
	var links [len(sources)]ledger.Counts // None: pending
	var states, pending [len(sources)]map[ledger.State]int64
	for i := range sources {
		states[i], pending[i] = map[ledger.State]int64{}, map[ledger.State]int64{}
	}
	var rows, duplicates, invalid int64
	shown := 0
	for _, b := range batches { // newest first
		if b.Verifies() {
			continue
		}
		i := sourceIndex(b.Source)
		states[i][b.State]++
		counts := b.Counts
		counts[ledger.None] = b.Pending()
		for _, o := range linkStates {
			links[i][o] += counts[o]
		}
		if counts[ledger.None] > 0 {
			state := b.State
			if state == ledger.Ready && now.Before(b.NotBefore) {
				state = scheduled
			}
			pending[i][state] += counts[ledger.None]
			if shown++; shown <= newestBatches {
				for _, o := range linkStates {
					ch <- gauge(d.batchLinks, float64(counts[o]), b.ID, o.String())
				}
			}
		}
		if b.Parent == "" && b.Source != "sweep" { // made from rows
			rows, duplicates, invalid = rows+b.Total, duplicates+b.Duplicates, invalid+b.Invalid
		}
	}
	for i, source := range sources {
		for _, o := range linkStates {
			ch <- gauge(d.links, float64(links[i][o]), source, o.String())
		}
		for _, s := range batchStates {
			ch <- gauge(d.batches, float64(states[i][s]), source, string(s))
		}
		for _, s := range pendingStates {
			ch <- gauge(d.pending, float64(pending[i][s]), source, string(s))
		}
	}
	verified := verifiedLinks(batches)
	for _, o := range ledger.Verdicts[:3] {
		ch <- gauge(d.verified, float64(verified[o]), o.String())
	}
	ch <- gauge(d.rows, float64(rows), "links")
	ch <- gauge(d.rows, float64(duplicates), "duplicates")
	ch <- gauge(d.rows, float64(invalid), "invalid")
}

// verifiedLinks counts the results of verifications. One that has read all links of its batch replaces
// the earlier ones.
func verifiedLinks(batches []*ledger.Batch) (counts ledger.Counts) {
	replaced := map[string]bool{} // by batch
	for _, v := range batches {
		if !v.Verifies() || replaced[v.Parent] {
			continue
		}
		replaced[v.Parent] = v.State == ledger.Done && v.Total == v.Population
		for o, links := range v.Counts {
			counts[o] += links
		}
	}
	return counts
}

func (d *fleetDescs) collectSweeps(ch chan<- prometheus.Metric, f *fleet) {
	var last ledger.SweepRun
	if f.sweeps.Last != nil {
		last = *f.sweeps.Last
	}
	started := last.Started
	if f.sweeps.Running != nil {
		started = f.sweeps.Running.Started
	}
	var cancelled int64
	for _, b := range f.batches {
		if last.Batch != "" && b.ID == last.Batch {
			cancelled = b.Counts[ledger.Cancelled]
		}
	}
	ch <- gauge(d.sweepStart, unix(started))
	ch <- gauge(d.sweepEnd, unix(last.Ended))
	ch <- gauge(d.sweepGood, unix(f.sweeps.Succeeded))
	ch <- gauge(d.sweepNext, unix(f.sweeps.Next))
	ch <- gauge(d.sweepOK, boolValue(last.OK))
	ch <- gauge(d.sweepSuspicious, boolValue(last.Counts.Suspicious))
	ch <- gauge(d.sweepLinks, float64(last.Counts.Listed), "listed")
	ch <- gauge(d.sweepLinks, float64(last.Counts.Selected), "selected")
	ch <- gauge(d.sweepLinks, float64(last.Counts.Waiting), "waiting")
	ch <- gauge(d.sweepLinks, float64(last.Counts.PastExpiry), "past_expiry")
	ch <- gauge(d.sweepLinks, float64(cancelled), "cancelled")
}

// unix returns an instant in seconds, 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
