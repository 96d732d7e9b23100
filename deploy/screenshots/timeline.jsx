// Draws a state timeline, the one kind of panel that @grafana/ui does not have.
import { getFieldDisplayName, outerJoinDataFrames, FieldType, FieldMatcherID, fieldMatchers } from '@grafana/data';
import { AxisPlacement, ScaleDirection, ScaleOrientation, UPlotChart, UPlotConfigBuilder, useTheme2 } from '@grafana/ui';
import React, { useMemo } from 'react';

export function Timeline({ frames, width, height, range, timeZone, options }) {
  const theme = useTheme2();
  const chart = useMemo(() => {
    const joined = outerJoinDataFrames({ frames, joinBy: fieldMatchers.get(FieldMatcherID.firstTimeField).get({}) });
    const series = joined.fields.filter((f) => f.type === FieldType.number);
    const names = series.map((f) => getFieldDisplayName(f, joined, frames));
    const [from, to] = [range.from.valueOf(), range.to.valueOf()];
    const config = new UPlotConfigBuilder(timeZone);

    config.addScale({ scaleKey: 'x', isTime: true, orientation: ScaleOrientation.Horizontal, direction: ScaleDirection.Right, range: () => [from, to] });
    config.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, timeZone, theme });
    // The first series is at the top: row i is from i to i+1, downwards.
    config.addScale({ scaleKey: 'y', orientation: ScaleOrientation.Vertical, direction: ScaleDirection.Down, range: () => [0, series.length] });
    config.addAxis({
      scaleKey: 'y', placement: AxisPlacement.Left, theme, grid: { show: false }, ticks: { show: false },
      splits: series.map((_, i) => i + 0.5), values: () => names,
    });
    for (const field of series) {
      config.addSeries({ scaleKey: 'y', theme, pathBuilder: () => null, pointsBuilder: () => false, fillOpacity: field.config.custom.fillOpacity });
    }
    config.addHook('draw', (u) => {
      const [x, y] = [(v) => u.valToPos(v, 'x', true), (v) => u.valToPos(v, 'y', true)];
      u.ctx.save();
      u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      u.ctx.clip();
      series.forEach((field, row) => {
        const [top, bottom] = [y(row), y(row + 1)];
        const tall = (bottom - top) * options.rowHeight;
        u.ctx.globalAlpha = field.config.custom.fillOpacity / 100;
        for (const state of states(joined.fields[0].values, field.values, to)) {
          u.ctx.fillStyle = field.display(state.value).color;
          u.ctx.fillRect(x(state.from), top + (bottom - top - tall) / 2, x(state.to) - x(state.from), tall);
        }
      });
      u.ctx.restore();
    });
    return { config, data: [joined.fields[0].values, ...series.map((f) => f.values)] };
  }, [frames]);
  return <UPlotChart config={chart.config} data={chart.data} width={width} height={height} />;
}

// states are the times of equal values: each lasts until the next value, or until
// there is none.
function* states(times, values, end) {
  for (let i = 0, next; i < values.length; i = next) {
    for (next = i + 1; next < values.length && values[next] === values[i];) {
      next++;
    }
    if (values[i] != null) {
      yield { value: values[i], from: times[i], to: times[next] ?? end };
    }
  }
}
