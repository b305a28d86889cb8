// The question's figure: every trial of each level, and the differences within pairs. Rows run downwards; their names
// stand above the marks, inside the plot, where long ones have room even on a phone.

const MARK_HEIGHT = 34;
const LINE_HEIGHT = 16;
const question = { factor: 0 };

// Breaks a name where it would leave the plot.
function wrapped(text, width) {
  const most = Math.max(16, Math.floor(width / 7));
  const lines = [""];
  for (const word of String(text).split(" ")) {
    const line = lines.at(-1);
    if (line && line.length + word.length >= most) lines.push(word);
    else lines[lines.length - 1] = line ? `${line} ${word}` : word;
  }
  return lines.map(plain);
}

function rowNames(rows, names, colors) {
  return rows.map((row, index) => ({
    xref: "paper", x: 0, xanchor: "left", y: index, yanchor: "bottom", yshift: 8, showarrow: false, align: "left",
    text: row.whole ? `<b>${names[index].join("<br>")}</b>` : names[index].join("<br>"),
    font: { size: 12, color: colors.ink }, bgcolor: colors.page, borderpad: 1, opacity: 0.9,
  }));
}

function rowLayout(element, rows, xTitle, colors) {
  const layout = baseLayout(colors, xTitle, "");
  const names = rows.map((row) => wrapped(row.label, element.clientWidth - 40));
  const rowHeight = MARK_HEIGHT + LINE_HEIGHT * Math.max(1, ...names.map((lines) => lines.length));
  layout.height = Math.max(3, rows.length) * rowHeight + 90;
  element.style.height = `${layout.height}px`;
  Object.assign(layout, { margin: { l: 12, r: 12, t: 8, b: 48 }, showlegend: false, annotations: rowNames(rows, names, colors) });
  Object.assign(layout.yaxis, { range: [rows.length - 0.5, -0.85], showticklabels: false, ticks: "", showgrid: false, fixedrange: true });
  return layout;
}

// A fixed scatter around the row, so that equal values stay apart and a redraw changes nothing.
function jitter(index) {
  return 0.14 + 0.16 * (((index * 0.618034) % 1) - 0.5);
}

function levelDots(data, level, row, selected) {
  const trials = level.trials.map((id) => byId.get(id));
  return {
    type: "scatter", mode: "markers", showlegend: false,
    x: trials.map((trial) => trial.miou), y: trials.map((_, index) => row + jitter(index)),
    customdata: level.trials, hoverinfo: "text", hovertext: trials.map((trial) => hoverText(describe(data, trial))),
    marker: {
      color: trials.map((trial) => data.labels[trial.label].color), symbol: trials.map((trial) => data.labels[trial.label].symbol),
      size: level.trials.map((id) => (id === selected ? 15 : 8)), opacity: 0.65,
      line: { color: theme().accent, width: level.trials.map((id) => (id === selected ? 3 : 0)) },
    },
  };
}

function intervalEnds(rows) {
  return rows.flatMap(({ interval }, row) => (interval.length ? [[interval[0], row + 0.14], [interval[1], row + 0.14], [null, null]] : []));
}

function intervalBars(rows, colors, width) {
  const ends = intervalEnds(rows);
  return {
    type: "scatter", mode: "lines+markers", hoverinfo: "skip", showlegend: false,
    x: ends.map((end) => end[0]), y: ends.map((end) => end[1]), line: { color: colors.ink, width },
    marker: { symbol: "line-ns", size: 8, color: colors.ink, line: { color: colors.ink, width } },
  };
}

function levelMeans(levels, colors) {
  return {
    type: "scatter", mode: "markers", showlegend: false,
    x: levels.map((level) => level.mean), y: levels.map((_, row) => row + 0.14), hoverinfo: "text",
    hovertext: levels.map((level) => hoverText([level.label, `mean mIoU ${level.mean.toFixed(3)} over ${level.trials.length} trials`])),
    marker: { symbol: "line-ns", size: 18, color: colors.ink, line: { color: colors.ink, width: 3 } },
  };
}

function drawLevels(element, data, factor, selected) {
  const colors = theme();
  const layout = rowLayout(element, factor.levels, "mIoU", colors);
  const dots = factor.levels.map((level, row) => levelDots(data, level, row, selected));
  Plotly.react(element, [...dots, intervalBars(factor.levels, colors, 2), levelMeans(factor.levels, colors)], layout, CHART_OPTIONS);
}

function effectMarks(effects, colors) {
  return {
    type: "scatter", mode: "markers", showlegend: false,
    x: effects.map((effect) => effect.mean), y: effects.map((_, row) => row + 0.14), hoverinfo: "text",
    hovertext: effects.map((effect) => hoverText([effect.label, effect.text])),
    marker: {
      symbol: "circle", opacity: 1, size: effects.map((effect) => (effect.whole ? 12 : 9)),
      color: effects.map((effect) => (effect.shown ? colors.accent : colors.page)), line: { color: colors.ink, width: 1.5 },
    },
  };
}

function drawEffects(element, factor) {
  const colors = theme();
  const layout = rowLayout(element, factor.effects, "difference, mIoU points", colors);
  layout.shapes = [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: colors.muted, width: 1.5, dash: "dash" }, layer: "below" }];
  if (!factor.effects.length) {
    layout.annotations = [{ text: "No pair", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
    layout.xaxis.range = [-1, 1];
  }
  Plotly.react(element, [intervalBars(factor.effects, colors, 1.5), effectMarks(factor.effects, colors)], layout, CHART_OPTIONS);
}

function drawQuestion(data, state) {
  const factor = data.question[state.factor];
  for (const name of document.querySelectorAll(".compared")) name.textContent = factor.name;
  drawLevels(get("level-chart"), data, factor, selection.trial);
  drawEffects(get("effect-chart"), factor);
}

function redrawQuestion() {
  if (data.question.length) drawQuestion(data, question);
}

function showFactor(index) {
  question.factor = index;
  data.question.forEach((_, other) => { get(`factor-${other}`).hidden = other !== index; });
  redrawQuestion();
}

function connectQuestion() {
  if (!data.question.length) return;
  onPointClick(get("level-chart"));
  if (data.question.length === 1) return;
  get("factor-choice").hidden = false;
  fillSelect(get("factor"), data.question.map((factor, index) => ({ heading: factor.name, key: index })));
  get("factor").addEventListener("change", (event) => showFactor(Number(event.target.value)));
  showFactor(0);
}

sections.push({ draw: redrawQuestion, connect: connectQuestion });
