// Writes the dashboards: node generate.js OUTPUT_DIRECTORY. One source, so that every panel is titled, described and
// in a unit, and every selector is held to the job and instance that are chosen. Output is the classic JSON model,
// which every Grafana from 11 on reads.
'use strict';

const fs = require('fs');
const path = require('path');
const sdk = (name) => require(`@grafana/grafana-foundation-sdk/${name}`);
const { DashboardBuilder, RowBuilder, QueryVariableBuilder, DatasourceVariableBuilder, TextBoxVariableBuilder, VariableRefresh,
  DashboardCursorSync, DashboardLinkBuilder, ThresholdsConfigBuilder, ThresholdsMode, FieldColorBuilder } = sdk('dashboard');
const common = sdk('common');
const prometheus = sdk('prometheus');
const panels = Object.fromEntries(
  ['timeseries', 'stat', 'heatmap', 'text', 'table', 'bargauge', 'xychart'].map((type) => [type, sdk(type)]));

const SOURCE = { type: 'prometheus', uid: '${datasource}' };
const LABELS = ['model', 'task'];

// --- Queries: `NAME{...}` becomes a selector that is held to the variables.

const held = (labels) => ['job=~"$job"', 'instance=~"$instance"', ...labels.map((label) => `${label}=~"$${label}"`)].join(', ');

// Of the service; of a spectrum, which is held to model and task as well.
const fill = (labels) => (text) =>
  text.replace(/\{([^{}]*)\}/g, (_, own) => `{${held(labels)}${own ? `, ${own}` : ''}}`);
const service = fill([]);
const spectra = fill(LABELS);

// Each daemon has the last analysis that it made itself: where several have a model on a task, the newest is shown, so that
// nothing is counted twice and all numbers are of one analysis.
const COMPUTED = 'eigsvc_spectrum_computed_timestamp_seconds{}';
const IS_NEWEST = `${COMPUTED} == on (model, task) group_left () max by (model, task) (${COMPUTED})`;
const newest = (expr, by = 'model, task') => `max by (${by}) (${expr} and on (job, instance, model, task) (${IS_NEWEST}))`;
const NEWEST = ' Of several daemons the newest analysis counts.';

function query(expr, legend, { instant = false, format } = {}) {
  const builder = new prometheus.DataqueryBuilder().expr(expr).legendFormat(legend).datasource(SOURCE);
  if (format) builder.format(format);
  return instant ? builder.instant() : builder.range();
}

// --- Panels

function base(type, title, description, unit, queries) {
  const ofNewest = queries.some((each) => each.build().expr.includes(spectra(IS_NEWEST)));
  const builder = new panels[type].PanelBuilder().title(title).description(description + (ofNewest ? NEWEST : '')).datasource(SOURCE);
  if (unit) builder.unit(unit);
  queries.forEach((each, index) => builder.withTarget(each.refId(String.fromCharCode(65 + index))));
  return builder.height(8).span(12);
}

function graph(title, description, unit, queries, { log, min, max } = {}) {
  const builder = base('timeseries', title, description, unit, queries)
    .lineWidth(1).fillOpacity(0).showPoints(common.VisibilityMode.Auto).spanNulls(false)
    .legend(new common.VizLegendOptionsBuilder().showLegend(true).displayMode(common.LegendDisplayMode.List)
      .placement(common.LegendPlacement.Bottom).calcs([]))
    .tooltip(new common.VizTooltipOptionsBuilder().mode(common.TooltipDisplayMode.Multi).sort(common.SortOrder.Descending));
  if (log) builder.scaleDistribution(new common.ScaleDistributionConfigBuilder().type(common.ScaleDistribution.Log).log(log));
  if (min !== undefined) builder.min(min);
  if (max !== undefined) builder.max(max);
  return builder;
}

