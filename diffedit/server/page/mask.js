/**
 * The place to edit: what was found in the picture, what was painted since, the tools for both.
 *
 * `place` is everything there is to know. The mask is what was found, cut from the heatmap at the
 * threshold, plus the strokes made since (`repaint`), so that undoing means leaving the last one
 * out. Like an input, the canvas `marks` tells of "input" when something looks different and of
 * "change" when the mask is another. Of the page this knows what lies over the picture and the
 * tools; of the texts, of requests and of what is kept it knows nothing.
 */

export const place = {
  size: [1, 1], // of the picture, in pixels; here and below, pairs are x and y
  found: null, // { told, small, levels }: what /v1/masks told, and its heatmap, a pixel a cell
  threshold: 0.5,
  strokes: [], // { kind, points?, width? } on top of the found mask; see OPERATIONS
  undone: [],
  tool: null, // "paint", "erase", or null where nothing may be changed
  brush: 0.06, // diameter, of the picture's longer side
  cursor: [0, 0], // where the brush is, in pixels
  share: 0, // of the picture that the mask covers
};

const OPERATIONS = {
  paint: "source-over", erase: "destination-out",
  clear: "destination-out", invert: "source-out", found: "destination-out",
};
const HEAT = [
  [24, 15, 75], [101, 21, 110], [184, 40, 92], [236, 88, 51], [252, 170, 52], [252, 250, 178],
];

const ui = Object.fromEntries([
  "marks", "heat", "brush", "threshold", "brushSize", "undo", "redo", "clear", "invert", "found",
].map((id) => [id, document.getElementById(id)]));
const [mask, scaled, scratch] = [1, 2, 3].map(() => canvasOf([1, 1]));
const pen = mask.getContext("2d"); // opaque = edited, in the picture's size

/** Whether there is a mask that an edit would obey. */
export const marked = () => place.found !== null || place.strokes.length > 0;

/**
 * Start on a picture of a size; `told` = { answer, dilation, ... } where /v1/masks was asked, which
 * is kept as it is, and `kept` what else of the place was.
 */
export async function start(size, told = null, kept = {}) {
  const found = told && { told, ...(await heatmapOf(told.answer)) };
  const threshold = found ? told.answer.threshold : 0.5;
  const cursor = size.map((n) => n / 2);
  Object.assign(place, { size, found, threshold, strokes: [], undone: [], cursor }, kept);
  if (found) drawHeat();
  repaint();
}

/** The heatmap as a canvas and as levels, 0 to 255. */
async function heatmapOf({ heatmap, cells }) {
  const png = new Blob([Uint8Array.from(atob(heatmap), (c) => c.charCodeAt(0))]);
  const small = canvasOf(cells);
  const context = small.getContext("2d", { willReadFrequently: true });
  context.drawImage(await createImageBitmap(png, { colorSpaceConversion: "none" }), 0, 0);
  const { data } = context.getImageData(0, 0, ...cells);
  return { small, levels: data.filter((_, k) => k % 4 === 0) };
}

function canvasOf([width, height]) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function tell(kind) {
  ui.marks.dispatchEvent(new Event(kind));
}

// -- the mask -------------------------------------------------------------------------------------

/** The mask from scratch: what was found, and every stroke since. */
function repaint() {
  [mask.width, mask.height] = place.size; // which also clears it
  drawFound();
  place.strokes.forEach((stroke) => apply(stroke));
  draw();
}

/** Put a stroke on the mask, or its segments from one of its points on. */
function apply({ kind, points, width }, from = 1) {
  pen.globalCompositeOperation = OPERATIONS[kind];
  pen.lineCap = "round";
  pen.lineWidth = width ?? 1;
  if (!points) pen.fillRect(0, 0, mask.width, mask.height);
  for (let k = from; k < points?.length; k++) {
    pen.beginPath();
    pen.moveTo(...points[k - 1]);
    pen.lineTo(...points[k]);
    pen.stroke();
  }
  pen.globalCompositeOperation = "source-over";
  if (kind === "found") drawFound();
}

function addStroke(stroke) {
  place.strokes.push(stroke);
  place.undone = [];
  apply(stroke);
  draw();
  tell("change");
}

const undo = () => moveLast(place.strokes, place.undone);
const redo = () => moveLast(place.undone, place.strokes);

function moveLast(from, to) {
  if (!from.length) return;
  to.push(from.pop());
  repaint();
  tell("change");
}

