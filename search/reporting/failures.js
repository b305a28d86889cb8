// Why a model fails: one model of the front at a time, with its confusion matrix, its classes and its examples.

const failures = {
  ...data.failures,
  member: null, // the shown one
  followed: null, // the selected trial that was followed last: the chooser may since have gone elsewhere
};
const PICTURE_KINDS = [["image", "image"], ["prediction", "prediction"], ["truth", "ground truth"]];

function percentText(share) {
  if (share > 0 && share < 0.001) return "under 0.1 %";
  return `${share === 0 || share >= 0.0995 ? Math.round(100 * share) : (100 * share).toFixed(1)} %`;
}

function ratioOf(part, whole) {
  return whole > 0 ? part / whole : null;
}

function iouText(value) {
  return value === null ? "–" : value.toFixed(2);
}

function totalOf(values) {
  return values.reduce((total, value) => total + value, 0);
}

function classNameOf(index) {
  return failures.classes[index].name;
}

function withSwatch(node, index) {
  const swatch = element("span", "", node);
  swatch.className = "swatch";
  swatch.style.background = `rgb(${failures.classes[index].color.join(", ")})`;
  node.append(classNameOf(index));
  return node;
}

function headingCell(row, scope) {
  const cell = element("th", "", row);
  cell.scope = scope;
  return cell;
}

// The confusion matrix: rows are the truth.

function confusionSentence(truth, prediction) {
  const row = failures.member.confusion[truth];
  const [pixels, total] = [row[prediction], totalOf(row)].map((value) => value.toLocaleString("en"));
  if (!totalOf(row)) return `No pixel of the truth is ${classNameOf(truth)}.`;
  const share = percentText(row[prediction] / totalOf(row));
  return `${share} of ${classNameOf(truth)} read as ${classNameOf(prediction)}: ${pixels} of ${total} pixels.`;
}

function shareText(pixels, share) {
  if (!pixels) return "·";
  return share < 0.01 ? "<1" : String(Math.round(100 * share));
}

function confusionRow(body, pixels, truth) {
  const row = element("tr", "", body);
  withSwatch(headingCell(row, "row"), truth).title = classNameOf(truth);
  const total = totalOf(pixels);
  pixels.forEach((number, prediction) => {
    const share = ratioOf(number, total);
    const cell = element("td", share === null ? "–" : shareText(number, share), row);
    Object.assign(cell.dataset, { truth, prediction });
    cell.title = confusionSentence(truth, prediction);
    if (!number) return;
    cell.className = truth === prediction ? "correct" : "wrong";
    // The root lifts small confusions out of the white.
    cell.style.setProperty("--share", (truth === prediction ? share : Math.sqrt(share)).toFixed(3));
  });
}

function drawConfusion(matrix) {
  const table = get("confusion-table");
  table.tHead.replaceChildren();
  table.tBodies[0].replaceChildren();
  const header = element("tr", "", table.tHead);
  headingCell(header, "col").textContent = "truth ↓ read as →";
  failures.classes.forEach((entry, index) => {
    const cell = headingCell(header, "col");
    cell.title = entry.name;
    const turned = element("span", "", cell);
    turned.className = "turned";
    withSwatch(turned, index);
  });
  matrix.forEach((pixels, truth) => confusionRow(table.tBodies[0], pixels, truth));
  get("confusion-said").textContent = "";
  get("confusion-list").replaceChildren();
  for (const sentence of failures.member.confusions) element("li", sentence, get("confusion-list"));
}

function readCell(event) {
  const cell = event.target.closest("td[data-truth]");
  if (!cell) return;
  for (const other of get("confusion-table").querySelectorAll(".pointed")) other.classList.remove("pointed");
  cell.classList.add("pointed");
  get("confusion-said").textContent = confusionSentence(Number(cell.dataset.truth), Number(cell.dataset.prediction));
}

// The figures of each class, in the order that the reader chose.