function stat(title, description, unit, queries, { steps } = {}) {
  const builder = base('stat', title, description, unit, queries).height(4).span(4)
    .reduceOptions(new common.ReduceDataOptionsBuilder().calcs(['lastNotNull']))
    .colorMode(steps ? common.BigValueColorMode.Value : common.BigValueColorMode.None).graphMode(common.BigValueGraphMode.None);
  if (steps) builder.thresholds(new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(steps));
  return builder;
}

function bars(title, description, unit, queries, { min, max } = {}) {
  const builder = base('bargauge', title, description, unit, queries).height(8).span(8)
    .orientation(common.VizOrientation.Horizontal).displayMode(common.BarGaugeDisplayMode.Basic)
    .reduceOptions(new common.ReduceDataOptionsBuilder().calcs(['lastNotNull']))
    .colorScheme(new FieldColorBuilder().mode('palette-classic'));
  if (min !== undefined) builder.min(min);
  if (max !== undefined) builder.max(max);
  return builder;
}

// Of cumulative buckets, as Prometheus has them: Grafana takes the differences. A snapshot has no rate.
function heatmap(title, description, unit, name, axis) {
  const { HeatmapColorOptionsBuilder, YAxisConfigBuilder, HeatmapColorMode, HeatmapColorScale, HeatmapTooltipBuilder } = panels.heatmap;
  const buckets = query(spectra(`sum by (le) (${newest(`eigsvc_spectrum_${name}_bucket{}`, 'model, task, le')})`), '{{le}}',
    { format: prometheus.PromQueryFormat.Heatmap });
  return base('heatmap', title, description, unit, [buckets]).height(10).span(12)
    .calculate(false).cellGap(0).showColorScale(true)
    .color(new HeatmapColorOptionsBuilder().mode(HeatmapColorMode.Scheme).scheme('Viridis')
      .scale(HeatmapColorScale.Exponential).exponent(0.5).fill('').reverse(false).steps(64))
    .yAxis(new YAxisConfigBuilder().unit(unit).axisLabel(axis).axisPlacement(common.AxisPlacement.Left));
}

// A picture that the daemon draws: Grafana has no panel for a density over the complex plane. `t` changes with each refresh:
// a browser asks for the same address only once.
function plane(title, description, view) {
  return base('text', title, description, undefined, []).height(16).span(12)
    .mode(panels.text.TextMode.Markdown)
    .content(`![${title}](\${url}/v1/analyses/\${analysis}/plane.png?view=${view}&layer=\${layer}&t=\${__to})`);
}

// --- Dashboards

function variable(name, label, of) {
  return new QueryVariableBuilder(name).label(label).datasource(SOURCE)
    .query({ query: `label_values(${of}, ${name})`, refId: `${name}-values` })
    .refresh(VariableRefresh.OnTimeRangeChanged).multi(true).includeAll(true).allValue('.+')
    .current({ text: ['All'], value: ['$__all'] });
}

function textbox(name, label, description, value) {
  return new TextBoxVariableBuilder(name).label(label).description(description).defaultValue(value)
    .current({ text: value, value });
}

function dashboard(uid, title, description, variables) {
  const builder = new DashboardBuilder(title).uid(uid).description(description).tags(['eigsvc']).readonly()
    .tooltip(DashboardCursorSync.Crosshair).time({ from: 'now-6h', to: 'now' }).refresh('30s').timezone('browser')
    .link(new DashboardLinkBuilder('eigsvc').type('dashboards').tags(['eigsvc']).asDropdown(false).keepTime(true)
      .includeVars(true).icon('external link').tooltip('The other dashboards of eigsvc').url('').targetBlank(false))
    .withVariable(new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus')
      .current({ text: 'default', value: 'default' }))
    .withVariable(variable('job', 'Job', 'eigsvc_build_info'))
    .withVariable(variable('instance', 'Instance', 'eigsvc_build_info{job=~"$job"}'));
  variables.forEach((each) => builder.withVariable(each));
  return builder;
}

