// Learning curves: one panel a value of the compared parameter, in it one trace an architecture and series, so that
// hundreds of trials stay quick and the legend filters them.

const FEW_LINES = 12; // so many can be told apart with the raw curves behind them
const MOST_PANELS = 6;
const PANEL = { width: 280, height: 300, gap: 28, title: 26 };
const MANY_TRIALS = 60;
const DASHES = { validation: "solid", training: "dot", "": "solid" };
const curves = {
  metric: data.curve_metrics[0].key, trials: data.trials.length > MANY_TRIALS ? "front" : "all", factor: "", smooth: 0,
  validation: true, training: true, mean: Boolean(get("curve-mean")),
};

// Trial to its curve: `epoch`, each column that has a number as long as that, and its place in each factor.
function unpackedCurves({ trials, lengths, series, epochs, factors }) {
  const columns = Object.entries(series).map(([name, text]) => [name, unpackedNumbers(text)]);
  const places = unpackedRows(factors);
  let end = 0;
  return new Map(trials.map((id, index) => {
    const start = end;
    end += lengths[index];
    const own = columns.map(([name, numbers]) => [name, Array.from(numbers.subarray(start, end), (value) => (Number.isNaN(value) ? null : value))]);
    const epoch = epochs[id] ?? Array.from({ length: end - start }, (_, place) => place + 1);
    return [id, { ...Object.fromEntries(own), epoch, places: places[index] }];
  }));
}

const curveOf = unpackedCurves(data.curves);

// Exponential moving average with `weight` on the past, corrected for its start; gaps stay gaps.
function smoothed(values, weight) {
  let average = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    average = weight * average + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return average / total;
  });
}

