// The chart's dashboard as Grafana's own components draw it (panels, graphs, tables, transformations, colours), from its JSON and
// a Prometheus: what screens.mjs photographs. It is not Grafana: no menus, no choice of time, and every namespace.
import 'uplot/dist/uPlot.min.css';
import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  EventBusSrv, FieldType, Registry, ThemeContext, applyFieldOverrides, createTheme, dateTime, getFieldDisplayValues,
  standardTransformers, standardTransformersRegistry, toDataFrame, transformDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, Table, TimeSeries } from '@grafana/ui';

const WIDTH = 1592, ROW = 38;
const theme = createTheme({ colors: { mode: 'dark' } });
const given = new URLSearchParams(location.search);
const from = Number(given.get('from')), to = Number(given.get('to'));
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-15m', to: 'now' } };
const same = (value) => value;

// What Grafana's panels register when it starts.
standardTransformersRegistry.setInit(() => [
  { id: 'joinByField', name: 'join', transformation: standardTransformers.joinByFieldTransformer },
  { id: 'organize', name: 'organize', transformation: standardTransformers.organizeFieldsTransformer },
]);
const option = (path, isCustom) => ({
  id: isCustom ? `custom.${path}` : path, name: path, path, isCustom, settings: {}, process: same, shouldApply: () => true,
});
const fieldConfigRegistry = new Registry(() => [
  ...['unit', 'min', 'max', 'decimals', 'thresholds', 'mappings', 'color'].map((path) => option(path, false)),
  ...['drawStyle', 'lineWidth', 'lineStyle', 'lineInterpolation', 'fillOpacity', 'gradientMode', 'showPoints', 'pointSize', 'spanNulls',
    'stacking', 'axisPlacement', 'scaleDistribution', 'hideFrom', 'cellOptions', 'align'].map((path) => option(path, true)),
]);
const defaults = {
  timeseries: {
    color: { mode: 'palette-classic' },
    custom: { lineInterpolation: 'linear', gradientMode: 'none', axisPlacement: 'auto', pointSize: 5, scaleDistribution: { type: 'linear' },
      hideFrom: { legend: false, tooltip: false, viz: false } },
  },
  stat: { color: { mode: 'thresholds' } },
  table: { color: { mode: 'thresholds' }, custom: { align: 'auto', cellOptions: { type: 'auto' } } },
};

async function frames(target, width) {
  const step = Math.max(5, Math.ceil((to - from) / width / 5) * 5);
  const first = Math.floor(from / step) * step;
  const times = target.instant ? { time: to } : { start: first, end: to, step };
  const expression = target.expr.replaceAll('$namespace', '.*').replaceAll('$__rate_interval', '60s').replaceAll('$__range', `${to - from}s`);
  const asked = new URLSearchParams({ query: expression, ...times });
  const answer = await (await fetch(`/api/v1/${target.instant ? 'query' : 'query_range'}?${asked}`)).json();
  if (answer.status !== 'success') { throw new Error(`${expression}: ${answer.error}`); }
  const { result } = answer.data;
  if (target.format === 'table') {
    const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].filter((name) => name !== '__name__').sort();
    return [toDataFrame({ refId: target.refId, fields: [
      { name: 'Time', type: FieldType.time, values: result.map(({ value }) => value[0] * 1000) },
      ...labels.map((name) => ({ name, type: FieldType.string, values: result.map(({ metric }) => metric[name] ?? '') })),
      { name: `Value #${target.refId}`, type: FieldType.number, values: result.map(({ value }) => Number(value[1])) },
    ] })];
  }
  return result.map(({ metric, value, values }) => {
    const known = new Map((values ?? [value]).map(([time, number]) => [time, Number(number)]));
    // a gap is a gap, and not a line across it
    const all = target.instant ? [...known.keys()] : Array.from({ length: Math.floor((to - first) / step) + 1 }, (_, n) => first + n * step);
    const name = (target.legendFormat ?? '').replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? '');
    return toDataFrame({ refId: target.refId, fields: [
      { name: 'Time', type: FieldType.time, values: all.map((time) => time * 1000), config: { interval: step * 1000 } },
      { name: 'Value', type: FieldType.number, labels: metric, values: all.map((time) => known.get(time) ?? null), config: { displayNameFromDS: name } },
    ] });
  });
}

async function data(panel, width) {
  let found = (await Promise.all(panel.targets.map((target) => frames(target, width)))).flat();
  if (panel.transformations) { found = await lastValueFrom(transformDataFrame(panel.transformations, found, { interpolate: same })); }
  const own = panel.fieldConfig.defaults, usual = defaults[panel.type];
  const steps = (own.thresholds?.steps ?? []).map((step) => ({ ...step, value: step.value ?? -Infinity }));
  const fieldConfig = { ...panel.fieldConfig, defaults: { ...usual, ...own, custom: { ...usual.custom, ...own.custom }, thresholds: { mode: 'absolute', steps } } };
  return applyFieldOverrides({ data: found, fieldConfig, fieldConfigRegistry, replaceVariables: same, theme, timeZone: 'utc' });
}

function Panel({ panel, width, height }) {
  const [found, setFound] = useState(null);
  useEffect(() => { data(panel, width).then(setFound, (error) => console.error(panel.title, error)); }, []);
  const drawn = (width, height) => {
    if (!found) { return null; }
    document.body.dataset.drawn = Number(document.body.dataset.drawn ?? 0) + 1;
    const { options } = panel;
    if (found.length === 0) { return <div style={{ textAlign: 'center', paddingTop: height / 2 - 10 }}>No data</div>; }
    if (panel.type === 'table') { return <Table data={found[0]} width={width} height={height} />; }
    if (panel.type === 'stat') {
      const [{ display }] = getFieldDisplayValues({ ...panel, data: found, reduceOptions: options.reduceOptions, replaceVariables: same, theme });
      return <BigValue theme={theme} value={display} width={width} height={height} {...options} justifyMode="auto" />;
    }
    const legend = { showLegend: true, calcs: [], ...options.legend };
    return <TimeSeries frames={found} structureRev={1} timeRange={timeRange} timeZone="utc" width={width} height={height} legend={legend} options={{}} />;
  };
  return <PanelChrome title={panel.title} width={width} height={height} padding={panel.type === 'table' ? 'none' : 'md'}>{drawn}</PanelChrome>;
}

function Dashboard({ panels }) {
  return panels.map((panel) => {
    const { x, y, w, h } = panel.gridPos;
    const place = { position: 'absolute', left: 8 + (x * WIDTH) / 24, top: 8 + y * ROW };
    const content = panel.type === 'row' ? <h5 style={{ padding: 6 }}>{panel.title}</h5> : <Panel panel={panel} width={(w * WIDTH) / 24 - 8} height={h * ROW - 8} />;
    return <div key={panel.id} style={place}>{content}</div>;
  });
}

const context = { eventsScope: 'dashboard', eventBus: new EventBusSrv(), sync: () => 0, canAddAnnotations: () => false };
const { panels } = await (await fetch('/dashboard.json')).json();
createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <PanelContextProvider value={context}><Dashboard panels={panels} /></PanelContextProvider>
  </ThemeContext.Provider>,
);
