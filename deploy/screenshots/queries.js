// Asks Prometheus what Grafana would ask, and makes data frames of the answers.
import { FieldType, rangeUtil } from '@grafana/data';

async function ask(path, form) {
  const response = await fetch(`/api/v1/${path}?${new URLSearchParams(form)}`);
  const answer = await response.json();
  if (answer.status !== 'success') {
    throw new Error(`${answer.error}: ${form.query ?? path}`);
  }
  return answer.data;
}

// variables are the values of the dashboard's variables, the first of each: with
// one Prometheus and one fleet there is no other.
export async function variables(dashboard) {
  const values = { datasource: 'Prometheus' };
  for (const v of dashboard.templating.list.filter((v) => v.type === 'query')) {
    const [, metric, label] = v.query.match(/^label_values\((\w+), (\w+)\)$/);
    [values[v.name]] = await ask(`label/${label}/values`, { 'match[]': metric });
  }
  return values;
}

// frames are the answers to all queries of a panel that is so many pixels wide.
// scrape is the interval that the data source is set to, in milliseconds.
export async function frames(panel, width, values, range, scrape) {
  const least = panel.interval ? rangeUtil.intervalToMs(panel.interval) : scrape;
  const step = rangeUtil.calculateInterval(range, width, `${least}ms`).intervalMs;
  const window = Math.max(step + scrape, 4 * scrape);
  const answers = await Promise.all(panel.targets.map(async (target) => {
    const query = target.expr.replace(/\$(\w+)/g, (all, name) => (name === '__rate_interval' ? `${window}ms` : (values[name] ?? all)));
    const aligned = (t) => Math.floor(t / step) * step / 1000;
    const data = target.instant
      ? await ask('query', { query, time: range.to.valueOf() / 1000 })
      : await ask('query_range', { query, start: aligned(range.from.valueOf()), end: aligned(range.to.valueOf()), step: step / 1000 });
    const series = data.resultType === 'scalar' ? [{ metric: {}, value: data.result }] : data.result;
    return target.format === 'table' ? table(target, series) : series.map((s) => frame(target, s, step));
  }));
  return answers.flat();
}

// A value that is no number is none, as in Grafana's graphs.
const number = (text) => (Number.isFinite(Number(text)) ? Number(text) : null);

function frame(target, { metric, value, values = [value] }, step) {
  const legend = target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
  return {
    refId: target.refId,
    name: legend,
    length: values.length,
    fields: [
      // The interval tells where a gap begins.
      { name: 'Time', type: FieldType.time, config: { interval: step }, values: values.map(([at]) => at * 1000) },
      { name: 'Value', type: FieldType.number, config: { displayNameFromDS: legend }, labels: metric, values: values.map(([, v]) => number(v)) },
    ],
  };
}

function table(target, series) {
  if (series.length === 0) {
    return [];
  }
  const labels = Object.keys(series[0].metric).sort();
  return [{
    refId: target.refId,
    length: series.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: series.map((s) => s.value[0] * 1000) },
      ...labels.map((label) => ({ name: label, type: FieldType.string, config: { filterable: true }, values: series.map((s) => s.metric[label]) })),
      { name: 'Value', type: FieldType.number, config: {}, values: series.map((s) => number(s.value[1])) },
    ],
  }];
}