function runLine(data, trial, column, weight) {
  const curve = curveOf.get(trial.id);
  const epochs = curve.epoch;
  const raw = curve[column] ?? epochs.map(() => null);
  const end = trial.epochs ? `${trial.state} at epoch ${trial.epoch} of ${trial.epochs}` : trial.state;
  const text = `<b>${plain(`${trial.id} · ${data.labels[trial.label].name}`)}</b><br>${plain(end)}`;
  return { trial, runs: [trial], epochs, raw, values: smoothed(raw, weight), texts: epochs.map(() => text) };
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

// Mean over the runs of one configuration that have the epoch, with the least and the greatest of them.
function meanLine(data, trials, column, weight) {
  const [trial] = trials;
  const lines = trials.map((run) => runLine(data, run, column, weight));
  const epochs = [...new Set(lines.flatMap((line) => line.epochs))].sort((a, b) => a - b);
  const places = lines.map((line) => new Map(line.epochs.map((epoch, index) => [epoch, index])));
  const at = (key) => epochs.map((epoch) =>
    lines.map((line, index) => line[key][places[index].get(epoch)] ?? null).filter((value) => value !== null));
  const known = at("values");
  const low = known.map((values) => Math.min(...values)), high = known.map((values) => Math.max(...values));
  const name = plain(`${trial.configuration} · ${data.labels[trial.label].name}`);
  const texts = known.map((values, index) => values.length < 2
    ? `<b>${name}</b><br>one run (n = 1)`
    : `<b>${name}</b><br>mean of n = ${values.length} runs, ${low[index].toPrecision(3)} to ${high[index].toPrecision(3)}`);
  const counts = known.map((values) => values.length);
  return { trial, runs: trials, epochs, raw: at("raw").map(mean), values: known.map(mean), texts, low, high, counts };
}

function linesOf(data, trials, column, state) {
  if (!state.mean) return trials.map((trial) => runLine(data, trial, column, state.smooth));
  const groups = new Map(trials.map((trial) => [trial.configuration, []]));
  for (const trial of trials) groups.get(trial.configuration).push(trial);
  return [...groups.values()].map((runs) => meanLine(data, runs, column, state.smooth));
}

// The trials of the filter.
function filteredTrials(data, state) {
  const front = new Set(data.trials.filter((trial) => trial.front).map((trial) => trial.configuration));
  const wanted = { all: () => true, completed: (trial) => trial.state === "completed", front: (trial) => front.has(trial.configuration) };
  return data.trials.filter((trial) => curveOf.has(trial.id)).filter(wanted[state.trials]);
}

// The trials of the filter, and the selected one in any case.
function shownTrials(data, state) {
  const trials = filteredTrials(data, state);
  const selected = curveOf.has(selection.trial) && byId.get(selection.trial);
  const key = state.mean ? "configuration" : "id";
  return !selected || trials.some((trial) => trial[key] === selected[key]) ? trials : [...trials, selected];
}

// The parameters with a few values among the shown trials.
function comparable(data, state) {
  const trials = filteredTrials(data, state);
  return data.factors.filter(({ key }) => {
    const values = new Set(trials.map((trial) => curveOf.get(trial.id).places[key]).filter((value) => value !== null));
    return values.size >= 2 && values.size <= MOST_PANELS;
  });
}

function panelsOf(data, trials, key) {
  if (!key) return [{ title: "", trials }];
  const { heading, values } = data.factors.find((factor) => factor.key === key);
  const panels = values.map((value, place) => ({ title: `${heading}: ${value}`, trials: trials.filter((trial) => curveOf.get(trial.id).places[key] === place) }));
  return panels.filter((panel) => panel.trials.length);
}

// As many panels beside each other as are wide enough, in rows as even as can be.
function panelGrid(count, width) {
  const most = Math.max(1, Math.floor(width / PANEL.width));
  const rows = Math.max(1, Math.ceil(count / most));
  return { rows, columns: Math.max(1, Math.ceil(count / rows)) };
}

// Whether the chart's width has come to ask for another grid than the drawn one.
function panelsAreMisplaced(element) {
  return panelGrid(Number(element.dataset.panels), element.clientWidth).rows !== Number(element.dataset.rows);
}

// Many lines in one trace, with a gap after each.
function joined(lines, key) {
  return {
    x: lines.flatMap((line) => [...line.epochs, null]),
    y: lines.flatMap((line) => [...line[key], null]),
    customdata: lines.flatMap((line) => [...line.epochs.map(() => line.trial.id), null]),
  };
}

function lineTrace(lines, look) {
  return {
    type: "scatter", mode: "lines", ...look.base, ...joined(lines, "values"),
    hovertext: lines.flatMap((line) => [...line.texts, ""]), hovertemplate: look.hover, opacity: look.opacity,
    line: { color: look.color, width: look.width, dash: look.dash },
  };
}

function rawTrace(lines, look) {
  return {
    type: "scatter", mode: "lines", ...look.base, ...joined(lines, "raw"), hoverinfo: "skip", opacity: 0.35 * look.opacity,
    line: { color: look.color, width: 1, dash: look.dash },
  };
}

// Around the mean of at least two runs, from the least to the greatest; a gap closes the area.
function bandTrace(lines, look) {
  const x = [], y = [];
  for (const line of lines) {
    let open = [];
    for (let index = 0; index <= line.epochs.length; index += 1) {
      if (line.counts[index] >= 2) open.push(index);
      else if (open.length) {
        const back = [...open].reverse();
        x.push(...[...open, ...back].map((place) => line.epochs[place]), null);
        y.push(...open.map((place) => line.high[place]), ...back.map((place) => line.low[place]), null);
        open = [];
      }
    }
  }
  return {
    type: "scatter", mode: "lines", ...look.base, x, y, hoverinfo: "skip", opacity: 0.2 * look.opacity,
    fill: "toself", fillcolor: look.color, line: { width: 0 },
  };
}

function endTrace(lines, look) {
  const ends = lines.map((line) => ({ line, index: line.values.findLastIndex((value) => value !== null) })).filter((end) => end.index >= 0);
  const whole = (line) => line.runs.every((run) => run.state === "completed");
  return {
    type: "scatter", mode: "markers", ...look.base, opacity: look.opacity,
    x: ends.map(({ line, index }) => line.epochs[index]), y: ends.map(({ line, index }) => line.values[index]),
    customdata: ends.map(({ line }) => line.trial.id), hovertext: ends.map(({ line, index }) => line.texts[index]), hovertemplate: look.hover,
    marker: { color: look.color, size: look.size, symbol: ends.map(({ line }) => (whole(line) ? "circle" : "x")) },
  };
}

// What is shown of a metric: its series that are switched on.
function seriesOf(metric, state) {
  return metric.series.filter(([kind]) => kind === "" || state[kind]);
}

function axisTitle(metric, state, log) {
  return `${metric.heading}${state.smooth ? ` (EMA ${state.smooth})` : ""}${log ? " (log scale)" : ""}`;
}

function lookOf(data, labelIndex, kind, heading, place, opacity) {
  const base = { legendgroup: String(labelIndex), showlegend: false, xaxis: `x${place || ""}`, yaxis: `y${place || ""}` };
  const hover = `%{hovertext}<br>epoch %{x}, ${plain(`${kind} ${heading}`.trim())} %{y:.4g}<extra></extra>`;
  return { base, hover, opacity, color: data.labels[labelIndex].color, dash: DASHES[kind], width: 1.5, size: 7 };
}

// The traces of one architecture and series in one panel; ends are marked on the first series only.
function groupTraces(lines, look, state, { few, first }) {
  const traces = [];
  if (state.mean) traces.push(bandTrace(lines, look));
  if (state.smooth && few) traces.push(rawTrace(lines, look));
  traces.push(lineTrace(lines, look));
  if (first) traces.push(endTrace(lines, look));
  return traces;
}

function panelTraces(data, panel, place, metric, state, few) {
  const chosen = byId.get(selection.trial);
  const key = state.mean ? "configuration" : "id";
  const opacity = chosen ? 0.2 : few ? 0.9 : 0.5;
  const below = [], above = [];
  seriesOf(metric, state).forEach(([kind, column], order) => {
    data.labels.forEach((_, index) => {
      const trials = panel.trials.filter((trial) => trial.label === index);
      if (!trials.length) return;
      const look = lookOf(data, index, kind, metric.heading, place, opacity);
      below.push(...groupTraces(linesOf(data, trials, column, state), look, state, { few, first: order === 0 }));
      const own = chosen ? trials.filter((trial) => trial[key] === chosen[key]) : [];
      const bold = { ...look, opacity: 1, width: kind === "training" ? 2.5 : 4, size: 11 };
      if (own.length) above.push(...groupTraces(linesOf(data, own, column, state), bold, state, { few: true, first: order === 0 }));
    });
  });
  return [...below, ...above];
}

// One entry an architecture, whatever its lines are.
function legendTraces(data, trials) {
  const used = data.labels.map((label, index) => ({ label, index })).filter(({ index }) => trials.some((trial) => trial.label === index));
  return used.map(({ label, index }) => ({
    type: "scatter", mode: "lines", x: [null], y: [null], name: plain(label.name), legendgroup: String(index), showlegend: true,
    line: { color: label.color, width: 2 }, hoverinfo: "skip",
  }));
}

function panelAxes(layout, panels, grid, size) {
  const [across, down] = [PANEL.gap / size.width, (PANEL.gap + PANEL.title) / size.height];
  const width = (1 - across * (grid.columns - 1)) / grid.columns;
  const height = (1 - down * (grid.rows - 1)) / grid.rows;
  const { xaxis, yaxis } = layout;
  panels.forEach((_, index) => {
    const column = index % grid.columns, row = Math.floor(index / grid.columns);
    const left = column * (width + across), top = 1 - row * (height + down);
    const name = index ? String(index + 1) : "";
    const leftmost = column === 0, lowest = index + grid.columns >= panels.length;
    layout[`xaxis${name}`] = {
      ...xaxis, matches: index ? "x" : undefined, anchor: `y${name}`, domain: [left, Math.min(1, left + width)],
      title: lowest ? xaxis.title : undefined,
    };
    layout[`yaxis${name}`] = {
      ...yaxis, matches: index ? "y" : undefined, anchor: `x${name}`, domain: [Math.max(0, top - height), top],
      showticklabels: leftmost, ticks: leftmost ? yaxis.ticks : "", title: leftmost ? yaxis.title : undefined,
    };
  });
}

function panelTitles(panels, size, grid) {
  return panels.filter((panel) => panel.title).map((panel, index) => ({
    xref: `x${index ? index + 1 : ""} domain`, yref: `y${index ? index + 1 : ""} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom",
    text: `<b>${plain(panel.title)}</b>`, showarrow: false, align: "left", width: Math.floor(size.width / grid.columns) - PANEL.gap,
  }));
}

// The least and the greatest raw value shown; too many for Math.min to take as arguments.
function extentOf(data, trials, metric, state) {
  const columns = seriesOf(metric, state).map(([, column]) => column);
  const values = trials.flatMap((trial) => columns.flatMap((column) => curveOf.get(trial.id)[column] ?? []));
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]) : null;
}

function curveLayout(data, panels, metric, state, element) {
  const colors = theme();
  const trials = panels.flatMap((panel) => panel.trials);
  const extent = extentOf(data, trials, metric, state);
  const log = metric.key === "lr" && extent !== null && extent[0] > 0 && extent[1] > 2 * extent[0];
  const layout = baseLayout(colors, "epoch", axisTitle(metric, state, log));
  if (log) Object.assign(layout.yaxis, { type: "log" }, logTicks(extent));
  else if (metric.key === "lr") layout.yaxis.rangemode = "tozero";
  layout.xaxis.tickformat = "d";
  if (trials.every((trial) => curveOf.get(trial.id).epoch.at(-1) <= 12)) layout.xaxis.dtick = 1;
  const grid = panelGrid(panels.length, element.clientWidth);
  const size = { width: Math.max(200, element.clientWidth - 72), height: Math.max(200, element.clientHeight - 120) };
  panelAxes(layout, panels, grid, size);
  layout.annotations = panelTitles(panels, size, grid);
  layout.legend.y = 1 + (layout.annotations.length ? PANEL.title : 5) / size.height;
  layout.height = element.clientHeight;
  layout.uirevision = `${metric.key} ${state.trials} ${state.factor}`;
  layout.showlegend = new Set(trials.map((trial) => trial.label)).size > 1;
  if (!extent) {
    layout.annotations = [{ text: "No trial has this to show", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
  }
  return layout;
}

// What is drawn and what is not, in words.
function curveSummary(data, trials, panels, metric, state) {
  const drawn = panels.flatMap((panel) => panel.trials);
  const lines = state.mean ? new Set(drawn.map((trial) => trial.configuration)).size : drawn.length;
  const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const what = state.mean ? `${plural(lines, "configuration")}, ${plural(drawn.length, "run")}` : plural(lines, "trial");
  const missing = trials.length - drawn.length;
  const left = missing ? ` Left out, having no ${state.factor}: ${plural(missing, state.mean ? "run" : "trial")}.` : "";
  const by = state.factor ? `, by ${state.factor}` : "";
  const chosen = byId.get(selection.trial);
  const absent = chosen?.epoch > 0 && !curveOf.has(chosen.id) ? ` The curve of ${chosen.id} is not in this page.` : "";
  return { label: `${metric.heading} against epoch${by}`, text: `Shown: ${what}.${left}${absent}`, lines };
}

function drawCurves(element, data, state) {
  const metric = data.curve_metrics.find((entry) => entry.key === state.metric);
  if (metric.key === "lr") state = { ...state, smooth: 0 }; // a setting, without noise to smooth
  const trials = shownTrials(data, state);
  const panels = panelsOf(data, trials, state.factor);
  const summary = curveSummary(data, trials, panels, metric, state);
  const { rows } = panelGrid(panels.length, element.clientWidth);
  element.dataset.rows = rows;
  element.dataset.panels = panels.length;
  element.style.height = panels.length > 1 ? `${rows * PANEL.height + 140}px` : "";
  const few = summary.lines <= FEW_LINES;
  const traces = panels.flatMap((panel, index) => panelTraces(data, panel, index && index + 1, metric, state, few));
  const drawn = panels.flatMap((panel) => panel.trials);
  Plotly.react(element, [...legendTraces(data, drawn), ...traces], curveLayout(data, panels, metric, state, element), CHART_OPTIONS);
  element.setAttribute("aria-label", `Learning curves: ${summary.label}. ${summary.text}`);
  return summary.text;
}

function redrawCurves() {
  if (get("curve-chart")) get("curve-shown").textContent = drawCurves(get("curve-chart"), data, curves);
}

// What can be compared depends on the trials shown.
function offerFactors() {
  const factors = comparable(data, curves);
  if (!factors.some((factor) => factor.key === curves.factor)) curves.factor = "";
  get("curve-factor").replaceChildren(new Option("nothing", ""), ...factors.map((factor) => new Option(factor.key, factor.key)));
  get("curve-factor").value = curves.factor;
}

function readCurveControls() {
  curves.metric = get("curve-metric").value;
  curves.trials = get("curve-trials").value;
  curves.factor = get("curve-factor").value;
  curves.smooth = Number(get("curve-smooth").value);
  curves.mean = Boolean(get("curve-mean")?.checked);
  const kinds = data.curve_metrics.find((entry) => entry.key === curves.metric).series.map(([kind]) => kind);
  for (const kind of ["validation", "training"]) {
    curves[kind] = get(`curve-${kind}`).checked;
    get(`curve-${kind}`).disabled = !kinds.includes(kind);
  }
  get("curve-smooth").disabled = curves.metric === "lr";
  offerFactors();
}

function prepareCurves() {
  if (!get("curve-chart")) return;
  fillSelect(get("curve-metric"), data.curve_metrics);
  get("curve-trials").value = curves.trials;
  offerFactors();
  const first = data.compare.find((key) => comparable(data, curves).some((factor) => factor.key === key));
  if (first) get("curve-factor").value = first;
  readCurveControls();
}

function connectCurves() {
  if (!get("curve-chart")) return;
  get("curve-controls").addEventListener("change", () => { readCurveControls(); redrawCurves(); });
  onPointClick(get("curve-chart"));
  addEventListener("resize", () => { if (panelsAreMisplaced(get("curve-chart"))) redrawCurves(); });
}

sections.push({ prepare: prepareCurves, draw: redrawCurves, connect: connectCurves });
