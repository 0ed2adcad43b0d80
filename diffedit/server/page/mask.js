/**
 * The mask editor: the mask found by the server, the strokes painted on it, and the tools.
 *
 * `maskState` is the whole state. The mask is computed from it: the heatmap cut at the threshold,
 * then every stroke in order (`repaint`). Undo drops the last stroke and repaints. The canvas
 * `maskCanvas` fires events like an input element: "input" when its display changes, "change" when
 * the mask changes. This module knows neither the prompts nor requests nor storage.
 */

export const maskState = {
  size: [1, 1], // of the image, in pixels; all pairs are [x, y]
  found: null, // { source, small, levels }: findMask's result, and its heatmap, a pixel per cell
  threshold: 0.5,
  strokes: [], // { kind, points?, width? } on top of the found mask; see OPERATIONS
  undone: [],
  tool: null, // "paint", "erase", or null while the mask is read-only
  brush: 0.06, // diameter, relative to the longer side of the image
  cursor: [0, 0], // position of the brush, in pixels
  share: 0, // fraction of the image inside the mask
};

const OPERATIONS = {
  paint: "source-over", erase: "destination-out",
  clear: "destination-out", invert: "source-out", reset: "destination-out",
};
const PALETTE = [
  [24, 15, 75], [101, 21, 110], [184, 40, 92], [236, 88, 51], [252, 170, 52], [252, 250, 178],
];

const ui = Object.fromEntries([
  "maskCanvas", "heatmap", "brush", "threshold", "brushSize", "undo", "redo", "clear", "invert",
  "reset",
].map((id) => [id, document.getElementById(id)]));
const [mask, scaled, scratch] = [1, 2, 3].map(() => canvasOf([1, 1]));
const pen = mask.getContext("2d"); // the mask at the image's size; opaque = edited

/** Whether a mask was found or painted. */
export const hasMask = () => maskState.found !== null || maskState.strokes.length > 0;

/**
 * Start with an image of this size.
 *
 * `source`: the result of `findMask`, or null. `restored`: properties of `maskState` to restore.
 */
export async function start(size, source = null, restored = {}) {
  const found = source && { source, ...(await decodeHeatmap(source.response)) };
  const threshold = found ? source.response.threshold : 0.5;
  const cursor = size.map((n) => n / 2);
  Object.assign(maskState, { size, found, threshold, strokes: [], undone: [], cursor }, restored);
  if (found) drawHeatmap();
  repaint();
}

/** Decode the heatmap to a canvas and to levels from 0 to 255. */
async function decodeHeatmap({ heatmap, cells }) {
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

function dispatch(type) {
  ui.maskCanvas.dispatchEvent(new Event(type));
}

// -- the mask -------------------------------------------------------------------------------------

/** Compute the mask from scratch: the found mask, then every stroke. */
function repaint() {
  [mask.width, mask.height] = maskState.size; // also clears the canvas
  drawFound();
  maskState.strokes.forEach((stroke) => apply(stroke));
  draw();
}

/** Apply a stroke to the mask, or only its segments from point `from` on. */
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
  if (kind === "reset") drawFound();
}

function addStroke(stroke) {
  maskState.strokes.push(stroke);
  maskState.undone = [];
  apply(stroke);
  draw();
  dispatch("change");
}

const undo = () => moveLast(maskState.strokes, maskState.undone);
const redo = () => moveLast(maskState.undone, maskState.strokes);

function moveLast(from, to) {
  if (!from.length) return;
  to.push(from.pop());
  repaint();
  dispatch("change");
}

