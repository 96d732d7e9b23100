package dashboard

// Make makes the dashboard. A fleet is a job; series named linkcancel_fleet_* are
// the same on every worker, so the highest of them is taken, and those of
// processes are summed. Where states are summed the mean is taken: workers are
// scraped one after another, and a batch that changes its state in between would
// count twice.
func Make() *Dashboard {
	return &Dashboard{
		UID: "linkcancel", Title: "linkcancel",
		Description:   "How far is it, when will it end, what is failing, are we being throttled, is the queue healthy, did last night's sweep run. Alerts: deploy/RUNBOOK.md.",
		Tags:          []string{"linkcancel"},
		SchemaVersion: 39, Version: 1, Editable: true, GraphTooltip: 1, Timezone: "browser", Refresh: "10s",
		Time: TimeRange{From: "now-1h", To: "now"},
		Templating: Templating{List: []Variable{
			{
				Name: "datasource", Label: "Data source", Description: "The Prometheus that scrapes the workers.",
				Type: "datasource", Query: "prometheus", Refresh: 1,
			},
			{
				Name: "job", Label: "Fleet", Description: "The scrape job: all workers of one API key on one Redis database.",
				Type: "query", Query: "label_values(linkcancel_build_info, job)", Definition: "label_values(linkcancel_build_info, job)",
				Datasource: &source, Refresh: 2, Sort: 1,
			},
		}},
		Annotations: Annotations{List: []Annotation{{
			Name: "Alerts", Datasource: source, Enable: true, IconColor: "red",
			Expr: `ALERTS{job="$job",alertname=~"Linkcancel.*",alertstate="firing"}`,
			Step: "30s", TitleFormat: "{{alertname}}", TextFormat: "{{severity}}", TagKeys: "severity",
		}}},
		Panels: layout([]row{
			{"Now", now()},
			{"Outcomes", outcomes()},
			{"API", api()},
			{"Queue and ledger", queue()},
			{"Sweep", sweep()},
			{"Process", process()},
		}),
	}
}

const (
	// waiting is how many links wait in batches that are not paused.
	waiting = `sum(avg by (source, state) (linkcancel_fleet_pending_links{job="$job",state=~"ready|running"}))`
	// timeLeft is how long they take as things go; nothing while none get an outcome.
	timeLeft = `(` + waiting + ` > 0) / (sum(rate(linkcancel_outcomes_total{job="$job"}[$__rate_interval])) > 0)`

	limitPresent = `max(linkcancel_limit_present_requests_per_second{job="$job"})`
	limitCeiling = `max(linkcancel_limit_ceiling_requests_per_second{job="$job"})`
)

// quantile is one of a histogram. Where nothing was observed it would be NaN, which
// takes the place of the words for no data.
func quantile(q, by, histogram, matchers string) string {
	return `histogram_quantile(` + q + `, sum by (` + by + `) (rate(` + histogram + `_bucket{job="$job"` + matchers + `}[$__rate_interval]))) >= 0`
}

