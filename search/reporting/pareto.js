// The Pareto plot, and the trial selected in it.

// What it draws: configurations, whose runs under several seeds are averaged.
data.points = data.configurations?.map((mean) => ({ ...byId.get(mean.id), ...mean })) ?? data.trials;
const pareto = { axis: data.axes[0].key, states: new Set(["completed", "stopped"]), drawn: null };
const largestSize = data.points.reduce((largest, trial) => Math.max(largest, trial.size_mb ?? 0), 0);

// Filled is comparable. The signs stand beside the states' names where they are switched on and off.
const STATE_MARKS = {
  infeasible: { sign: "|", symbol: () => "line-ns-open" },
  failed: { sign: "×", symbol: () => "x-thin-open" },
  interrupted: { sign: "◉", symbol: (own) => `${own}-open-dot` },
  stopped: { sign: "○", symbol: (own) => `${own}-open` },
  completed: { sign: "●", symbol: (own) => own },
};

function hoverOf(trial) {
  const place = data.places[trial.id];
  const interval = place?.interval ? `mIoU, 95 % interval: ${place.shown}` : null;
  const luck = place?.luck ? "its place on the front could be luck" : null;
  return hoverText([...describe(data, trial), interval, luck, trial.miou === null ? trial.reason : null].filter(Boolean));
}

// Trials of one architecture and state; those of the front are outlined.
function bubbles(trials, axis, state, showlegend, colors) {
  const label = data.labels[trials[0].label];
  const full = state === "completed";
  return {
    type: "scatter",
    mode: "markers",
    name: plain(label.name),
    legendgroup: label.name,
    showlegend,
    x: trials.map((trial) => trial[axis]),
    y: trials.map((trial) => trial.miou),
    customdata: trials.map((trial) => trial.id),
    hovertext: trials.map(hoverOf),
    hoverinfo: "text",
    marker: {
      color: label.color,
      symbol: STATE_MARKS[state].symbol(label.symbol),
      size: trials.map((trial) => trial.size_mb ?? 0),
      sizemode: "area",
      sizeref: (2 * largestSize || 1) / 38 ** 2,
      sizemin: 5,
      opacity: trials.map((trial) => (trial.front ? 0.95 : full ? 0.5 : 0.7)),
      line: { color: full ? colors.ink : label.color, width: trials.map((trial) => (trial.front ? 2 : full ? 0 : 1.2)) },
    },
  };
}

// Below the plot, at their cost: trials that have no mIoU.
function rug(trials, axis, state) {
  return {
    type: "scatter",
    mode: "markers",
    yaxis: "y2",
    showlegend: false,
    x: trials.map((trial) => trial[axis]),
    y: trials.map(() => 0.5),
    customdata: trials.map((trial) => trial.id),
    hovertext: trials.map(hoverOf),
    hoverinfo: "text",
    marker: {
      color: trials.map((trial) => data.labels[trial.label].color),
      symbol: STATE_MARKS[state].symbol("circle"),
      size: 11,
      line: { color: trials.map((trial) => data.labels[trial.label].color), width: 2 },
    },
  };
}

function rugAxis() {
  return { domain: [0, 0.06], range: [0, 1], fixedrange: true, showgrid: false, zeroline: false, tickvals: [0.5], ticktext: ["no mIoU"], automargin: true };
}

// How sure the mIoU of the front's members is, and a question mark where the place could be luck.
function intervals(members, axis, colors) {
  const known = members.filter((trial) => data.places[trial.id].interval);
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", name: "95 % interval", showlegend: known.length > 0,
    x: known.flatMap((trial) => [trial[axis], trial[axis], null]),
    y: known.flatMap((trial) => [...data.places[trial.id].interval, null]),
    line: { color: colors.ink, width: 1.5 },
  };
}

function questionMarks(members, axis, colors) {
  const doubted = members.filter((trial) => data.places[trial.id].luck);
  return {
    type: "scatter", mode: "text", hoverinfo: "skip", showlegend: false, textposition: "middle right",
    x: doubted.map((trial) => trial[axis]),
    y: doubted.map((trial) => trial.miou),
    text: doubted.map(() => "<b> ?</b>"),
    textfont: { color: colors.ink, size: 17 },
  };
}