function rows(builder, contents) {
  for (const [title, row] of contents) {
    builder.withRow(new RowBuilder(title));
    row.forEach((panel) => builder.withPanel(panel));
  }
  return builder;
}

const KNOWN = '{__name__=~"eigsvc_spectrum_eigenvalues|eigsvc_training_step", job=~"$job", instance=~"$instance"}';
const MODEL = variable('model', 'Model', KNOWN);
const TASK = variable('task', 'Task', KNOWN);
const LEGEND = '{{model}} · {{task}}';
const RUN = `${LEGEND} · {{instance}}`;  // a training is of one daemon
const one = (expr, legend, options) => [query(expr, legend, options)];
const quantiles = (metric, by) => [['p50', 0.5], ['p99', 0.99]].map(([name, q]) => query(
  service(`histogram_quantile(${q}, sum by (le, ${by}) (rate(${metric}_bucket{}[$__rate_interval])))`), `${name} {{${by}}}`));

const SPECTRA = rows(dashboard('eigsvc-spectra', 'eigsvc / Spectra',
  'Eigenvalue distributions of the last analysis of each model on each task, and of trainings while they run.',
  [MODEL, TASK,
    textbox('url', 'Daemon', 'Base URL of a daemon\'s HTTP port as your browser reaches it; for the pictures.', 'http://localhost:9464'),
    textbox('analysis', 'Analysis', 'Identifier of an analysis, or latest; for the pictures.', 'latest'),
    textbox('layer', 'Layer', 'Number of a layer, from 0, or empty for all; for the pictures.', '')]), [
  ['What the last analyses found', [
    stat('Eigenvalues', 'Eigenvalues that the snapshots count, non-finite ones not.', 'short',
      one(spectra(`sum(${newest('eigsvc_spectrum_eigenvalues{}')})`), 'eigenvalues')),
    stat('Non-finite', 'NaN and infinite eigenvalues; they are in no other number.', 'short',
      one(spectra(`sum(${newest('eigsvc_spectrum_nonfinite_eigenvalues{}')})`), 'non-finite'),
      { steps: [{ value: null, color: 'green' }, { value: 1, color: 'red' }] }),
    stat('Largest |λ|', 'Spectral radius of what is chosen; above 1 something grows.', 'none',
      one(spectra(`max(${newest('eigsvc_spectrum_radius{}')})`), 'radius')),
    stat('Age', 'Time since the newest of the analyses ended.', 's',
      one(spectra('time() - max(eigsvc_spectrum_computed_timestamp_seconds{})'), 'age')),
    stat('Models', 'Models with a spectrum.', 'short',
      one(spectra('count(count by (model) (eigsvc_spectrum_eigenvalues{}))'), 'models')),
    stat('Best score', 'Largest accuracy of the models and tasks chosen.', 'percentunit',
      one(spectra(`max(${newest('eigsvc_task_score{metric="accuracy"}')})`), 'accuracy')),
  ]],
  ['Distributions', [
    heatmap('Timescale of memory', 'Eigenvalues by timescale -1/ln|λ|, octave by octave, over time. Snapshots of the last analyses, summed over what is chosen; the last row holds |λ| >= 1.',
      'short', 'timescale_steps', 'steps'),
    heatmap('Modulus', 'Eigenvalues by |λ|, over time: near 1 keeps, near 0 forgets, above 1 grows. The buckets are denser near 1.',
      'none', 'modulus', '|λ|'),
    heatmap('Phase', 'Eigenvalues by |arg λ|, over time; positive real ones are in the first row.', 'radian', 'phase_radians', '|arg λ|'),
    graph('Shares', 'Shares of eigenvalues near 1 (|1-|λ|| <= 0.01), near 0 (|λ| <= 0.1) and above 1 beyond the noise floor.', 'percentunit', [
      query(spectra(newest('eigsvc_spectrum_near_one_ratio{}')), `near 1 · ${LEGEND}`),
      query(spectra(newest('eigsvc_spectrum_near_zero_ratio{}')), `near 0 · ${LEGEND}`),
      query(spectra(newest('eigsvc_spectrum_above_one_ratio{}')), `above 1 · ${LEGEND}`)], { min: 0, max: 1 }).height(10),
    graph('Timescale quantiles', 'Median, 90 % and 99 % of the timescale, in steps; within 1.6 %.', 'short',
      one(spectra(newest('eigsvc_spectrum_timescale_quantile_steps{}', 'model, task, stat')), `{{stat}} · ${LEGEND}`), { log: 2 }),
    graph('Score against the share near 1', 'Score of the task, and the share of eigenvalues near 1 beside it: what the task demands and what the model remembers.', 'percentunit', [
      query(spectra(newest('eigsvc_task_score{metric="accuracy"}')), `accuracy · ${LEGEND}`),
      query(spectra(newest('eigsvc_spectrum_near_one_ratio{}')), `near 1 · ${LEGEND}`)], { min: 0, max: 1 }),
  ]],
  ['Trainings that run', [
    graph('Loss', 'Mean loss since the report before, nats per scored position.', 'none',
      one(spectra('eigsvc_training_loss{}'), RUN)),
    graph('Score in training', 'Score of the newest evaluation, by metric.', 'none',
      one(spectra('eigsvc_training_score{}'), `{{metric}} · ${RUN}`)),
    graph('Shares in training', 'Shares of eigenvalues near 1, near 0 and above 1 in the newest evaluation.', 'percentunit', [
      query(spectra('eigsvc_training_spectrum_near_one_ratio{}'), `near 1 · ${RUN}`),
      query(spectra('eigsvc_training_spectrum_near_zero_ratio{}'), `near 0 · ${RUN}`),
      query(spectra('eigsvc_training_spectrum_above_one_ratio{}'), `above 1 · ${RUN}`)], { min: 0, max: 1 }),
    graph('Memory in training', 'Median timescale of the newest evaluation, in steps.', 'short',
      one(spectra('eigsvc_training_spectrum_median_timescale_steps{}'), RUN), { log: 2 }),
    graph('Largest |λ| in training', 'Spectral radius of the newest evaluation.', 'none',
      one(spectra('eigsvc_training_spectrum_radius{}'), RUN)),
    graph('Progress', 'Optimiser steps done, of those to do.', 'percentunit',
      one(spectra('eigsvc_training_step{} / eigsvc_training_steps{}'), RUN), { min: 0, max: 1 }),
    graph('Gradient norm and learning rate', 'Global norm of the last gradient before clipping, and the learning rate of the last step.', 'sci', [
      query(spectra('eigsvc_training_gradient_norm{}'), `gradient · ${RUN}`),
      query(spectra('eigsvc_training_learning_rate{}'), `rate · ${RUN}`)], { log: 10 }),
    graph('Speed', 'Tokens that the runs learn from, a second.', 'short',
      one(spectra('eigsvc_training_tokens_per_second{}'), RUN)),
  ]],
  ['The complex plane', [
    plane('Eigenvalues in the plane', 'Density of the eigenvalues of one analysis over the complex plane with the unit circle, drawn by the daemon. Choose it above.', 'plane'),
    plane('Eigenvalues unrolled', 'The same by phase and timescale: across arg λ, upwards -1/ln|λ|.', 'unrolled'),
  ]],
]);

