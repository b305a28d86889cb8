// What happens on the page: one selected trial, shown alike in plots and tables.

const MANY_TRIALS = 60;
const data = JSON.parse(document.getElementById("payload").textContent);
const byId = new Map(data.trials.map((trial) => [trial.id, trial]));
// What the Pareto plot draws: configurations, whose runs under several seeds are averaged.
data.points = data.configurations?.map((mean) => ({ ...byId.get(mean.id), ...mean })) ?? data.trials;
const get = (id) => document.getElementById(id);
const question = { factor: 0, selected: null };
const pareto = { axis: data.axes[0].key, stopped: true, selected: null };
const curves = {
  metric: data.curve_metrics[0].key, trials: data.trials.length > MANY_TRIALS ? "front" : "all", factor: "", smooth: 0,
  validation: true, training: true, mean: Boolean(get("curve-mean")), selected: null,
};

function fillSelect(select, entries) {
  select.append(...entries.map((entry) => new Option(entry.heading, entry.key)));
}

function redrawPareto() {
  const missing = drawPareto(get("pareto-chart"), data, pareto);
  get("pareto-left-out").textContent = missing ? `Not drawn for want of mIoU or of this cost: ${missing}.` : "";
}

function redrawQuestion() {
  if (data.question.length) drawQuestion(data, question);
}

function redrawCurves() {
  if (get("curve-chart")) get("curve-shown").textContent = drawCurves(get("curve-chart"), data, curves);
}

function redraw() {
  redrawQuestion();
  redrawPareto();
  redrawCurves();
}

function element(tag, text, parent) {
  const node = document.createElement(tag);
  node.textContent = text;
  parent.append(node);
  return node;
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

// Scrolls inside the table's own container: the page stays where the reader is.
function revealRow(row) {
  const box = row.closest(".scroll");
  const head = row.closest("table").tHead.offsetHeight;
  const above = row.offsetTop < box.scrollTop + head;
  const below = row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight;
  if (above || below) box.scrollTop = row.offsetTop - head;
}

function select(id) {
  const chosen = id === pareto.selected ? null : id;
  pareto.selected = curves.selected = question.selected = chosen;
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    row.classList.toggle("selected", row.dataset.trial === chosen);
    if (row.dataset.trial === chosen) revealRow(row);
  }
  showSelected(byId.get(chosen));
  redraw();
}

function onPointClick(chart) {
  chart.on("plotly_click", (event) => {
    const id = event.points.map((point) => point.customdata).find((value) => byId.has(value));
    if (id) select(id);
  });
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

function connectPareto() {
  fillSelect(get("axis"), data.axes);
  get("axis").addEventListener("change", (event) => { pareto.axis = event.target.value; redrawPareto(); });
  get("show-stopped").addEventListener("change", (event) => { pareto.stopped = event.target.checked; redrawPareto(); });
  onPointClick(get("pareto-chart"));
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

function connectTables() {
  document.querySelectorAll("table.data").forEach(makeSortable);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.trial");
    if (button) select(button.closest("[data-trial]").dataset.trial);
  });
  const filters = get("filters");
  if (filters) {
    const apply = () => filterTrials(get("trials-table"), filters, get("shown-trials"));
    filters.addEventListener("input", apply);
    apply();
  }
  get("copy-front")?.addEventListener("click", async () => {
    try {
      await copyText(tableAsCsv(get("front-table")));
      get("copied").textContent = "Copied.";
    } catch (error) {
      get("copied").textContent = `Not copied: ${error.message}. front.csv lies beside this page.`;
    }
  });
}

prepareCurves();
redraw();
connectQuestion();
connectPareto();
connectCurves();
connectTables();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// Paper is white whatever the screen is: the print style has the light colours by the time this runs.
matchMedia("print").addEventListener("change", redraw);