func now() []Panel {
	red := fixed("red")
	return []Panel{
		stat(4, "How far",
			"Share of the links of all unfinished batches (of the 15 newest) that have their outcome.",
			"percentunit", "Idle: no unfinished batch",
			query("done", `1 - sum(max by (batch) (linkcancel_fleet_batch_links{job="$job",outcome="pending"}))
  / sum(max by (batch, outcome) (linkcancel_fleet_batch_links{job="$job"}))`),
			decimals(1), between(0, 1)),
		stat(4, "Links waiting",
			"Links without an outcome in ready and running batches, and in paused ones, which wait for somebody.",
			"locale", "Not known: no worker, or Redis is away",
			query("to do", waiting),
			query("paused", `sum(max by (source) (linkcancel_fleet_pending_links{job="$job",state="paused"}))`),
			decimals(0), as("paused", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "blue"}, {Color: "orange", Value: number(1)}}})),
		stat(4, "Time left",
			"Links that wait in ready and running batches, divided by the outcomes a second of the last minute. It knows nothing of holds to come.",
			"dthms", "Idle, or nothing moves",
			query("left", timeLeft), smooth("1m")),
		stat(4, "Ends at",
			"Now and the time left: when the last link gets its outcome at the speed of the last minute.",
			"dateTimeAsLocalNoDateIfToday", "Idle, or nothing moves",
			query("end", `1000 * (time() + `+timeLeft+`)`), smooth("1m")),
		stat(4, "Failing",
			"Share of failed and rejected links among the outcomes of the last 15 minutes. LinkcancelFailureShare fires above 5%.",
			"percentunit", "No outcome in 15 minutes",
			query("failing", `sum(increase(linkcancel_outcomes_total{job="$job",outcome=~"failed|rejected"}[15m]))
  / (sum(increase(linkcancel_outcomes_total{job="$job"}[15m])) > 0)`),
			decimals(1), between(0, 1), steps("green", 0.01, "orange", 0.05, "red")),
		stat(4, "Alerts",
			"Alerts of linkcancel that are firing for this fleet. deploy/RUNBOOK.md has a paragraph on each.",
			"none", "Not known",
			query("firing", `count(ALERTS{job="$job",alertname=~"Linkcancel.*",alertstate="firing"}) or vector(0)`),
			steps("green", 1.0, "red")),

		stat(8, "Holds",
			"Why nothing is sent at present. throttled, outage and manual hold the whole fleet; unauthorized counts if one worker holds because the API refuses its key.",
			"none", "Not known: no worker is scraped",
			query("{{reason}}", `max by (reason) (linkcancel_hold{job="$job"})`),
			steps("green", 1.0, "red"), said("0", "no", "1", "HOLD"), as("throttled", "thresholds",
				Thresholds{Mode: "absolute", Steps: []Step{{Color: "green"}, {Color: "orange", Value: number(1)}}})),
		stat(4, "Rate allowed",
			"The present rate as a share of the configured limit. Below 100% the API has answered 429, or is coming back from an outage, and we climb back.",
			"percentunit", "Not known: no worker is scraped",
			query("allowed", limitPresent+` / `+limitCeiling),
			decimals(0), between(0, 1), steps("red", 0.25, "orange", 0.8, "green")),
		stat(4, "Oldest task",
			"How long the oldest task of each queue has waited for a worker. The feeder keeps 2 s of work in the queue, so a few seconds are normal except during a hold. LinkcancelQueueOld fires above 10 minutes.",
			"s", "Not known: no worker, or Redis is away",
			query("{{queue}}", `max by (queue) (linkcancel_fleet_queue_oldest_seconds{job="$job"})`),
			decimals(0), steps("green", 60.0, "orange", 600.0, "red")),
		stat(4, "Redis and workers",
			"Whether all workers can read Redis, and how many workers are alive by their heartbeats in it.",
			"none", "Not known: no worker is scraped",
			query("Redis", `min(linkcancel_redis_up{job="$job"})`),
			query("workers", `max(linkcancel_fleet_workers{job="$job"})`),
			as("Redis", "mappings", []map[string]any{mapping("0", "AWAY", "1", "ok")},
				"thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "red"}, {Color: "green", Value: number(1)}}}),
			as("workers", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "red"}, {Color: "blue", Value: number(1)}}})),
		stat(4, "Last sweep",
			"How the last sweep by schedule ended, and how long ago the last good one did. suspicious: it selected nothing though many links are past their expiry.",
			"none", "No sweep by schedule has ended yet",
			query("result", `(
  max(linkcancel_fleet_sweep_last_success{job="$job"})
    + max(linkcancel_fleet_sweep_suspicious{job="$job"})
) and max(linkcancel_fleet_sweep_last_end_timestamp_seconds{job="$job"}) > 0`),
			query("last good", `time() - (max(linkcancel_fleet_sweep_last_success_timestamp_seconds{job="$job"}) > 0)`),
			as("result", "mappings", []map[string]any{mapping("0", "FAILED", "1", "ok", "2", "suspicious")},
				"thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "red"}, {Color: "green", Value: number(1)}, {Color: "orange", Value: number(2)}}}),
			as("last good", "unit", "s", "decimals", 0, "thresholds",
				Thresholds{Mode: "absolute", Steps: []Step{{Color: "green"}, {Color: "orange", Value: number(26 * 3600)}}})),

		graph(8, "Rate against limit",
			"Requests that ended, links that got their outcome, and the limit that both keep to. Where requests stay under the present limit, the API is slow or work is short; outcomes stay under requests by what was asked twice.",
			"reqps", "No worker is scraped",
			query("requests", `sum(rate(linkcancel_api_requests_total{job="$job"}[$__rate_interval]))`),
			query("outcomes", `sum(rate(linkcancel_outcomes_total{job="$job"}[$__rate_interval]))`),
			query("present limit", limitPresent),
			query("configured limit", limitCeiling),
			colours("requests", "blue", "outcomes", "green", "present limit", "orange"),
			as("configured limit", "color", red, "custom.fillOpacity", 0, "custom.lineStyle", map[string]any{"fill": "dash", "dash": []int{8, 8}}),
			as("present limit", "custom.fillOpacity", 0)),
		graph(8, "Links waiting, over time",
			"Links without an outcome, by the state of their batch. A straight way down is good; level means that nothing moves.",
			"locale", "No worker is scraped, or Redis is away",
			query("{{state}}", `sum by (state) (avg by (source, state) (linkcancel_fleet_pending_links{job="$job"}))`),
			stacked, colours("running", "blue", "ready", "#808080", "paused", "orange", "aborted", "purple")),
		timeline(8, "Holds, over time",
			"When nothing was sent, and why. Short throttled holds are how the fleet follows the API's limit.",
			"No worker is scraped",
			query("{{reason}}", `max by (reason) (linkcancel_hold{job="$job"})`),
			steps("transparent", 1.0, "red"), said("0", "sending", "1", "hold"),
			as("throttled", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "transparent"}, {Color: "orange", Value: number(1)}}})),
		matrix(24, 6, "Unfinished batches",
			"Links of the 15 newest unfinished batches by outcome. linkcancel batch show has more about each batch.",
			"locale", "No unfinished batch", "batch", "outcome",
			[]string{"pending", "cancelled", "already_cancelled", "not_found", "not_cancellable", "rejected", "failed", "aborted"},
			query("{{batch}} {{outcome}}", `max by (batch, outcome) (linkcancel_fleet_batch_links{job="$job"})`),
			warned("rejected"), warned("failed")),
	}
}