const SERVICE = rows(dashboard('eigsvc-service', 'eigsvc / Service',
  'Requests, queue, jobs, devices and the process of the daemons.', []), [
  ['Now', [
    stat('Ready', 'Daemons that take jobs.', 'short', one(service('sum(eigsvc_ready{})'), 'ready'),
      { steps: [{ value: null, color: 'red' }, { value: 1, color: 'green' }] }),
    stat('Draining', 'Daemons that are shutting down.', 'short', one(service('sum(eigsvc_draining{})'), 'draining')),
    stat('Waiting', 'Jobs in the queues.', 'short', one(service('sum(eigsvc_job_queue_depth{})'), 'waiting')),
    stat('Running', 'Jobs that run.', 'short', one(service('sum(eigsvc_jobs_in_flight{})'), 'running')),
    stat('Workers up', 'Worker processes that answer.', 'short', one(service('sum(eigsvc_worker_up{})'), 'up')),
    stat('Versions', 'Different versions of the daemon that run.', 'short',
      one(service('count(count by (version) (eigsvc_build_info{}))'), 'versions')),
  ]],
  ['Requests', [
    graph('Requests', 'RPCs that end, a second, by method.', 'reqps',
      one(service('sum by (method) (rate(eigsvc_rpcs_total{}[$__rate_interval]))'), '{{method}}')),
    graph('Requests that fail', 'RPCs that end in another status than OK, a second, by status.', 'reqps',
      one(service('sum by (code) (rate(eigsvc_rpcs_total{code!="OK"}[$__rate_interval]))'), '{{code}}')),
    graph('Latency', 'Time from the start of an RPC to its end, streams included, by method.', 's',
      quantiles('eigsvc_rpc_duration_seconds', 'method'), { log: 10 }),
    graph('Open requests', 'RPCs that have started and not ended, by method.', 'short',
      one(service('sum by (method) (eigsvc_rpcs_in_flight{})'), '{{method}}')),
    graph('Streamed bytes', 'Payload of streamed messages, received and sent.', 'Bps',
      one(service('sum by (direction) (rate(eigsvc_stream_bytes_total{}[$__rate_interval]))'), '{{direction}}')),
    graph('Cancels', 'Time from a cancel to an idle device; 250 ms is promised.', 's',
      [0.5, 0.99].map((q) => query(service(`histogram_quantile(${q}, sum by (le) (rate(eigsvc_cancel_latency_seconds_bucket{}[$__rate_interval])))`), `p${q * 100}`))),
  ]],
  ['Jobs', [
    graph('Queue', 'Jobs that wait, and how many may.', 'short', [
      query(service('eigsvc_job_queue_depth{}'), 'waiting {{instance}}'),
      query(service('eigsvc_job_queue_capacity{}'), 'capacity {{instance}}')]),
    graph('Wait in the queue', 'Time a job waited before it started, by kind.', 's',
      quantiles('eigsvc_job_queue_wait_seconds', 'kind'), { log: 10 }),
    graph('Jobs that end', 'Jobs that end, a second, by kind and outcome.', 'ops',
      one(service('sum by (kind, outcome) (rate(eigsvc_jobs_total{}[$__rate_interval]))'), '{{kind}} {{outcome}}')),
    graph('Jobs refused or run again', 'Jobs refused at admission, by reason, and jobs started again because their worker process died.', 'ops', [
      query(service('sum by (reason) (rate(eigsvc_jobs_rejected_total{}[$__rate_interval]))'), 'refused: {{reason}}'),
      query(service('sum by (kind) (rate(eigsvc_job_retries_total{}[$__rate_interval]))'), 'again: {{kind}}')]),
    graph('Duration', 'Time from a job\'s start to its end, by kind.', 's', quantiles('eigsvc_job_duration_seconds', 'kind'), { log: 10 }),
    graph('Where the time goes', 'Seconds a second that jobs spend in each phase: loading, forward pass, eigenvalues, training.', 'percentunit',
      one(service('sum by (kind, phase) (rate(eigsvc_job_phase_duration_seconds_sum{}[$__rate_interval]))'), '{{kind}} {{phase}}')),
    graph('Eigenvalues', 'Eigenvalues counted into spectra, a second, by task.', 'ops',
      one(service('sum by (task) (rate(eigsvc_eigenvalues_total{}[$__rate_interval]))'), '{{task}}')),
    graph('Memory of results', 'Memory that the results of finished jobs take; the oldest go first.', 'bytes',
      one(service('eigsvc_results_bytes{}'), '{{instance}}')),
  ]],
  ['Devices', [
    graph('Busy', 'Whether each device\'s worker process runs a job.', 'percentunit',
      one(service('avg by (instance, device) (avg_over_time(eigsvc_worker_busy{}[$__rate_interval]))'), '{{instance}} {{device}}'), { min: 0, max: 1 }),
    graph('Restarts', 'Worker processes started again, by device and cause.', 'short',
      one(service('sum by (instance, device, cause) (increase(eigsvc_worker_restarts_total{}[$__rate_interval]))'), '{{instance}} {{device}} {{cause}}')),
    graph('Device memory', 'Memory of the device, used and free; of the machine for the CPU.', 'bytes',
      one(service('eigsvc_device_memory_bytes{}'), '{{state}} {{instance}} {{device}}')),
    graph('Memory of workers', 'Resident memory of the worker processes, and the share that loaded weights take.', 'bytes', [
      query(service('eigsvc_worker_resident_memory_bytes{}'), 'resident {{instance}} {{device}}'),
      query(service('eigsvc_worker_model_bytes{}'), 'weights {{instance}} {{device}}')]),
    graph('Loaded models', 'Models that each device\'s pool holds.', 'short',
      one(service('eigsvc_worker_models{}'), '{{instance}} {{device}}')),
    graph('Spectra that made room', 'Spectra dropped from these metrics for newer ones of other models.', 'short',
      one(service('sum by (instance) (increase(eigsvc_metrics_dropped_spectra_total{}[$__rate_interval]))'), '{{instance}}')),
  ]],
  ['The daemon itself', [
    graph('CPU', 'Processor time of the daemon; workers are not in it.', 'percentunit',
      one(service('rate(process_cpu_seconds_total{}[$__rate_interval])'), '{{instance}}')),
    graph('Memory', 'Resident and virtual memory of the daemon.', 'bytes', [
      query(service('process_resident_memory_bytes{}'), 'resident {{instance}}'),
      query(service('process_virtual_memory_bytes{}'), 'virtual {{instance}}')]),
    graph('File descriptors', 'File descriptors that the daemon holds, and may hold.', 'short', [
      query(service('process_open_fds{}'), 'open {{instance}}'),
      query(service('process_max_fds{}'), 'limit {{instance}}')], { log: 10 }),
    graph('Uptime', 'Time since the daemon\'s start.', 's',
      one(service('time() - process_start_time_seconds{}'), '{{instance}}')),
  ]],
]);

