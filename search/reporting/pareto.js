// The Pareto plot, and the trial selected in it.

// What it draws: configurations, whose runs under several seeds are averaged.
data.points = data.configurations?.map((mean) => ({ ...byId.get(mean.id), ...mean })) ?? data.trials;
const pareto = { axis: data.axes[0].key, stopped: true };

function drawable(trial, axis) {
  return trial.miou !== null && trial[axis] > 0;
}

function bubbles(data, trials, axis, labelIndex, full, colors) {
  const label = data.labels[labelIndex];
  const largest = Math.max(...data.points.map((trial) => trial.size_mb ?? 0));
  return {
    type: "scatter",
    mode: "markers",
    name: plain(label.name),
    legendgroup: String(labelIndex),
    showlegend: full || !data.points.some((trial) => trial.label === labelIndex && trial.state === "completed" && drawable(trial, axis)),
    x: trials.map((trial) => trial[axis]),
    y: trials.map((trial) => trial.miou),
    customdata: trials.map((trial) => trial.id),
    hovertext: trials.map((trial) => hoverText(describe(data, trial))),
    hoverinfo: "text",
    error_y: { array: trials.map((trial) => trial.miou_std ?? 0), visible: trials.some((trial) => trial.miou_std), color: label.color, thickness: 1, width: 3 },
    marker: {
      color: label.color,
      symbol: full ? label.symbol : `${label.symbol}-open`,
      size: trials.map((trial) => trial.size_mb ?? 0),
      sizemode: "area",
      sizeref: (2 * largest || 1) / 38 ** 2,
      sizemin: 5,
      opacity: trials.map((trial) => (trial.front ? 0.95 : full ? 0.5 : 0.6)),
      line: { color: full ? colors.ink : label.color, width: trials.map((trial) => (trial.front ? 2 : full ? 0 : 1.2)) },
    },
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

function ring(trial, axis, colors) {
  return {
    type: "scatter", mode: "markers", x: [trial[axis]], y: [trial.miou], hoverinfo: "skip", showlegend: false,
    marker: { symbol: "circle-open", size: 48, color: colors.accent, line: { width: 3 } },
  };
}

function drawPareto(element, data, state) {
  const colors = theme();
  const { axis } = state;
  const heading = data.axes.find((entry) => entry.key === axis).heading;
  const known = data.points.filter((trial) => drawable(trial, axis));
  const full = known.filter((trial) => trial.state === "completed");
  const partial = state.stopped ? known.filter((trial) => trial.state !== "completed") : [];
  const traces = [];
  for (const [group, isFull] of [[partial, false], [full, true]]) {
    data.labels.forEach((_, index) => {
      const own = group.filter((trial) => trial.label === index);
      if (own.length) traces.push(bubbles(data, own, axis, index, isFull, colors));
    });
  }
  if (full.length) traces.unshift(stepLine(full, axis, colors));
  const chosen = data.trials.find((trial) => trial.id === selection.trial);
  const selected = [...full, ...partial].find((trial) => trial.id === chosen?.configuration);
  if (selected) traces.push(ring(selected, axis, colors));
  const layout = baseLayout(colors, `${heading} (log scale)`, "mIoU");
  const heights = [...full, ...partial, ...data.references].map((entry) => entry.miou);
  Object.assign(layout.xaxis, { type: "log" }, logTicks([...full, ...partial].map((trial) => trial[axis])));
  layout.shapes = referenceLines(data.references, colors);
  layout.annotations = referenceLabels(data.references, Math.max(...heights) - Math.min(...heights), colors);
  layout.uirevision = axis;
  if (!full.length && !partial.length) {
    layout.annotations = [{ text: `No trial has mIoU and ${plain(heading)}`, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
    layout.shapes = [];
  }
  Plotly.react(element, traces, layout, CHART_OPTIONS);
  return data.points.length - known.length;
}

function redrawPareto() {
  const missing = drawPareto(get("pareto-chart"), data, pareto);
  get("pareto-left-out").textContent = missing ? `Not drawn for want of mIoU or of this cost: ${missing}.` : "";
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

function connectPareto() {
  fillSelect(get("axis"), data.axes);
  get("axis").addEventListener("change", (event) => { pareto.axis = event.target.value; redrawPareto(); });
  get("show-stopped").addEventListener("change", (event) => { pareto.stopped = event.target.checked; redrawPareto(); });
  onPointClick(get("pareto-chart"));
}

sections.push({ draw: redrawPareto, connect: connectPareto });
