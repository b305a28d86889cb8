// Parallel coordinates: a line for every completed configuration. Plotly's own are drawn by WebGL, which compiles
// code that this page's content security policy forbids; a canvas needs neither and tells which line was clicked.

const SVG = "http://www.w3.org/2000/svg";
const RAMP = [[150, 163, 180], [52, 122, 200], [217, 85, 15]];
const PLOT = { height: 430, top: 64, bottom: 48, side: 60, missing: 22, gap: 92 };
const parallel = { brushes: new Map(), front: false, axes: [], order: [], colors: [], width: 0 };

function scaled(axis, value) {
  return axis.log ? Math.log10(value) : value;
}

function parallelAxis(axis) {
  const known = axis.values.filter((value) => value !== null).map((value) => scaled(axis, value));
  let low = Infinity, high = -Infinity;
  for (const value of known) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low === high) { low -= 0.5; high += 0.5; }
  return { ...axis, low, high, missing: known.length < axis.values.length };
}

// Pixels from the top; what is missing has its own place below the axis.
function heightOf(axis, value) {
  const bottom = PLOT.height - PLOT.bottom;
  if (value === null) return bottom;
  const end = axis.missing ? bottom - PLOT.missing : bottom;
  return end - ((scaled(axis, value) - axis.low) / (axis.high - axis.low)) * (end - PLOT.top);
}

function rampColor(share) {
  const at = share * (RAMP.length - 1);
  const [from, to] = [RAMP[Math.floor(at)], RAMP[Math.ceil(at)]];
  return `rgb(${from.map((part, i) => Math.round(part + (to[i] - part) * (at % 1))).join(",")})`;
}

function prepareParallel() {
  if (!data.parallel) return;
  const { axes, trials } = data.parallel;
  parallel.axes = axes.map(parallelAxis);
  const mious = axes.at(-1).values;
  parallel.order = trials.map((_, index) => index).sort((a, b) => mious[a] - mious[b]);
  parallel.order.forEach((line, rank) => { parallel.colors[line] = rampColor(rank / Math.max(1, trials.length - 1)); });
  parallel.heights = parallel.axes.map((axis) => axis.values.map((value) => heightOf(axis, value)));
}

function kept(line) {
  if (parallel.front && !byId.get(data.parallel.trials[line]).front) return false;
  return [...parallel.brushes].every(([axis, [top, bottom]]) => {
    const y = parallel.heights[axis][line];
    return y >= top && y <= bottom;
  });
}

function axisX(index) {
  return PLOT.side + (index * (parallel.width - 2 * PLOT.side)) / (parallel.axes.length - 1);
}

function strokeLine(context, line) {
  context.beginPath();
  parallel.heights.forEach((heights, axis) => context.lineTo(axisX(axis), heights[line]));
  context.stroke();
}

function drawLines(canvas, shown, selected) {
  const ratio = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: parallel.width * ratio, height: PLOT.height * ratio });
  Object.assign(canvas.style, { width: `${parallel.width}px`, height: `${PLOT.height}px` });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.lineJoin = "round";
  const faint = Math.min(0.85, Math.max(0.15, 60 / shown.length));
  for (const line of shown) {
    const front = byId.get(data.parallel.trials[line]).front;
    Object.assign(context, { strokeStyle: parallel.colors[line], globalAlpha: front ? 0.95 : faint, lineWidth: front ? 2.5 : 1.2 });
    strokeLine(context, line);
  }
  if (selected < 0) return;
  Object.assign(context, { strokeStyle: theme().ink, globalAlpha: 1, lineWidth: 4 });
  strokeLine(context, selected);
}