const instantTable = (expr) => query(spectra(expr), '__auto', { instant: true, format: prometheus.PromQueryFormat.Table });
const columns = [
  ['accuracy', newest('eigsvc_task_score{metric="accuracy"}'), 'percentunit'],
  ['near 1', newest('eigsvc_spectrum_near_one_ratio{}'), 'percentunit'],
  ['near 0', newest('eigsvc_spectrum_near_zero_ratio{}'), 'percentunit'],
  ['above 1', newest('eigsvc_spectrum_above_one_ratio{}'), 'percentunit'],
  ['largest |λ|', newest('eigsvc_spectrum_radius{}'), 'none'],
  ['median timescale', newest('eigsvc_spectrum_timescale_quantile_steps{stat="p50"}'), 'short'],
  ['p99 timescale', newest('eigsvc_spectrum_timescale_quantile_steps{stat="p99"}'), 'short'],
  ['eigenvalues', newest('eigsvc_spectrum_eigenvalues{}'), 'short'],
];
const letter = (index) => String.fromCharCode(65 + index);
const side = base('table', 'Models side by side', 'Score and spectrum of the last analysis of each model on each task.', 'none',
  columns.map(([, expr]) => instantTable(expr))).height(10).span(24)
  .withTransformation({ id: 'merge', options: {} })
  .withTransformation({ id: 'organize', options: {
    excludeByName: { Time: true },
    renameByName: Object.fromEntries(columns.map(([name], index) => [`Value #${letter(index)}`, name])) } });