function figuresOf(member, index) {
  const matrix = member.confusion;
  const { iou, boundary_iou, size_iou, objects } = member.classes[index];
  const [right, truth] = [matrix[index][index], totalOf(matrix[index])];
  const predicted = totalOf(matrix.map((pixels) => pixels[index]));
  const [small, medium, large] = size_iou;
  const shares = { recall: ratioOf(right, truth), precision: ratioOf(right, predicted), pixels: ratioOf(truth, totalOf(matrix.map(totalOf))) };
  return { index, objects, class: classNameOf(index), iou, boundary_iou, small, medium, large, ...shares };
}

function figureText(figures, key) {
  const value = figures[key];
  const size = ["small", "medium", "large"].indexOf(key);
  if (size >= 0) return figures.objects[size] ? `${iouText(value)} (${figures.objects[size].toLocaleString("en")})` : "–";
  if (["iou", "boundary_iou"].includes(key)) return iouText(value);
  return value === null ? "–" : percentText(value);
}

function figuresRow(figures, keys) {
  const row = document.createElement("tr");
  withSwatch(headingCell(row, "row"), figures.index);
  for (const key of keys.slice(1)) element("td", figureText(figures, key), row).className = "number";
  return row;
}

function drawFigures() {
  const table = get("figures-table");
  const headers = [...table.tHead.rows[0].cells];
  const sorted = headers.find((header) => header.hasAttribute("aria-sort"));
  const [key, sign] = [sorted.dataset.key, sorted.getAttribute("aria-sort") === "ascending" ? 1 : -1];
  const rows = failures.classes.map((_, index) => figuresOf(failures.member, index));
  rows.sort((a, b) => compareValues(a[key], b[key], key !== "class", sign));
  table.tBodies[0].replaceChildren(...rows.map((figures) => figuresRow(figures, headers.map((header) => header.dataset.key))));
}

function sortFigures(event) {
  const header = event.target.closest("th");
  if (!header) return;
  const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  drawFigures();
}

// Examples: image, prediction and truth beside each other. Only those that are shown are in the document.

function pictureOf(kind, index) {
  const { images, members, pictures } = failures.gallery;
  const place = kind === "prediction" ? members[failures.member.id].predictions[index] : images[index][kind];
  return place === null ? null : pictures[place];
}

function fileOf(kind, index) {
  const folder = { image: "images", truth: "truth", prediction: failures.member.id }[kind];
  return `gallery/${folder}/${index}.png`;
}

function enlarge(uri, kind, text) {
  const picture = get("enlarged-picture");
  picture.src = uri;
  picture.alt = text;
  picture.className = kind === "image" ? "" : "mask";
  get("enlarged-text").textContent = text;
  get("enlarged").showModal();
  // As large as fits, whatever the picture's own size is.
  const room = { width: 0.88 * innerWidth, height: 0.7 * innerHeight };
  const fit = () => { picture.style.width = `${Math.min(room.width, (room.height * picture.naturalWidth) / picture.naturalHeight)}px`; };
  picture.decode().then(fit);
}

function drawPicture(parent, kind, heading, index) {
  const figure = element("figure", "", parent);
  const uri = pictureOf(kind, index);
  const text = `${heading} of ${failures.gallery.images[index].name}`;
  if (uri) {
    const button = element("button", "", figure);
    button.type = "button";
    button.title = "Enlarge";
    const image = element("img", "", button);
    Object.assign(image, { src: uri, alt: text, className: kind === "image" ? "" : "mask" });
    button.addEventListener("click", () => enlarge(uri, kind, `${failures.member.id}: ${text}`));
  } else {
    element("div", `This picture cannot be shown: ${fileOf(kind, index)}`, figure).className = "gone";
  }
  element("figcaption", heading, figure);
}