/** The mask as a file: white is edited. */
export function maskFile() {
  const canvas = canvasOf(place.size);
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, ...place.size);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(mask, 0, 0);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, ...place.size);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// -- what was found -------------------------------------------------------------------------------

/** Add the cells above the threshold to the mask, grown as the server's own mask was. */
function drawFound() {
  const { found, threshold } = place;
  if (!found) return;
  const { answer, dilation } = found.told;
  const edges = cellEdges(answer);
  found.levels.forEach((level, k) => {
    if (level / 255 <= threshold) return;
    const cell = [k % answer.cells[0], Math.floor(k / answer.cells[0])];
    const [[left, right], [top, bottom]] = cell.map((at, axis) => [
      edges[axis][Math.max(0, at - dilation)],
      edges[axis][Math.min(answer.cells[axis], at + dilation + 1)],
    ]);
    pen.fillRect(left, top, right - left, bottom - top);
  });
}

/**
 * How the picture lies in the network's canvas: `fitted` pixels of it from `start`, centred with
 * its aspect kept; `factor` pixels are a cell. As `fit` in diffedit/imaging/geometry.py.
 */
function placement({ cells, canvas }) {
  const { size } = place;
  const full = size[0] * canvas[1] >= size[1] * canvas[0] ? 0 : 1; // the axis that it fills
  const fitted = canvas.map((n, axis) =>
    axis === full ? n : Math.max(1, evenly((size[axis] * canvas[full]) / size[full])));
  const from = canvas.map((n, axis) => Math.floor((n - fitted[axis]) / 2));
  return { fitted, from, factor: canvas[0] / cells[0] };
}

/** Rounded, halves to the even neighbour as in Python. */
function evenly(value) {
  const rounded = Math.round(value);
  return value % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** Along x and y, the first pixel whose centre lies in each cell, and the end. */
function cellEdges(answer) {
  const { fitted, from, factor } = placement(answer);
  return answer.cells.map((count, axis) => {
    const [size, inside] = [place.size[axis], fitted[axis]];
    return Array.from({ length: count + 1 }, (_, cell) => {
      const first = Math.ceil((2 * size * (factor * cell - from[axis]) - inside) / (2 * inside));
      return Math.min(size, Math.max(0, first));
    });
  });
}

// -- drawing over the picture ---------------------------------------------------------------------

let frame = 0;

/** Draw the mask anew, once a frame at most. */
export function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    drawMarks();
    const share = shareOf(scaled);
    if (share === place.share) return;
    place.share = share;
    tell("input");
  });
}

function drawMarks() {
  const { clientWidth, clientHeight } = ui.marks.parentElement;
  const ratio = devicePixelRatio;
  const size = [clientWidth, clientHeight].map((n) => Math.round(n * ratio) || 1);
  for (const canvas of [ui.marks, scaled, scratch]) [canvas.width, canvas.height] = size;
  const small = scaled.getContext("2d");
  small.imageSmoothingQuality = "high";
  small.drawImage(mask, 0, 0, ...size);
  const context = ui.marks.getContext("2d");
  context.globalAlpha = ui.heat.hidden ? 0.38 : 0;
  context.drawImage(filled("#e8407f", 0), 0, 0);
  context.globalAlpha = 1;
  context.drawImage(filled("rgb(20 10 30 / 70%)", 2.5 * ratio), 0, 0);
  context.drawImage(filled("#fff", 1.25 * ratio), 0, 0);
}

/** The mask in one colour, or, with a reach, what lies that near outside it. */
function filled(colour, reach) {
  const context = scratch.getContext("2d");
  context.globalCompositeOperation = "copy";
  context.drawImage(scaled, 0, 0);
  if (reach) {
    context.globalCompositeOperation = "source-over";
    for (const [x, y] of [[-1, -1], [1, -1], [-1, 1], [1, 1]]) {
      context.drawImage(scaled, x * reach, y * reach);
    }
    context.globalCompositeOperation = "destination-out";
    context.drawImage(scaled, 0, 0);
  }
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, scratch.width, scratch.height);
  return scratch;
}

function shareOf(canvas) {
  const side = 128;
  const context = canvasOf([side, side]).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side);
  return data.reduce((sum, value, k) => (k % 4 === 3 ? sum + value : sum), 0) / (255 * side * side);
}

