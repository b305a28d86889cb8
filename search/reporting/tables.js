// Tables: drawn from data, a page of rows at a time, so that ten thousand open at once. Sorting, finding and copying are
// of all rows.

const ROWS_A_PAGE = 100;
const ROWS_ON_PAPER = 200;
const NO_VALUE = "–";
const collator = new Intl.Collator(undefined, { numeric: true });

function tableFrom(node, content) {
  const columns = content.columns.map((column) => ({ ...column, values: unpackedValues(column.values), texts: column.texts && unpackedValues(column.texts) }));
  const order = Array.from({ length: content.count }, (_, row) => row);
  return {
    node, columns, texts: [], pager: get(`${node.id}-pager`), cut: get(`${node.id}-cut`),
    order, // all rows as sorted
    shown: order, // those of them that pass the filter
    passes: () => true,
    page: 0, drawn: null, // the rows on the screen
    followed: null, // the selected trial whose page was turned to
    trials: columns.find((column) => column.key === "trial_id")?.values ?? [],
  };
}

const tables = new Map(Object.entries(data.tables)
  .filter(([id]) => get(id))
  .map(([id, content]) => [id, tableFrom(get(id), content)]));

function cellText(column, row) {
  return column.texts ? column.texts[row] : String(column.values[row] ?? NO_VALUE);
}

function stateOf(trial) {
  return byId.get(trial)?.state ?? "";
}

function drawTrialCell(line, trial) {
  const cell = element("th", "", line);
  cell.scope = "row";
  const button = element("button", trial, cell);
  button.type = "button";
  button.className = "trial";
  for (const role of byId.get(trial)?.roles ?? []) element("span", role, cell).className = "badge";
}

function drawCell(line, column, row) {
  const text = cellText(column, row);
  if (column.key === "trial_id") return drawTrialCell(line, text);
  const isState = column.key === "state";
  const cell = element("td", isState ? "" : text, line);
  if (isState) element("span", text, cell).className = `state ${text}`;
  else if (column.numeric) cell.className = "number";
  else if (column.key === "reason") cell.className = "reason";
  else if (column.key === "place" && text === "could be luck") cell.className = "doubt";
}

function tableLine(table, row) {
  const line = document.createElement("tr");
  const trial = table.trials[row];
  if (trial) {
    Object.assign(line.dataset, { trial, state: stateOf(trial) });
    line.classList.toggle("selected", trial === selection.trial);
  }
  for (const column of table.columns) drawCell(line, column, row);
  return line;
}

function isOnPaper() {
  return matchMedia("print").matches;
}

function rowsOnPage(table) {
  return isOnPaper() ? table.shown.slice(0, ROWS_ON_PAPER) : table.shown.slice(table.page * ROWS_A_PAGE, (table.page + 1) * ROWS_A_PAGE);
}

// A selected trial brings its page with it, once: the reader may turn on from there.
function followSelection(table) {
  if (selection.trial === table.followed) return null;
  table.followed = selection.trial;
  const place = table.shown.findIndex((row) => table.trials[row] === selection.trial);
  if (selection.trial === null || place < 0) return null;
  table.page = Math.floor(place / ROWS_A_PAGE);
  return place % ROWS_A_PAGE;
}

function drawPager(table) {
  const { pager, cut } = table;
  const [total, first] = [table.shown.length, table.page * ROWS_A_PAGE];
  const last = Math.min(first + ROWS_A_PAGE, total);
  pager.hidden = total <= ROWS_A_PAGE;
  pager.querySelector("[role=status]").textContent = `${(first + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  for (const button of pager.querySelectorAll("button")) {
    button.disabled = ["first", "previous"].includes(button.dataset.go) ? first === 0 : last === total;
  }
  cut.hidden = !isOnPaper() || total <= ROWS_ON_PAPER;
  cut.textContent = `The first ${ROWS_ON_PAPER} of ${total.toLocaleString("en")} rows. All are in ${cut.dataset.source}.`;
}

function drawTable(table) {
  const place = followSelection(table);
  const rows = rowsOnPage(table);
  const same = table.drawn !== null && rows.length === table.drawn.length && rows.every((row, index) => row === table.drawn[index]);
  if (!same) {
    table.node.tBodies[0].replaceChildren(...rows.map((row) => tableLine(table, row)));
    table.node.closest(".scroll").scrollTop = 0;
    table.drawn = rows;
  }
  drawPager(table);
  if (place !== null && !isOnPaper()) revealRow(table.node.tBodies[0].rows[place]);
}

function turnPage(table, where) {
  const lastPage = Math.ceil(table.shown.length / ROWS_A_PAGE) - 1;
  table.page = { first: 0, previous: table.page - 1, next: table.page + 1, last: lastPage }[where];
  drawTable(table);
}

// Missing values stay at the end in both directions.
function compareValues(a, b, numeric, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (numeric ? a - b : collator.compare(a, b));
}

function filterTable(table) {
  table.shown = table.order.filter(table.passes);
  table.page = 0;
  drawTable(table);
}

function sortTable(table, header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const { values, numeric } = table.columns[header.cellIndex];
  table.order.sort((a, b) => compareValues(values[a], values[b], numeric, descending ? -1 : 1));
  for (const other of table.node.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  filterTable(table);
}

function csvField(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function tableAsCsv(table) {
  const rows = table.order.map((row) => table.columns.map((column) => column.values[row]));
  return [table.columns.map((column) => column.key), ...rows].map((fields) => fields.map(csvField).join(",")).join("\n") + "\n";
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers that give a page opened from disk no clipboard still copy a selection.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) throw new Error("the browser refused the clipboard");
  }
}

// What a row is found by: all that it shows.
function searchText(table, row) {
  table.texts[row] ??= [...table.columns.map((column) => cellText(column, row)), ...(byId.get(table.trials[row])?.roles ?? [])].join("\n").toLowerCase();
  return table.texts[row];
}

function filterTrials(table, filters, counter) {
  const states = new Set([...filters.querySelectorAll("input:checked")].map((box) => box.value));
  const words = filters.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  table.passes = (row) => states.has(stateOf(table.trials[row])) && words.every((word) => searchText(table, row).includes(word));
  filterTable(table);
  counter.textContent = `${table.shown.length.toLocaleString("en")} of ${table.order.length.toLocaleString("en")} shown`;
}

function connectTable(table) {
  table.node.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (header) sortTable(table, header);
  });
  table.pager.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) turnPage(table, button.dataset.go);
  });
}

function connectTables() {
  tables.forEach(connectTable);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.trial");
    if (button) select(button.closest("[data-trial]").dataset.trial);
  });
  const filters = get("filters");
  if (filters) {
    const apply = () => filterTrials(tables.get("trials-table"), filters, get("shown-trials"));
    filters.addEventListener("input", apply);
    apply();
  }
  get("copy-front")?.addEventListener("click", async () => {
    try {
      await copyText(tableAsCsv(tables.get("front-table")));
      get("copied").textContent = "Copied.";
    } catch (error) {
      get("copied").textContent = `Not copied: ${error.message}. front.csv lies beside this page.`;
    }
  });
}

sections.push({ draw: () => tables.forEach(drawTable), connect: connectTables });
