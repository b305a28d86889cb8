// What every section of the page shares: the data, the look of charts, and one selected trial, shown alike everywhere.
// A section is an object { prepare, draw, connect }, each of them optional: `prepare` fills its controls, `draw` draws it,
// first and again whenever the selection or the theme changed, and `connect` listens to what is drawn.

const data = unpackedData(JSON.parse(document.getElementById("payload").textContent));
const byId = new Map(data.trials.map((trial) => [trial.id, trial]));
const selection = { trial: null };
const sections = [];

// The counterparts of packing.py: rows from columns, values from the distinct ones, numbers from base64.
function unpackedRows({ count, columns }) {
  const entries = Object.entries(columns).map(([key, column]) => [key, column.columns ? unpackedRows(column) : unpackedValues(column)]);
  return Array.from({ length: count }, (_, index) => Object.fromEntries(entries.map(([key, values]) => [key, values[index]])));
}

function unpackedValues(column) {
  return Array.isArray(column) ? column : column.places.map((place) => column.values[place]);
}

function unpackedNumbers(text) {
  const bytes = atob(text);
  const byte = (index, shift) => bytes.charCodeAt(index) << shift;
  const words = Uint32Array.from({ length: bytes.length / 3 }, (_, index) => byte(3 * index, 8) | byte(3 * index + 1, 16) | byte(3 * index + 2, 24));
  return new Float32Array(words.buffer);
}

function unpackedData(packed) {
  const trials = unpackedRows(packed.trials);
  for (const trial of trials) trial.settings = Object.entries(trial.settings).filter(([, text]) => text !== null);
  return { ...packed, trials, configurations: packed.configurations && unpackedRows(packed.configurations) };
}

function get(id) {
  return document.getElementById(id);
}

function element(tag, text, parent) {
  const node = document.createElement(tag);
  node.textContent = text;
  parent.append(node);
  return node;
}

function fillSelect(select, entries) {
  select.append(...entries.map((entry) => new Option(entry.heading, entry.key)));
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: read("ink"), muted: read("muted"), line: read("line"), page: read("page"), panel: read("panel"), accent: read("accent"), font: read("sans") };
}

// Plotly reads its texts as a subset of HTML; names are text.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function baseLayout(colors, xTitle, yTitle) {
  const axis = { gridcolor: colors.line, zeroline: false, linecolor: colors.line, automargin: true, ticks: "outside", tickcolor: colors.line };
  return {
    font: { family: colors.font, color: colors.ink, size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 16, t: 16, b: 48 },
    hovermode: "closest",
    hoverlabel: { bgcolor: colors.panel, bordercolor: colors.line, font: { color: colors.ink, family: colors.font }, align: "left" },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", itemsizing: "constant", font: { size: 12 } },
    xaxis: { ...axis, title: { text: xTitle } },
    yaxis: { ...axis, title: { text: yTitle } },
  };
}

const CHART_OPTIONS = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function describe(data, trial) {
  const settings = trial.settings.map(([path, value]) => `${path} ${value}`);
  const state = trial.epochs ? `${trial.state}, epoch ${trial.epoch} of ${trial.epochs}` : trial.state;
  const roles = trial.front ? ["on the front", ...trial.roles].join(", ") : null;
  const { miou, latency_ms, size_mb } = trial.shown;
  return [`${trial.id} · ${data.labels[trial.label].name}`, state, roles, `mIoU ${miou}`, `${latency_ms} ms, ${size_mb} MB`, ...settings].filter(Boolean);
}

function hoverText(lines) {
  const [first, ...rest] = lines.map(plain);
  return [`<b>${first}</b>`, ...rest].join("<br>");
}

// Scrolls inside the table's own container: the page stays where the reader is.
function revealRow(row) {
  const box = row.closest(".scroll");
  const head = row.closest("table").tHead.offsetHeight;
  const above = row.offsetTop < box.scrollTop + head;
  const below = row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight;
  if (above || below) box.scrollTop = row.offsetTop - head;
}

function redraw() {
  for (const section of sections) section.draw?.();
}

function select(id) {
  selection.trial = id === selection.trial ? null : id;
  for (const row of document.querySelectorAll("tr[data-trial]")) {
    row.classList.toggle("selected", row.dataset.trial === selection.trial);
    if (row.dataset.trial === selection.trial) revealRow(row);
  }
  redraw();
}

function onPointClick(chart) {
  chart.on("plotly_click", (event) => {
    const id = event.points.map((point) => point.customdata).find((value) => byId.has(value));
    if (id) select(id);
  });
}
