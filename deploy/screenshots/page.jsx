// The page: the dashboard as its file says, at the time that the address names.
import { createTheme, dateTime, rangeUtil } from '@grafana/data';
import { GlobalStyles, Icon, PanelChrome, ThemeContext, ToolbarButton, InlineLabel } from '@grafana/ui';
import React from 'react';
import { createRoot } from 'react-dom/client';

import { Visualization, prepare } from './panels.jsx';
import { frames, variables } from './queries.js';

const theme = createTheme({ colors: { mode: 'dark' } });

// Grafana's grid, in pixels.
const columns = 24, cell = 30, gap = 8, edge = 16, top = 56;

function place({ x, y, w, h }) {
  const column = (window.innerWidth - 2 * edge - (columns - 1) * gap) / columns;
  return {
    left: edge + x * (column + gap), top: top + y * (cell + gap),
    width: w * (column + gap) - gap, height: h * (cell + gap) - gap,
  };
}

function Head({ dashboard, values, range }) {
  return (
    <div style={{ position: 'absolute', left: edge, right: edge, top: gap, height: top - 2 * gap, display: 'flex', alignItems: 'center', gap }}>
      <h4 style={{ margin: `0 ${edge}px 0 0` }}>{dashboard.title}</h4>
      {dashboard.templating.list.map((v) => (
        <div key={v.name} style={{ display: 'flex' }}>
          <InlineLabel width="auto" style={{ margin: 0 }}>{v.label}</InlineLabel>
          <ToolbarButton variant="canvas" isOpen={false}>{values[v.name]}</ToolbarButton>
        </div>
      ))}
      <div style={{ flexGrow: 1 }} />
      <ToolbarButton variant="canvas" icon="clock-nine" isOpen={false}>{rangeUtil.describeTimeRange(range.raw)}</ToolbarButton>
      <ToolbarButton variant="canvas" icon="sync" isOpen={false}>{dashboard.refresh}</ToolbarButton>
    </div>
  );
}

function Dashboard({ dashboard, panels, values, range }) {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Head dashboard={dashboard} values={values} range={range} />
      {panels.map((panel) => (
        <section key={panel.id} data-row={panel.type === 'row' ? panel.title : undefined} style={{ position: 'absolute', ...panel.place }}>
          {panel.type === 'row' ? (
            <h5 style={{ margin: 0, lineHeight: `${cell}px` }}><Icon name="angle-down" /> {panel.title}</h5>
          ) : (
            <PanelChrome title={panel.title} description={panel.description} width={panel.place.width} height={panel.place.height}
              padding={panel.type === 'table' ? 'none' : 'md'}>
              {(width, height) => <Visualization panel={panel} width={width} height={height} range={range} />}
            </PanelChrome>
          )}
        </section>
      ))}
      <div style={{ position: 'absolute', height: edge, top: Math.max(...panels.map((p) => p.place.top + p.place.height)) }} />
    </ThemeContext.Provider>
  );
}

// draw resolves to the titles of panels without data.
window.draw = async ({ from, to, interval }) => {
  const dashboard = await (await fetch('/dashboard.json')).json();
  const range = { from: dateTime(from), to: dateTime(to), raw: { from: `now-${Math.round((to - from) / 60_000)}m`, to: 'now' } };
  const values = await variables(dashboard);
  const panels = await Promise.all(dashboard.panels.map(async (p) => {
    const panel = { ...p, place: place(p.gridPos) };
    if (panel.type === 'row') {
      return panel;
    }
    return prepare(panel, await frames(panel, panel.place.width, values, range, interval), theme);
  }));
  // What measures text has to have the font.
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 14px Inter`)));
  createRoot(document.getElementById('page')).render(<Dashboard {...{ dashboard, panels, values, range }} />);
  return panels.filter((p) => p.data?.every((f) => f.length === 0)).map((p) => p.title);
};