/** Encode the mask as PNG: white = edit, black = keep. Strokes have soft edges: they are cut at half. */
export function encodeMask() {
  const canvas = canvasOf(maskState.size);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, ...maskState.size);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(mask, 0, 0);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, ...maskState.size);
  const image = context.getImageData(0, 0, ...maskState.size);
  for (let k = 0; k < image.data.length; k += 4) {
    image.data.fill(image.data[k] < 128 ? 0 : 255, k, k + 3);
  }
  context.putImageData(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// -- the found mask -------------------------------------------------------------------------------

/** Add the cells above the threshold to the mask, dilated like the server's mask. */
function drawFound() {
  const { found, threshold } = maskState;
  if (!found) return;
  const { response, dilation } = found.source;
  const edges = cellEdges(response);
  found.levels.forEach((level, k) => {
    if (level / 255 <= threshold) return;
    const cell = [k % response.cells[0], Math.floor(k / response.cells[0])];
    const [[left, right], [top, bottom]] = cell.map((index, axis) => [
      edges[axis][Math.max(0, index - dilation)],
      edges[axis][Math.min(response.cells[axis], index + dilation + 1)],
    ]);
    pen.fillRect(left, top, right - left, bottom - top);
  });
}

/**
 * How the image is fitted into the network's canvas: `fitted` pixels starting at `from`, centred,
 * with its aspect ratio. A cell is `factor` pixels wide. Equals `fit` in
 * diffedit/imaging/geometry.py.
 */
function placement({ cells, canvas }) {
  const { size } = maskState;
  const full = size[0] * canvas[1] >= size[1] * canvas[0] ? 0 : 1; // the axis that it fills
  const fitted = canvas.map((n, axis) =>
    axis === full ? n : Math.max(1, roundHalfToEven((size[axis] * canvas[full]) / size[full])));
  const from = canvas.map((n, axis) => Math.floor((n - fitted[axis]) / 2));
  return { fitted, from, factor: canvas[0] / cells[0] };
}

/** Round like Python: halves go to the even neighbour. */
function roundHalfToEven(value) {
  const rounded = Math.round(value);
  return value % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** For x and y: the first pixel whose centre is in each cell, and the end of the last cell. */
function cellEdges(response) {
  const { fitted, from, factor } = placement(response);
  return response.cells.map((count, axis) => {
    const [size, inside] = [maskState.size[axis], fitted[axis]];
    return Array.from({ length: count + 1 }, (_, cell) => {
      const first = Math.ceil((2 * size * (factor * cell - from[axis]) - inside) / (2 * inside));
      return Math.min(size, Math.max(0, first));
    });
  });
}

// -- display --------------------------------------------------------------------------------------

let frame = 0;

/** Redraw the mask, at most once per frame. */
export function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    drawMask();
    const share = coverage(scaled);
    if (share === maskState.share) return;
    maskState.share = share;
    dispatch("input");
  });
}

function drawMask() {
  const { clientWidth, clientHeight } = ui.maskCanvas.parentElement;
  const ratio = devicePixelRatio;
  const size = [clientWidth, clientHeight].map((n) => Math.round(n * ratio) || 1);
  for (const canvas of [ui.maskCanvas, scaled, scratch]) [canvas.width, canvas.height] = size;
  const small = scaled.getContext("2d");
  small.imageSmoothingQuality = "high";
  small.drawImage(mask, 0, 0, ...size);
  const context = ui.maskCanvas.getContext("2d");
  context.globalAlpha = ui.heatmap.hidden ? 0.38 : 0;
  context.drawImage(silhouette("#e8407f", 0), 0, 0);
  context.globalAlpha = 1;
  context.drawImage(silhouette("rgb(20 10 30 / 70%)", 2.5 * ratio), 0, 0);
  context.drawImage(silhouette("#fff", 1.25 * ratio), 0, 0);
}

/** The mask in one colour; with a width, only its outline of this width. */
function silhouette(colour, width) {
  const context = scratch.getContext("2d");
  context.globalCompositeOperation = "copy";
  context.drawImage(scaled, 0, 0);
  if (width) {
    context.globalCompositeOperation = "source-over";
    for (const [x, y] of [[-1, -1], [1, -1], [-1, 1], [1, 1]]) {
      context.drawImage(scaled, x * width, y * width);
    }
    context.globalCompositeOperation = "destination-out";
    context.drawImage(scaled, 0, 0);
  }
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, scratch.width, scratch.height);
  return scratch;
}

/** The fraction of a canvas that is opaque. */
function coverage(canvas) {
  const side = 128;
  const context = canvasOf([side, side]).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, 0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side);
  return data.reduce((sum, value, k) => (k % 4 === 3 ? sum + value : sum), 0) / (255 * side * side);
}

/** Draw the heatmap in colour, smoothed and cropped to the image; higher levels are more opaque. */
function drawHeatmap() {
  const { size, found: { source, small } } = maskState;
  const { fitted, from, factor } = placement(source.response);
  const scale = 640 / Math.max(...size);
  const shown = size.map((n) => Math.max(1, Math.round(n * scale)));
  [ui.heatmap.width, ui.heatmap.height] = shown;
  const context = ui.heatmap.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(small, ...[...from, ...fitted].map((n) => n / factor), 0, 0, ...shown);
  const image = context.getImageData(0, 0, ...shown);
  for (let k = 0; k < image.data.length; k += 4) {
    const level = image.data[k];
    image.data.set([...paletteColour(level / 255), 70 + (150 * level) / 255], k);
  }
  context.putImageData(image, 0, 0);
}