// The best mIoU among completed trials at or below each cost.
function stepLine(trials, axis, colors) {
  const sorted = [...trials].sort((a, b) => a[axis] - b[axis] || b.miou - a.miou);
  const steps = [];
  for (const trial of sorted) if (!steps.length || trial.miou > steps.at(-1).miou) steps.push(trial);
  return {
    type: "scatter",
    mode: "lines",
    name: "best at each cost",
    x: [...steps.map((trial) => trial[axis]), ...(steps.length ? [sorted.at(-1)[axis]] : [])],
    y: [...steps.map((trial) => trial.miou), ...(steps.length ? [steps.at(-1).miou] : [])],
    line: { shape: "hv", color: colors.ink, width: 1.5 },
    opacity: 0.7,
    hoverinfo: "skip",
  };
}

// Below the lines, where trials seldom are; lines that lie close together share one label.
function referenceLabels(references, span, colors) {
  const groups = [];
  for (const reference of [...references].sort((a, b) => a.miou - b.miou)) {
    const last = groups.at(-1);
    if (last && reference.miou - last.top < 0.05 * span) {
      last.lines.unshift(reference);
      last.top = reference.miou;
    } else {
      groups.push({ bottom: reference.miou, top: reference.miou, lines: [reference] });
    }
  }
  return groups.map((group) => ({
    xref: "paper", x: 1, xanchor: "right", y: group.bottom, yanchor: "top", showarrow: false, align: "right",
    text: group.lines.map((line) => plain(`${line.label} ${line.miou.toFixed(3)}`)).join("<br>"),
    font: { size: 11, color: colors.muted },
  }));
}

function referenceLines(references, colors) {
  return references.map((reference) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: reference.miou, y1: reference.miou, layer: "below",
    line: { dash: "dash", width: 1, color: colors.muted },
  }));
}

// Plotly labels a log axis 5, 10, 2, 5; people want whole numbers. Below a factor of two its own ticks are fine.
function logTicks(values) {
  const low = Math.min(...values), high = Math.max(...values);
  if (!values.length || high / low < 2) return {};
  const digits = high / low < 8 ? [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9] : high / low < 1e4 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.log10(high) + 1; power += 1) {
    ticks.push(...digits.map((digit) => Number(`${digit}e${power}`)));
  }
  return { tickmode: "array", tickvals: ticks, ticktext: ticks.map(shortNumber) };
}

function shortNumber(value) {
  const [scale, letter] = value >= 1e9 ? [1e9, " G"] : value >= 1e6 ? [1e6, " M"] : value >= 1e4 ? [1e3, " k"] : [1, ""];
  return `${Number((value / scale).toPrecision(3))}${letter}`;
}

// A circle in pixels, as a path since Plotly cuts circles at zero on a log axis.
const RING = "M -23,0 C -23,-12.7 -12.7,-23 0,-23 C 12.7,-23 23,-12.7 23,0 C 23,12.7 12.7,23 0,23 C -12.7,23 -23,12.7 -23,0 Z";

// A shape, not a trace: it moves in no time, where drawing ten thousand bubbles again takes a second.
function ring(placed, axis, colors) {
  const chosen = byId.get(selection.trial)?.configuration;
  const around = { type: "path", path: RING, xsizemode: "pixel", ysizemode: "pixel", line: { color: colors.accent, width: 3 } };
  const height = (trial) => (trial.miou === null ? { yref: "y2", yanchor: 0.5 } : { yanchor: trial.miou });
  return placed.filter((trial) => trial.id === chosen).map((trial) => ({ ...around, xanchor: trial[axis], ...height(trial) }));
}

function paretoTraces(shown, noMiou, axis, colors) {
  const full = shown.filter((trial) => trial.state === "completed");
  const traces = full.length ? [stepLine(full, axis, colors)] : [];
  const order = Object.keys(STATE_MARKS);
  const latest = new Map(); // the state whose mark stands for an architecture in the legend
  for (const state of order) for (const trial of shown) if (trial.state === state) latest.set(trial.label, state);
  for (const state of order) {
    const lost = noMiou.filter((trial) => trial.state === state);
    if (lost.length) traces.push(rug(lost, axis, state));
    const groups = data.labels.map((_, index) => shown.filter((trial) => trial.state === state && trial.label === index));
    for (const own of groups.filter((group) => group.length)) {
      traces.push(bubbles(own, axis, state, latest.get(own[0].label) === state, colors));
    }
  }
  const members = full.filter((trial) => trial.front);
  return [...traces, intervals(members, axis, colors), questionMarks(members, axis, colors)];
}