function svgNode(tag, attributes, parent, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

function shortened(text, width, perCharacter) {
  const most = Math.max(4, Math.floor(width / perCharacter));
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

function linearTicks(low, high) {
  const raw = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k += 1) ticks.push([k * step, shortNumber(k * step)]);
  return ticks;
}

function axisTicks(axis) {
  if (axis.ticks) return axis.ticks;
  const known = axis.values.filter((value) => value !== null);
  if (!axis.log || !known.length) return known.length ? linearTicks(axis.low, axis.high) : [];
  const { tickvals, ticktext } = logTicks(known.length < 3 ? known : [10 ** axis.low, 10 ** axis.high]);
  const ticks = (tickvals ?? []).map((value, i) => [value, ticktext[i]]).filter(([value]) => scaled(axis, value) >= axis.low && scaled(axis, value) <= axis.high);
  return ticks.length ? ticks : [10 ** axis.low, 10 ** axis.high].map((value) => [value, shortNumber(value)]);
}

// From the top; a tick too close to the last one has no text.
function drawTicks(svg, axis, x, gap) {
  const missing = axis.missing ? [[null, "–"]] : [];
  let above = -Infinity;
  for (const [value, text] of [...axisTicks(axis), ...missing].map(([value, text]) => [heightOf(axis, value), text]).sort((a, b) => a[0] - b[0])) {
    svgNode("line", { class: "axis", x1: x - 3, x2: x + 3, y1: value, y2: value }, svg);
    if (value - above < 12) continue;
    above = value;
    const label = svgNode("text", { class: "tick", x: x + 6, y: value + 4 }, svg, shortened(text, gap - 10, 6.2));
    svgNode("title", {}, label, text);
  }
}

function drawAxes(box) {
  box.querySelector("svg")?.remove();
  const svg = svgNode("svg", { viewBox: `0 0 ${parallel.width} ${PLOT.height}` }, box);
  const gap = axisX(1) - axisX(0);
  parallel.axes.forEach((axis, index) => {
    const x = axisX(index);
    const end = PLOT.height - PLOT.bottom - (axis.missing ? PLOT.missing : 0);
    const room = Math.min(2 * gap, 2 * x, 2 * (parallel.width - x));
    const name = svgNode("text", { class: "name", x, y: index % 2 ? 22 : 42 }, svg, shortened(axis.label, room - 10, 7.2));
    svgNode("title", {}, name, axis.path);
    svgNode("line", { class: "axis", x1: x, x2: x, y1: PLOT.top, y2: end }, svg);
    drawTicks(svg, axis, x, index === parallel.axes.length - 1 ? PLOT.side : gap);
    const brush = parallel.brushes.get(index);
    if (brush) svgNode("rect", { class: "brush", x: x - 6, y: brush[0], width: 12, height: brush[1] - brush[0] }, svg);
    svgNode("rect", { class: "grip", "data-axis": index, x: x - 11, y: PLOT.top - 6, width: 22, height: PLOT.height - PLOT.bottom - PLOT.top + 14 }, svg);
  });
}

function drawParallel() {
  if (!data.parallel) return;
  const box = get("parallel-chart");
  parallel.width = Math.max(box.parentElement.clientWidth, (parallel.axes.length - 1) * PLOT.gap + 2 * PLOT.side);
  box.style.width = `${parallel.width}px`;
  const shown = parallel.order.filter(kept);
  const own = byId.get(selection.trial)?.configuration;
  drawLines(box.querySelector("canvas"), shown, data.parallel.trials.indexOf(own));
  drawAxes(box);
  get("parallel-shown").textContent = `${shown.length} of ${parallel.order.length} shown`;
  get("parallel-all").hidden = !parallel.brushes.size;
}

// The line nearest to a point, within a few pixels.
function lineAt(x, y) {
  const last = parallel.axes.length - 1;
  const gap = axisX(1) - axisX(0);
  const left = Math.min(last - 1, Math.max(0, Math.floor((x - axisX(0)) / gap)));
  const share = (x - axisX(left)) / gap;
  let nearest = null, distance = 7;
  for (const line of parallel.order) {
    const [from, to] = [parallel.heights[left][line], parallel.heights[left + 1][line]];
    const off = Math.abs(from + share * (to - from) - y) * (gap / Math.hypot(gap, to - from));
    if (off <= distance && kept(line)) [nearest, distance] = [line, off];
  }
  return nearest;
}

function pointIn(box, event) {
  const frame = box.getBoundingClientRect();
  return [event.clientX - frame.left, event.clientY - frame.top];
}

function startBrush(box, event) {
  const grip = event.target.closest?.(".grip");
  if (!grip) return;
  event.preventDefault();
  const axis = Number(grip.dataset.axis);
  const [, start] = pointIn(box, event);
  const move = (next) => {
    const [, end] = pointIn(box, next);
    parallel.brushes.set(axis, [Math.min(start, end), Math.max(start, end)]);
    drawParallel();
  };
  const stop = (next) => {
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", stop);
    window.removeEventListener("pointercancel", stop);
    if (Math.abs(pointIn(box, next)[1] - start) < 3) parallel.brushes.delete(axis);
    drawParallel();
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", stop);
  window.addEventListener("pointercancel", stop);
}

function hoverLine(box, event) {
  if (event.target.closest?.(".grip") || event.buttons) return;
  const line = lineAt(...pointIn(box, event));
  const trial = line === null ? null : byId.get(data.parallel.trials[line]);
  box.title = trial ? describe(data, trial).join("\n") : "";
  box.querySelector("svg").style.cursor = trial ? "pointer" : "default";
}

function connectParallel() {
  if (!data.parallel) return;
  const box = get("parallel-chart");
  box.addEventListener("pointerdown", (event) => startBrush(box, event));
  box.addEventListener("pointermove", (event) => hoverLine(box, event));
  box.addEventListener("click", (event) => {
    if (event.target.closest?.(".grip")) return;
    const line = lineAt(...pointIn(box, event));
    if (line !== null) select(data.parallel.trials[line]);
  });
  get("parallel-front").addEventListener("change", (event) => { parallel.front = event.target.checked; drawParallel(); });
  get("parallel-all").addEventListener("click", () => { parallel.brushes.clear(); drawParallel(); });
  window.addEventListener("resize", drawParallel);
}

sections.push({ prepare: prepareParallel, draw: drawParallel, connect: connectParallel });
