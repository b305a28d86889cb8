// Learning curves: one trace an architecture, so that a thousand trials stay quick and the legend filters them.

const EMA_WEIGHT = 0.6;

// Exponential moving average, corrected for its start; gaps stay gaps.
function smoothed(values) {
  let average = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    average = EMA_WEIGHT * average + (1 - EMA_WEIGHT) * value;
    weight = EMA_WEIGHT * weight + (1 - EMA_WEIGHT);
    return average / weight;
  });
}

function curveOf(data, trial, state) {
  const curve = data.curves[trial.id];
  const values = curve[state.metric];
  return { epochs: curve.epoch, values: state.smooth ? smoothed(values) : values };
}

function curveTexts(data, trial, epochs, heading) {
  const name = plain(`${trial.id} · ${data.labels[trial.label].name}`);
  const end = plain(trial.epochs ? `${trial.state} at epoch ${trial.epoch} of ${trial.epochs}` : trial.state);
  return epochs.map((epoch) => `<b>${name}</b><br>epoch ${epoch}, ${heading} %{y:.4g}<br>${end}<extra></extra>`);
}

function curveLines(data, trials, labelIndex, state, heading, faded) {
  const label = data.labels[labelIndex];
  const x = [], y = [], ids = [], texts = [];
  for (const trial of trials) {
    const { epochs, values } = curveOf(data, trial, state);
    x.push(...epochs, null);
    y.push(...values, null);
    ids.push(...epochs.map(() => trial.id), null);
    texts.push(...curveTexts(data, trial, epochs, heading), "");
  }
  return {
    type: "scatter", mode: "lines", name: plain(label.name), legendgroup: String(labelIndex), x, y, customdata: ids,
    hovertemplate: texts, opacity: faded ? 0.2 : trials.length > 30 ? 0.45 : 0.8, line: { color: label.color, width: 1.5 },
  };
}

function lastValue(values) {
  let index = values.length - 1;
  while (index >= 0 && values[index] === null) index -= 1;
  return index;
}

function curveEnds(data, trials, labelIndex, state, heading, faded) {
  const label = data.labels[labelIndex];
  const ends = [];
  for (const trial of trials) {
    const { epochs, values } = curveOf(data, trial, state);
    const last = lastValue(values);
    if (last >= 0) ends.push({ trial, epoch: epochs[last], value: values[last] });
  }
  return {
    type: "scatter", mode: "markers", legendgroup: String(labelIndex), showlegend: false,
    x: ends.map((end) => end.epoch), y: ends.map((end) => end.value), customdata: ends.map((end) => end.trial.id),
    hovertemplate: ends.map((end) => curveTexts(data, end.trial, [end.epoch], heading)[0]), opacity: faded ? 0.2 : 0.9,
    marker: { color: label.color, size: 7, symbol: ends.map((end) => (end.trial.state === "completed" ? "circle" : "x")) },
  };
}

function shownCurves(data, state) {
  const wanted = { all: () => true, completed: (trial) => trial.state === "completed", front: (trial) => trial.front };
  return data.trials.filter((trial) => data.curves[trial.id] && (wanted[state.trials](trial) || trial.id === state.selected));
}

function drawCurves(element, data, state) {
  const colors = theme();
  const heading = data.curve_metrics.find((entry) => entry.key === state.metric).heading;
  const trials = shownCurves(data, state);
  const selected = trials.find((trial) => trial.id === state.selected);
  const traces = data.labels.flatMap((_, index) => {
    const own = trials.filter((trial) => trial.label === index);
    const faded = Boolean(selected);
    return own.length ? [curveLines(data, own, index, state, heading, faded), curveEnds(data, own, index, state, heading, faded)] : [];
  });
  if (selected) {
    const line = curveLines(data, [selected], selected.label, state, heading, false);
    const end = curveEnds(data, [selected], selected.label, state, heading, false);
    traces.push({ ...line, opacity: 1, line: { ...line.line, width: 4 }, showlegend: false }, { ...end, marker: { ...end.marker, size: 11 } });
  }
  const layout = baseLayout(colors, "epoch", heading);
  layout.xaxis.tickformat = "d";
  if (Math.max(...trials.map((trial) => data.curves[trial.id].epoch.at(-1))) <= 12) layout.xaxis.dtick = 1;
  layout.uirevision = `${state.metric} ${state.trials}`;
  Plotly.react(element, traces, layout, CHART_OPTIONS);
}