function paretoLayout(shown, noMiou, axis, colors) {
  const heading = data.axes.find((entry) => entry.key === axis).heading;
  const layout = baseLayout(colors, `${heading} (log scale)`, "mIoU");
  layout.uirevision = axis;
  Object.assign(layout.xaxis, { type: "log" }, logTicks([...shown, ...noMiou].map((trial) => trial[axis])));
  if (noMiou.length) {
    layout.yaxis.domain = [0.1, 1];
    layout.yaxis2 = rugAxis();
    layout.xaxis.anchor = "y2";
  }
  if (!shown.length) {
    layout.yaxis.range = [0, 1];
    layout.annotations = [{ text: `No trial shown has mIoU and ${plain(heading)}`, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
    return layout;
  }
  const heights = [...shown, ...data.references].map((entry) => entry.miou);
  layout.annotations = referenceLabels(data.references, Math.max(...heights) - Math.min(...heights), colors);
  return layout;
}

// The whole plot when what it shows has changed, else only the ring.
function redrawPareto() {
  const { axis, states } = pareto;
  const colors = theme();
  const view = JSON.stringify([axis, [...states], colors]);
  const wanted = data.points.filter((trial) => states.has(trial.state));
  const placed = wanted.filter((trial) => trial[axis] > 0);
  const shown = placed.filter((trial) => trial.miou !== null);
  const noMiou = placed.filter((trial) => trial.miou === null);
  const lines = shown.length ? referenceLines(data.references, colors) : [];
  const shapes = [...lines, ...ring(placed, axis, colors)];
  if (view === pareto.drawn) {
    Plotly.relayout(get("pareto-chart"), { shapes });
  } else {
    const layout = { ...paretoLayout(shown, noMiou, axis, colors), shapes };
    Plotly.react(get("pareto-chart"), paretoTraces(shown, noMiou, axis, colors), layout, CHART_OPTIONS);
  }
  pareto.drawn = view;
  const missing = wanted.length - placed.length;
  get("pareto-left-out").textContent = missing ? `Not drawn for want of this cost: ${missing}.` : "";
  showSelected(byId.get(selection.trial));
}

function showSelected(trial) {
  const panel = get("selected");
  panel.hidden = !trial;
  panel.replaceChildren();
  if (!trial) return;
  const [title, ...lines] = describe(data, { ...trial, settings: [] });
  element("h3", title, panel);
  element("p", lines.join(" · "), panel);
  if (trial.reason) element("p", trial.reason, panel);
  const list = element("dl", "", panel);
  list.className = "settings";
  for (const [path, value] of trial.settings) {
    const pair = element("div", "", list);
    element("dt", path, pair);
    element("dd", value, pair);
  }
}

// A switch for each state that occurs, the comparable first.
function prepareStates() {
  for (const state of Object.keys(STATE_MARKS).reverse()) {
    const number = data.points.filter((trial) => trial.state === state).length;
    if (!number) continue;
    const chip = element("label", "", get("pareto-states"));
    chip.className = "chip";
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", value: state, checked: pareto.states.has(state) });
    chip.append(box, ` ${STATE_MARKS[state].sign} ${state} (${number})`);
  }
}

function switchState({ target }) {
  if (target.checked) pareto.states.add(target.value);
  else pareto.states.delete(target.value);
  redrawPareto();
}

function connectPareto() {
  fillSelect(get("axis"), data.axes);
  get("axis").addEventListener("change", (event) => { pareto.axis = event.target.value; redrawPareto(); });
  get("pareto-states").addEventListener("change", switchState);
  onPointClick(get("pareto-chart"));
}

sections.push({ prepare: prepareStates, draw: redrawPareto, connect: connectPareto });