function drawExample(parent, lead, index) {
  const node = element("div", "", parent);
  node.className = "example";
  element("p", `${lead} in ${failures.gallery.images[index].name}`, node);
  if (!(index in failures.gallery.members[failures.member.id].predictions)) {
    const files = PICTURE_KINDS.map(([kind]) => fileOf(kind, index)).join(", ");
    element("p", `Left out to keep this page small. In the run's folder: ${files}`, node).className = "muted";
    return;
  }
  const triplet = element("div", "", node);
  triplet.className = "triplet";
  for (const [kind, heading] of PICTURE_KINDS) drawPicture(triplet, kind, heading, index);
}

function drawExamples() {
  const member = failures.gallery?.members[failures.member.id];
  get("examples").hidden = !member;
  if (!member) return;
  const index = Number(get("example-class").value);
  const common = get("example-kind").value === "common";
  const list = get("example-list");
  list.replaceChildren();
  const found = member.examples.filter(([classIndex]) => classIndex === index);
  if (common) {
    for (const image of failures.gallery.common) {
      drawExample(list, `${classNameOf(index)}: IoU ${iouText(member.ious[image][index])}`, image);
    }
  } else {
    const heading = found.length === 1 ? () => "The only image with it" : (kind) => (kind === "best" ? "Best" : "Worst");
    for (const [, kind, image, iou] of found) drawExample(list, `${heading(kind)}: ${classNameOf(index)}, IoU ${iouText(iou)}`, image);
  }
  get("example-none").hidden = list.childElementCount > 0;
  get("example-none").textContent = common ? "The gallery has no common images." : `No validation image shows ${classNameOf(index)}.`;
}

// The chosen model.

function weakestOf(member) {
  const known = member.classes.map(({ iou }, index) => ({ iou, index })).filter(({ iou }) => iou !== null);
  return known.reduce((least, entry) => (entry.iou < least.iou ? entry : least), known[0] ?? { index: 0 }).index;
}

function offerClasses(member) {
  const options = member.classes.map(({ iou }, index) => new Option(`${classNameOf(index)} · IoU ${iouText(iou)}`, index));
  get("example-class").replaceChildren(...options);
  get("example-class").value = weakestOf(member);
}

function showMember(id) {
  const member = failures.members.find((entry) => entry.id === id);
  failures.member = member;
  get("failure-model").value = id;
  get("failure-name").textContent = [`${member.id} · ${member.name}`, `mIoU ${member.miou}`, ...member.roles].join(" · ");
  get("failure-text").textContent = member.text || member.reason;
  get("failure-details").hidden = Boolean(member.reason);
  if (member.reason) return;
  drawConfusion(member.confusion);
  drawFigures();
  offerClasses(member);
  drawExamples();
}

// A run of a configuration that ran under several seeds stands for its configuration.
function memberOf(trial) {
  const configuration = byId.get(trial)?.configuration;
  return failures.members.find((member) => byId.get(member.id)?.configuration === configuration);
}

function followFailures() {
  if (!get("failure-model") || selection.trial === failures.followed) return;
  failures.followed = selection.trial;
  const member = selection.trial && memberOf(selection.trial);
  if (member) showMember(member.id);
}

function prepareFailures() {
  if (!get("failure-model")) return;
  const text = (member) => [member.id, member.name, `mIoU ${member.miou}`, ...member.roles].join(" · ");
  fillSelect(get("failure-model"), failures.members.map((member) => ({ key: member.id, heading: text(member) })));
  showMember(failures.chosen);
  get("failure-chosen").hidden = false;
}

function connectFailures() {
  if (!get("failure-model")) return;
  get("failure-model").addEventListener("change", (event) => showMember(event.target.value));
  get("confusion-table").addEventListener("pointerover", readCell);
  get("confusion-table").addEventListener("click", readCell);
  get("figures-table").tHead.addEventListener("click", sortFigures);
  for (const id of ["example-kind", "example-class"]) get(id).addEventListener("change", drawExamples);
  get("enlarged-close").addEventListener("click", () => get("enlarged").close());
  get("enlarged").addEventListener("click", (event) => { if (event.target === get("enlarged")) get("enlarged").close(); });
}

sections.push({ prepare: prepareFailures, draw: followFailures, connect: connectFailures });