func outcomes() []Panel {
	return []Panel{
		graph(12, "Outcomes a second",
			"Links that got their outcome, by what it is. What an abort fills in is not here.",
			"suffix: links/s", "No worker is scraped",
			query("{{outcome}}", `sum by (outcome) (rate(linkcancel_outcomes_total{job="$job"}[$__rate_interval]))`),
			stacked, outcomeColours("")),
		bars(6, 8, "Links of all batches",
			"What became of the links of all batches that the ledger still holds: exactly what the reports say.",
			"locale", "Not known: no worker, or Redis is away",
			query("{{outcome}}", `sum by (outcome) (max by (source, outcome) (linkcancel_fleet_links{job="$job"}))`),
			decimals(0), outcomeColours("")),
		bars(6, 8, "Failed and rejected",
			"Links of all batches in the ledger that may still be payable, by where they came from. linkcancel batch retry runs failed ones again.",
			"locale", "Not known: no worker, or Redis is away",
			query("{{outcome}} ({{source}})", `max by (source, outcome) (linkcancel_fleet_links{job="$job",outcome=~"failed|rejected"})`),
			decimals(0), steps("green", 1.0, "red")),
		graph(8, "From import to outcome",
			"Time from a batch's creation to the outcome of its links: median and 95% of those that got theirs in the interval, by source.",
			"s", "No link got an outcome",
			query("median {{source}}", quantile("0.5", "le, source", "linkcancel_link_latency_seconds", "")),
			query("95% {{source}}", quantile("0.95", "le, source", "linkcancel_link_latency_seconds", ""))),
		graph(8, "Attempts a link",
			"Attempts that links had used up when they got their outcome: the mean, and 99% of them. Near 1 all is well; near the limit of 12 links are about to fail.",
			"none", "No link got an outcome",
			query("mean", `sum(rate(linkcancel_link_attempts_sum{job="$job"}[$__rate_interval])) / (sum(rate(linkcancel_link_attempts_count{job="$job"}[$__rate_interval])) > 0)`),
			query("99%", "ceil("+quantile("0.99", "le", "linkcancel_link_attempts", "")+")")),
		graph(8, "Unclear answers, and how they were settled",
			"Attempts that may have been applied though no clear answer came, and links whose outcome took a GET to find out, by that outcome.",
			"suffix: /s", "No worker is scraped",
			query("unclear attempts", `sum(rate(linkcancel_ambiguous_attempts_total{job="$job"}[$__rate_interval]))`),
			query("settled: {{outcome}}", `sum by (outcome) (rate(linkcancel_settled_total{job="$job"}[$__rate_interval]))`),
			colours("unclear attempts", "dark-red"), outcomeColours("settled: ")),
	}
}

