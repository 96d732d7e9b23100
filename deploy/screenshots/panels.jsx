// Draws a panel by its type, with the components that Grafana draws it with.
import {
  FieldConfigOptionsRegistry, applyFieldOverrides, cacheFieldDisplayNames, getDisplayValueAlignmentFactors, getFieldDisplayValues,
  standardTransformers, standardTransformersRegistry, transformDataFrame,
} from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, VizRepeater, useTheme2 } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import React from 'react';

import { Timeline } from './timeline.jsx';

export const timeZone = 'utc';

standardTransformersRegistry.setInit(() =>
  [standardTransformers.groupingToMatrixTransformer, standardTransformers.organizeFieldsTransformer].map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation, editor: () => null,
  })));

// options are the properties that fieldConfig may set: those of all panels, and
// those of this type of panel, which the file has under "custom".
function options({ defaults, overrides }) {
  const set = [
    'unit', 'decimals', 'min', 'max', 'displayName', 'noValue', 'color', 'thresholds', 'mappings',
    ...Object.keys(defaults.custom ?? {}).map((k) => `custom.${k}`),
    ...overrides.flatMap((o) => o.properties.map((p) => p.id)),
  ];
  return new FieldConfigOptionsRegistry(() => [...new Set(set)].map((id) => ({
    id, name: id, path: id.replace(/^custom\./, ''), isCustom: id.startsWith('custom.'), process: (value) => value, shouldApply: () => true,
  })));
}

// open lets the first step of thresholds begin at minus infinity, which JSON does
// not know.
const open = (fieldConfig) => JSON.parse(JSON.stringify(fieldConfig), (key, value) =>
  (key === 'steps' ? value.map((s) => ({ ...s, value: s.value ?? -Infinity })) : value));

// prepare makes of the answers what the panel shows: transformed, with units,
// colours and names.
export async function prepare(panel, frames, theme) {
  const fieldConfig = open(panel.fieldConfig);
  const transformed = await new Promise((resolve) => transformDataFrame(panel.transformations ?? [], frames).subscribe(resolve));
  const data = applyFieldOverrides({
    data: transformed, fieldConfig, fieldConfigRegistry: options(fieldConfig), replaceVariables: (s) => s, theme, timeZone,
  });
  cacheFieldDisplayNames(data);
  return { ...panel, fieldConfig, data };
}

export function Visualization({ panel, width, height, range }) {
  const theme = useTheme2();
  const { data, fieldConfig } = panel;
  const single = panel.type === 'stat' || panel.type === 'bargauge';
  if (!single && data.every((f) => f.length === 0)) {
    return <NoData>{fieldConfig.defaults.noValue}</NoData>;
  }
  switch (panel.type) {
    case 'stat':
    case 'bargauge':
      return <Values panel={panel} width={width} height={height} theme={theme} />;
    case 'timeseries':
      return <TimeSeries frames={data} width={width} height={height} timeRange={range} timeZone={timeZone} legend={panel.options.legend} options={panel.options} />;
    case 'state-timeline':
      return <Timeline frames={data} width={width} height={height} range={range} timeZone={timeZone} options={panel.options} />;
    case 'table':
      return <TableNG data={data[0]} width={width} height={height} cellHeight={panel.options.cellHeight} noHeader={!panel.options.showHeader} fieldConfig={fieldConfig} />;
    default:
      throw new Error(`panel ${panel.title} is a ${panel.type}, which is not drawn here`);
  }
}

const NoData = ({ children }) => (
  <div style={{ height: '100%', display: 'flex', alignItems: 'center', justifyContent: 'center' }}>{children}</div>
);

// Values shows one value of each series: stat and bargauge.
function Values({ panel, width, height, theme }) {
  const { options: o, fieldConfig } = panel;
  const values = getFieldDisplayValues({
    data: panel.data, fieldConfig, reduceOptions: o.reduceOptions, replaceVariables: (s) => s, theme, timeZone,
  });
  const shared = { getValues: () => values, getAlignmentFactors: getDisplayValueAlignmentFactors, source: panel.data, renderCounter: 0, width, height };
  if (panel.type === 'stat') {
    return (
      <VizRepeater
        {...shared} itemSpacing={3} autoGrid orientation={o.orientation}
        renderValue={({ value, width, height, alignmentFactors, count }) => (
          <BigValue
            value={value.display} count={count} width={width} height={height} alignmentFactors={alignmentFactors} theme={theme} text={o.text}
            colorMode={o.colorMode} graphMode={o.graphMode} justifyMode={o.justifyMode} textMode={o.textMode} disableWideLayout={!o.wideLayout}
          />
        )}
      />
    );
  }
  return (
    <VizRepeater
      {...shared} itemSpacing={10} orientation={o.orientation} minVizWidth={o.minVizWidth} minVizHeight={o.minVizHeight} maxVizHeight={o.maxVizHeight}
      renderValue={({ value, width, height, orientation, alignmentFactors }) => (
        <BarGauge
          value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)} width={width} height={height}
          orientation={orientation} alignmentFactors={alignmentFactors} theme={theme} text={o.text} itemSpacing={10}
          displayMode={o.displayMode} showUnfilled={o.showUnfilled} valueDisplayMode={o.valueMode} namePlacement={o.namePlacement} isOverflow={false}
        />
      )}
    />
  );
}
