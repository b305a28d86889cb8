// Tables: sorting, filtering, and copying as CSV.

function cellValue(row, index) {
  return row.cells[index].dataset.v;
}

// Missing values stay at the end in both directions.
function compareCells(a, b, numeric, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
}

function sortTable(table, header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const numeric = header.classList.contains("number");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => compareCells(cellValue(a, header.cellIndex), cellValue(b, header.cellIndex), numeric, sign));
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function makeSortable(table) {
  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (header) sortTable(table, header);
  });
}

function csvField(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function tableAsCsv(table) {
  const header = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.dataset.v));
  return [header, ...rows].map((fields) => fields.map(csvField).join(",")).join("\n") + "\n";
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

function filterTrials(table, filters, counter) {
  const states = new Set([...filters.querySelectorAll("input:checked")].map((box) => box.value));
  const words = filters.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    const text = words.length ? row.textContent.toLowerCase() : "";
    row.hidden = !states.has(row.dataset.state) || !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  counter.textContent = `${shown} of ${table.tBodies[0].rows.length} shown`;
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

sections.push({ connect: connectTables });