func api() []Panel {
	classes := colours("2xx", "green", "3xx", "purple", "4xx", "yellow", "429", "orange", "5xx", "red", "none", "dark-red")
	return []Panel{
		graph(12, "Answers by class",
			"What the API answered. 4xx is without 429; none is no answer at all: no connection, a time-out, cut off.",
			"reqps", "No worker is scraped",
			query("{{class}}", `sum by (class) (rate(linkcancel_api_requests_total{job="$job"}[$__rate_interval]))`),
			stacked, classes),
		graph(12, "Share of answers that are no help",
			"429s (we are too fast), 5xx and none (the API or the way to it fails), and answers that are not in the API's own form (unproven: a gateway, a firewall, or an API whose errors have no body), of all requests.",
			"percentunit", "No request",
			query("throttled", `sum(rate(linkcancel_api_requests_total{job="$job",class="429"}[$__rate_interval])) / (sum(rate(linkcancel_api_requests_total{job="$job"}[$__rate_interval])) > 0)`),
			query("failed", `sum(rate(linkcancel_api_requests_total{job="$job",class=~"5xx|none"}[$__rate_interval])) / (sum(rate(linkcancel_api_requests_total{job="$job"}[$__rate_interval])) > 0)`),
			query("unproven", `sum(rate(linkcancel_api_unproven_answers_total{job="$job"}[$__rate_interval])) / (sum(rate(linkcancel_api_requests_total{job="$job"}[$__rate_interval])) > 0)`),
			colours("throttled", "orange", "failed", "red", "unproven", "purple"), steps("transparent", 0.2, "red"), custom("thresholdsStyle", map[string]any{"mode": "dashed"})),
		graph(8, "Time to answer",
			"Time from a request to its answer: median, 95% and 99% of DELETE, and 95% of GET.",
			"s", "No request",
			query("median {{method}}", quantile("0.5", "le, method", "linkcancel_api_request_duration_seconds", `,method="DELETE"`)),
			query("95% {{method}}", quantile("0.95", "le, method", "linkcancel_api_request_duration_seconds", "")),
			query("99% {{method}}", quantile("0.99", "le, method", "linkcancel_api_request_duration_seconds", `,method="DELETE"`))),
		graph(8, "In flight",
			"Requests that wait for their answer, of all workers. Level at workers × --concurrency: calls hang, or the limit is out of reach.",
			"none", "No worker is scraped",
			query("in flight", `sum(linkcancel_api_requests_in_flight{job="$job"})`), decimals(0)),
		graph(8, "Waiting for the limit",
			"How long links waited for their slot within the rate limit: median and 99%. It is long on purpose when the limit is the bottleneck, and in a hold.",
			"s", "No link waited",
			query("median", quantile("0.5", "le", "linkcancel_limit_wait_seconds", "")),
			query("99%", quantile("0.99", "le", "linkcancel_limit_wait_seconds", ""))),
	}
}