/** The heatmap in its colours, smoothly, cropped to the picture; hotter is more opaque. */
function drawHeat() {
  const { size, found: { told, small } } = place;
  const { fitted, from, factor } = placement(told.answer);
  const scale = 640 / Math.max(...size);
  const shown = size.map((n) => Math.max(1, Math.round(n * scale)));
  [ui.heat.width, ui.heat.height] = shown;
  const context = ui.heat.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(small, ...[...from, ...fitted].map((n) => n / factor), 0, 0, ...shown);
  const image = context.getImageData(0, 0, ...shown);
  for (let k = 0; k < image.data.length; k += 4) {
    const level = image.data[k];
    image.data.set([...heatColour(level / 255), 70 + (150 * level) / 255], k);
  }
  context.putImageData(image, 0, 0);
}

/** As in diffedit/imaging/geometry.py: lightness rises evenly from cold to hot. */
function heatColour(share) {
  const at = share * (HEAT.length - 1);
  const from = Math.min(HEAT.length - 2, Math.floor(at));
  return HEAT[from].map((low, k) => low + (HEAT[from + 1][k] - low) * (at - from));
}

// -- painting -------------------------------------------------------------------------------------

const brushPixels = () => Math.max(1, place.brush * Math.max(...place.size));

function pixelAt({ clientX, clientY }) {
  const { left, top, width, height } = ui.marks.getBoundingClientRect();
  const [columns, rows] = place.size;
  return [((clientX - left) / width) * columns, ((clientY - top) / height) * rows];
}

/** A stroke that so far is one dab; a line of no length would leave no trace. */
function addDab([x, y]) {
  addStroke({ kind: place.tool, points: [[x, y], [x + 0.01, y]], width: brushPixels() });
}

function startStroke(event) {
  if (event.button !== 0 || !place.tool) return;
  ui.marks.setPointerCapture(event.pointerId);
  addDab(pixelAt(event));
}

function continueStroke(event) {
  place.cursor = pixelAt(event);
  showBrush();
  if (!ui.marks.hasPointerCapture(event.pointerId)) return;
  const stroke = place.strokes.at(-1);
  const from = stroke.points.length;
  stroke.points.push(...event.getCoalescedEvents().map(pixelAt));
  apply(stroke, from);
  draw();
}

/** Painting with keys: arrows move, Space paints. */
function paintByKey(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = event.key === " " ? [0, 0] : moves[event.key];
  if (!move) return;
  event.preventDefault();
  if (event.key === " " && place.tool) addDab(place.cursor);
  const step = brushPixels() / (event.shiftKey ? 8 : 2);
  place.cursor = place.cursor.map((at, axis) =>
    Math.min(place.size[axis], Math.max(0, at + step * move[axis])));
  showBrush();
}

/** Keys that work anywhere but in a text. */
function shortcut(event) {
  const typing = event.target.matches("textarea, input:not([type=range], [type=radio])");
  if (ui.marks.hidden || !place.tool || typing) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    (event.shiftKey ? redo : undo)();
  }
  if (event.key === "[") resizeBrush(place.brush / 1.25);
  if (event.key === "]") resizeBrush(place.brush * 1.25);
}

function resizeBrush(size) {
  place.brush = Math.min(0.4, Math.max(0.005, size));
  tell("input");
}

function showBrush() {
  const [left, top] = place.cursor.map((at, axis) => `${(100 * at) / place.size[axis]}%`);
  const width = `${(100 * brushPixels()) / place.size[0]}%`;
  Object.assign(ui.brush.style, { left, top, width });
}

// -- the tools ------------------------------------------------------------------------------------

/** Bring brush and tools up to the place. */
export function render() {
  showBrush();
  ui.threshold.value = place.threshold;
  ui.brushSize.value = 1000 * place.brush;
  ui.undo.disabled = !place.strokes.length;
  ui.redo.disabled = !place.undone.length;
  ui.found.hidden = !place.found;
}

/** Let the tools do what they are for. */
export function wire() {
  ui.threshold.oninput = () => {
    place.threshold = Number(ui.threshold.value);
    repaint();
  };
  ui.threshold.onchange = ui.marks.onlostpointercapture = () => tell("change");
  ui.brushSize.oninput = () => resizeBrush(ui.brushSize.value / 1000);
  ui.undo.onclick = undo;
  ui.redo.onclick = redo;
  for (const kind of ["clear", "invert", "found"]) {
    ui[kind].onclick = () => addStroke({ kind });
  }
  ui.marks.onpointerdown = startStroke;
  ui.marks.onpointermove = continueStroke;
  ui.marks.onkeydown = paintByKey;
  addEventListener("keydown", shortcut);
  new ResizeObserver(draw).observe(ui.marks.parentElement);
}