/** The palette of diffedit/imaging/geometry.py: lightness increases linearly. */
function paletteColour(value) {
  const at = value * (PALETTE.length - 1);
  const from = Math.min(PALETTE.length - 2, Math.floor(at));
  return PALETTE[from].map((low, k) => low + (PALETTE[from + 1][k] - low) * (at - from));
}

// -- painting -------------------------------------------------------------------------------------

const brushPixels = () => Math.max(1, maskState.brush * Math.max(...maskState.size));

function pixelAt({ clientX, clientY }) {
  const { left, top, width, height } = ui.maskCanvas.getBoundingClientRect();
  const [columns, rows] = maskState.size;
  return [((clientX - left) / width) * columns, ((clientY - top) / height) * rows];
}

/** Start a stroke with one dot. Its length must not be zero, or the canvas draws nothing. */
function addDot([x, y]) {
  addStroke({ kind: maskState.tool, points: [[x, y], [x + 0.01, y]], width: brushPixels() });
}

function startStroke(event) {
  if (event.button !== 0 || !maskState.tool) return;
  ui.maskCanvas.setPointerCapture(event.pointerId);
  addDot(pixelAt(event));
}

function continueStroke(event) {
  maskState.cursor = pixelAt(event);
  showBrush();
  if (!ui.maskCanvas.hasPointerCapture(event.pointerId)) return;
  const stroke = maskState.strokes.at(-1);
  const from = stroke.points.length;
  stroke.points.push(...event.getCoalescedEvents().map(pixelAt));
  apply(stroke, from);
  draw();
}

/** Paint with the keyboard: arrow keys move the brush, Space paints. */
function paintByKey(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = event.key === " " ? [0, 0] : moves[event.key];
  if (!move) return;
  event.preventDefault();
  if (event.key === " " && maskState.tool) addDot(maskState.cursor);
  const step = brushPixels() / (event.shiftKey ? 8 : 2);
  maskState.cursor = maskState.cursor.map((at, axis) =>
    Math.min(maskState.size[axis], Math.max(0, at + step * move[axis])));
  showBrush();
}

/** Shortcuts that work everywhere except in text inputs. */
function shortcut(event) {
  const typing = event.target.matches("textarea, input:not([type=range], [type=radio])");
  if (ui.maskCanvas.hidden || !maskState.tool || typing) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    (event.shiftKey ? redo : undo)();
  }
  if (event.key === "[") resizeBrush(maskState.brush / 1.25);
  if (event.key === "]") resizeBrush(maskState.brush * 1.25);
}

function resizeBrush(size) {
  maskState.brush = Math.min(0.4, Math.max(0.005, size));
  dispatch("input");
}

function showBrush() {
  const [left, top] = maskState.cursor.map((at, axis) => `${(100 * at) / maskState.size[axis]}%`);
  const width = `${(100 * brushPixels()) / maskState.size[0]}%`;
  Object.assign(ui.brush.style, { left, top, width });
}

// -- tools ----------------------------------------------------------------------------------------

/** Update the brush and the tools from `maskState`. */
export function render() {
  showBrush();
  ui.threshold.value = maskState.threshold;
  ui.brushSize.value = 1000 * maskState.brush;
  ui.undo.disabled = !maskState.strokes.length;
  ui.redo.disabled = !maskState.undone.length;
  ui.reset.hidden = !maskState.found;
}

/** Register the event handlers. */
export function registerHandlers() {
  ui.threshold.oninput = () => {
    maskState.threshold = Number(ui.threshold.value);
    repaint();
  };
  ui.threshold.onchange = ui.maskCanvas.onlostpointercapture = () => dispatch("change");
  ui.brushSize.oninput = () => resizeBrush(ui.brushSize.value / 1000);
  ui.undo.onclick = undo;
  ui.redo.onclick = redo;
  for (const kind of ["clear", "invert", "reset"]) {
    ui[kind].onclick = () => addStroke({ kind });
  }
  ui.maskCanvas.onpointerdown = startStroke;
  ui.maskCanvas.onpointermove = continueStroke;
  ui.maskCanvas.onkeydown = paintByKey;
  addEventListener("keydown", shortcut);
  new ResizeObserver(draw).observe(ui.maskCanvas.parentElement);
}