func queue() []Panel {
	return []Panel{
		graph(8, "Tasks by state",
			"Tasks in the queues. pending and active follow the rate; retry holds slices that wait for their next attempt; archived must be 0.",
			"locale", "No worker is scraped, or Redis is away",
			query("{{queue}} {{state}}", `max by (queue, state) (linkcancel_fleet_queue_slices{job="$job",state=~"pending|active|retry|archived"})`),
			decimals(0)),
		graph(8, "Oldest task, over time",
			"How long the oldest task of each queue has waited for a worker.",
			"s", "No worker is scraped, or Redis is away",
			query("{{queue}}", `max by (queue) (linkcancel_fleet_queue_oldest_seconds{job="$job"})`),
			steps("transparent", 600.0, "red"), custom("thresholdsStyle", map[string]any{"mode": "dashed"})),
		graph(8, "Unfinished batches by state",
			"Batches that are not done. importing ones are being written; paused ones wait for somebody.",
			"none", "No worker is scraped, or Redis is away",
			query("{{state}}", `sum by (state) (avg by (source, state) (linkcancel_fleet_batches{job="$job",state=~"importing|ready|running|paused"}))`),
			stacked, decimals(0), colours("importing", "purple", "ready", "#808080", "running", "blue", "paused", "orange")),
		graph(8, "Links waiting by source",
			"Links without an outcome, by where their batch came from. Imports are fed before sweeps, 4 to 1.",
			"locale", "No worker is scraped, or Redis is away",
			query("{{source}}", `sum by (source) (avg by (source, state) (linkcancel_fleet_pending_links{job="$job"}))`), stacked),
		graph(8, "Repairs",
			"Slices that were enqueued again: orphaned ones had lost their worker, missing ones were not in the queue. No link is lost, but something crashed.",
			"none", "No worker is scraped",
			query("{{reason}}", `sum by (reason) (increase(linkcancel_ledger_repairs_total{job="$job"}[$__rate_interval]))`),
			colours("orphaned", "orange", "missing", "red")),
		graph(8, "Redis",
			"Workers that can read queue and ledger, and readings that failed.",
			"none", "No worker is scraped",
			query("workers with Redis", `sum(linkcancel_redis_up{job="$job"})`),
			query("failed readings", `sum(increase(linkcancel_collect_errors_total{job="$job"}[$__rate_interval]))`),
			decimals(0), colours("workers with Redis", "green", "failed readings", "red")),
		bars(12, 6, "Rows imported",
			"Rows of the files of all batches in the ledger: links taken, duplicates of them, and invalid rows left out.",
			"locale", "Not known: no worker, or Redis is away",
			query("{{result}}", `max by (result) (linkcancel_fleet_import_rows{job="$job"})`),
			decimals(0), colours("links", "blue", "duplicates", "#808080", "invalid", "orange")),
		bars(12, 6, "Batches",
			"All batches that the ledger holds, by state. Finished ones go after --keep, 30 days by default.",
			"none", "Not known: no worker, or Redis is away",
			query("{{state}}", `sum by (state) (max by (source, state) (linkcancel_fleet_batches{job="$job"}))`)),
	}
}