columns.forEach(([name, , unit]) => side.overrideByName(name, [{ id: 'unit', value: unit }]));

const scatter = base('xychart', 'Score against the share near 1', 'A point a model and task: across, the share of eigenvalues near 1; upwards, accuracy.', 'percentunit', [
  instantTable(newest('eigsvc_spectrum_near_one_ratio{}')),
  instantTable(newest('eigsvc_task_score{metric="accuracy"}'))]).height(10).span(12)
  .mapping(panels.xychart.SeriesMapping.Auto).series([])
  .withTransformation({ id: 'merge', options: {} })
  .withTransformation({ id: 'organize', options: { excludeByName: { Time: true },
    renameByName: { 'Value #A': 'near 1', 'Value #B': 'accuracy' } } });

const COMPARE = rows(dashboard('eigsvc-compare', 'eigsvc / Compare models',
  'Models beside one another: what each remembers, and how it scores.', [MODEL, TASK]), [
  ['Side by side', [
    side,
    scatter,
    bars('Memory beyond N steps', 'Share of eigenvalues whose timescale is longer than 16, 256, 4096 and 65536 steps.', 'percentunit',
      ['16', '256', '4096', '65536'].map((le) => query(spectra(
        `1 - ${newest(`eigsvc_spectrum_timescale_steps_bucket{le=~"${le}(\\\\.0)?"}`)} / ${newest('eigsvc_spectrum_timescale_steps_count{}')}`),
      `> ${le} · ${LEGEND}`, { instant: true })), { min: 0, max: 1 }).height(10).span(12),
    bars('Score', 'Score of the last analysis, by metric.', 'none',
      one(spectra(newest('eigsvc_task_score{}', 'model, task, metric')), `{{metric}} · ${LEGEND}`, { instant: true })),
    bars('Near 1', 'Share of |1-|λ|| <= 0.01.', 'percentunit',
      one(spectra(newest('eigsvc_spectrum_near_one_ratio{}')), LEGEND, { instant: true }), { min: 0, max: 1 }),
    bars('Above 1', 'Share of |λ| above 1 by more than the noise floor.', 'percentunit',
      one(spectra(newest('eigsvc_spectrum_above_one_ratio{}')), LEGEND, { instant: true }), { min: 0, max: 1 }),
  ]],
  ['Over time', [
    graph('Scores', 'Score of the last analysis, by metric.', 'none',
      one(spectra(newest('eigsvc_task_score{}', 'model, task, metric')), `{{metric}} · ${LEGEND}`)),
    graph('Median timescales', 'Median timescale, in steps; within 1.6 %.', 'short',
      one(spectra(newest('eigsvc_spectrum_timescale_quantile_steps{stat="p50"}')), LEGEND), { log: 2 }),
    graph('Largest |λ|', 'Spectral radius.', 'none', one(spectra(newest('eigsvc_spectrum_radius{}')), LEGEND)),
    graph('Age of the analyses', 'Time since the newest analysis of each model on each task ended.', 's',
      one(spectra(`time() - max by (model, task) (${COMPUTED})`), LEGEND)),
  ]],
]);

const output = process.argv[2];
if (!output) {
  console.error('generate.js: name the directory that the dashboards go to');
  process.exit(2);
}
for (const builder of [SPECTRA, SERVICE, COMPARE]) {
  const built = builder.build();
  built.panels.forEach((panel, index) => { panel.id = index + 1; });  // fixed, so that links to a panel last
  fs.writeFileSync(path.join(output, `${built.uid}.json`), `${JSON.stringify(built, null, 1)}\n`);
}