func sweep() []Panel {
	when := func(title, description, noData, legend, metric string, options ...option) Panel {
		return stat(6, title, description, "dateTimeFromNow", noData,
			append([]option{query(legend, `1000 * (max(`+metric+`{job="$job"}) > 0)`)}, options...)...)
	}
	return []Panel{
		when("Next sweep", "When the next sweep is due by --sweep-cron. In the past: it is overdue, and no worker planned another.",
			"None is planned: no worker has --sweep-cron", "next", "linkcancel_fleet_sweep_next_timestamp_seconds"),
		when("Last sweep began", "When the latest sweep by schedule began; it may still be at work.",
			"None began yet", "began", "linkcancel_fleet_sweep_last_start_timestamp_seconds"),
		when("Last sweep ended", "When the last sweep that has ended did so, well or not.",
			"None has ended yet", "ended", "linkcancel_fleet_sweep_last_end_timestamp_seconds"),
		when("Last good sweep", "When the last successful sweep ended. LinkcancelSweepMissed fires when one is missing.",
			"None has ended well yet", "ended well", "linkcancel_fleet_sweep_last_success_timestamp_seconds"),
		bars(8, 8, "What the last sweep found",
			"Links that the API listed; those selected; those selected that wait in an unfinished batch already; those past their expiry; and those of its batch that are cancelled by now.",
			"locale", "Not known: no worker, or Redis is away",
			query("{{result}}", `max by (result) (linkcancel_fleet_sweep_last_links{job="$job"})`), decimals(0)),
		bars(8, 8, "Links of sweeps",
			"What became of the links of all sweeps that the ledger still holds.",
			"locale", "Not known: no worker, or Redis is away",
			query("{{outcome}}", `max by (outcome) (linkcancel_fleet_links{job="$job",source="sweep"})`), decimals(0), outcomeColours("")),
		timeline(8, "Sweeps, over time",
			"Whether the last sweep ended well, and whether it was suspicious: it selected nothing though many links are past their expiry. Choose days at the top.",
			"No worker is scraped, or Redis is away",
			query("ended well", `max(linkcancel_fleet_sweep_last_success{job="$job"})`),
			query("suspicious", `max(linkcancel_fleet_sweep_suspicious{job="$job"})`),
			said("0", "no", "1", "yes"),
			as("ended well", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "#808080"}, {Color: "green", Value: number(1)}}}),
			as("suspicious", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "transparent"}, {Color: "orange", Value: number(1)}}})),
	}
}

func process() []Panel {
	return []Panel{
		stat(6, "Releases", "How many workers run which release. Two for long means that a deployment got stuck.",
			"none", "No worker is scraped",
			query("{{version}} ({{goversion}})", `count by (version, goversion) (linkcancel_build_info{job="$job"})`)),
		stat(6, "Scrape targets", "Workers that Prometheus reaches, and those it does not.",
			"none", "Prometheus knows of none",
			query("up", `sum(up{job="$job"})`), query("down", `count(up{job="$job"}) - sum(up{job="$job"})`),
			as("up", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "red"}, {Color: "green", Value: number(1)}}}),
			as("down", "thresholds", Thresholds{Mode: "absolute", Steps: []Step{{Color: "green"}, {Color: "red", Value: number(1)}}})),
		stat(6, "Youngest worker", "How long ago the worker began that was started last.",
			"s", "No worker is scraped",
			query("age", `time() - max(process_start_time_seconds{job="$job"})`), decimals(0)),
		stat(6, "Most open files", "The highest share of its limit of open files that a worker uses. At 100% it can make no connection.",
			"percentunit", "No worker is scraped",
			query("open files", `max(process_open_fds{job="$job"} / process_max_fds{job="$job"})`),
			decimals(1), between(0, 1), steps("green", 0.5, "orange", 0.8, "red")),
		graph(8, "CPU", "Processor time that each worker uses, in cores.",
			"none", "No worker is scraped",
			query("{{instance}}", `rate(process_cpu_seconds_total{job="$job"}[$__rate_interval])`)),
		graph(8, "Memory", "Memory that each worker holds (resident). It must not grow with the size of a batch.",
			"bytes", "No worker is scraped",
			query("{{instance}}", `process_resident_memory_bytes{job="$job"}`)),
		graph(8, "Goroutines", "Goroutines of each worker: some dozens, and one or two for each call in flight.",
			"none", "No worker is scraped",
			query("{{instance}}", `go_goroutines{job="$job"}`)),
	}
}
