/**
 * The mask editor: the mask found by the server, the strokes painted on it, and the tools.
 *
 * `maskState` is the whole state. The mask is the found one, then every stroke in order (`repaint`).
 * Undo drops the last stroke and repaints. The server makes the found mask from its heatmap and from
 * `maskState.shape`; this module fires "shape" on the canvas when the user moves a slider, and the
 * page fetches the new mask (`setRefined`). The canvas `maskCanvas` also fires events like an input
 * element: "input" when its display changes, "change" when the mask changes. This module knows
 * neither the prompts nor requests nor storage.
 *
 * Large images are painted at a smaller scale, so that a stroke is drawn within one frame.
 */

export const maskState = {
  size: [1, 1], // of the image, in pixels; all pairs are [x, y]
  found: null, // { source, small, area, blend }: findMask's result; its heatmap, a pixel per cell;
  // the mask and how much of the edit each pixel takes, as canvases
  shape: {}, // how the server makes the mask from the heatmap, see SHAPE
  strokes: [], // { kind, points?, width?, softness? } on top of the found mask; see OPERATIONS
  undone: [],
  tool: null, // "paint", "erase", or null while the mask is read-only
  brush: 0.06, // diameter, relative to the longer side of the image
  softness: 0, // of the brush: 0 is a sharp edge, 1 fades from its centre on
  cursor: [0, 0], // position of the brush, in pixels
  share: 0, // fraction of the image inside the mask
};

const OPERATIONS = {
  paint: "source-over", erase: "destination-out",
  clear: "destination-out", invert: "source-out", reset: "destination-out",
};
const SHAPE = ["threshold", "grow", "feather", "cleaning"]; // the sliders, as the server names them
const MAX_SIDE = 2048; // of the canvas that is painted on
const PALETTE = [
  [24, 15, 75], [101, 21, 110], [184, 40, 92], [236, 88, 51], [252, 170, 52], [252, 250, 178],
];

const ui = Object.fromEntries([
  "maskCanvas", "heatmap", "brush", ...SHAPE, "brushSize", "softness", "undo", "redo", "clear",
  "invert", "reset",
].map((id) => [id, document.getElementById(id)]));
const [mask, scaled, scratch] = [1, 2, 3].map(() => canvasOf([1, 1]));
const pen = mask.getContext("2d"); // the mask at the scale of `paintedSize`; opaque = edited

/** Whether a mask was found or painted. */
export const hasMask = () => maskState.found !== null || maskState.strokes.length > 0;

/**
 * Start with an image of this size.
 *
 * `source`: the result of `findMask`, or null. `restored`: properties of `maskState` to restore.
 */
export async function start(size, source = null, restored = {}) {
  const cursor = size.map((n) => n / 2);
  const found = source && { source, small: await decoded(source.response.heatmap) };
  Object.assign(maskState, { size, found: null, strokes: [], undone: [], cursor }, restored);
  if (found) {
    await decodeMasks(found, source.refined ?? source.response);
    Object.assign(maskState, { found, shape: shapeOf(source.refined ?? source.response) });
    drawHeatmap();
  }
  repaint();
}

/** Show another mask that the server made from the same heatmap. */
export async function setRefined(response) {
  const { found } = maskState;
  found.source.refined = response;
  await decodeMasks(found, response);
  repaint();
}

/** The id of the found mask as its sliders are now, or null if there is none or it was painted on. */
export const foundId = () => {
  const { found, strokes } = maskState;
  return found && !strokes.length ? (found.source.refined ?? found.source.response).mask_id : null;
};

/** The fraction of the image inside the mask: the server's figure, or an estimate once painted on. */
export const shareOf = () =>
  foundId() ? (maskState.found.source.refined ?? maskState.found.source.response).mask_share
    : maskState.share;

const shapeOf = (response) => Object.fromEntries(SHAPE.map((name) => [name, response[name]]));

/** The size that is painted on: the image's, or less for large images. */
function paintedSize() {
  const scale = Math.min(1, MAX_SIDE / Math.max(...maskState.size));
  return maskState.size.map((n) => Math.max(1, Math.round(n * scale)));
}

async function decodeMasks(found, { mask: area, blend_mask: blend }) {
  const canvases = await Promise.all([decoded(area), decoded(blend)]);
  const [areaCanvas, blendCanvas] = canvases.map(greyToAlpha);
  Object.assign(found, { area: areaCanvas, blend: blendCanvas });
}

/** Decode a base64 PNG to a canvas, in its own size or that which is painted on. */
async function decoded(base64) {
  const png = new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]);
  const bitmap = await createImageBitmap(png, { colorSpaceConversion: "none" });
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const size = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
  const canvas = canvasOf(size);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0, ...size);
  bitmap.close();
  return canvas;
}

/** Turn grey levels into opacity. */
function greyToAlpha(canvas) {
  const context = canvas.getContext("2d");
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let k = 0; k < image.data.length; k += 4) image.data[k + 3] = image.data[k];
  context.putImageData(image, 0, 0);
  return canvas;
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
  [mask.width, mask.height] = paintedSize(); // also clears the canvas
  pen.setTransform(mask.width / maskState.size[0], 0, 0, mask.height / maskState.size[1], 0, 0);
  drawFound();
  maskState.strokes.forEach((stroke) => apply(stroke));
  draw();
}

/** Apply a stroke to the mask, or only its segments from point `from` on. */
function apply({ kind, points, width, softness = 0 }, from = 1) {
  pen.globalCompositeOperation = OPERATIONS[kind];
  pen.lineCap = "round";
  pen.lineWidth = width ?? 1;
  if (!points) pen.fillRect(0, 0, ...maskState.size);
  for (let k = from; k < points?.length; k++) {
    const ends = [points[k - 1], points[k]];
    if (softness) stamp(ends, width, softness);
    else line(ends);
  }
  pen.globalCompositeOperation = "source-over";
  if (kind === "reset") drawFound();
}

function line([from, to]) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

/** A segment of a soft brush: discs that fade towards their edge, close to each other. */
function stamp([from, to], width, softness) {
  const radius = width / 2;
  const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / (width / 6)));
  for (let k = 0; k < count; k++) {
    const [x, y] = from.map((at, axis) => at + ((to[axis] - at) * (k + 1)) / count);
    const fade = pen.createRadialGradient(x, y, radius * (1 - softness), x, y, radius);
    fade.addColorStop(0, "rgb(0 0 0 / 60%)");
    fade.addColorStop(1, "rgb(0 0 0 / 0%)");
    pen.fillStyle = fade;
    pen.fillRect(x - radius, y - radius, width, width);
  }
  pen.fillStyle = "#000";
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

/**
 * Encode the mask as PNG: white = edit, black = keep. Levels between them are kept if a soft brush
 * was used, and else cut at half, since a canvas smooths the edges of every stroke.
 */
export function encodeMask() {
  const isSoft = maskState.strokes.some(({ softness }) => softness);
  const canvas = canvasOf(maskState.size);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, ...maskState.size);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(mask, 0, 0, ...maskState.size);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, ...maskState.size);
  const image = context.getImageData(0, 0, ...maskState.size);
  for (let k = 0; !isSoft && k < image.data.length; k += 4) {
    image.data.fill(image.data[k] < 128 ? 0 : 255, k, k + 3);
  }
  context.putImageData(image, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// -- the found mask -------------------------------------------------------------------------------

/** Add the found mask. */
function drawFound() {
  if (maskState.found) pen.drawImage(maskState.found.area, 0, 0, ...maskState.size);
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
  const context = ui.maskCanvas.getContext("2d");
  const blend = foundId() && maskState.found.blend; // shows the soft edge
  small.drawImage(blend || mask, 0, 0, ...size);
  context.globalAlpha = ui.heatmap.hidden ? 0.38 : 0;
  context.drawImage(silhouette("#e8407f", 0), 0, 0);
  if (blend) {
    small.clearRect(0, 0, ...size);
    small.drawImage(mask, 0, 0, ...size);
  }
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

/** The horizontal extent of the mask, as shares of the width; null if it is empty. */
export function extent() {
  const side = 128;
  const context = canvasOf([side, side]).getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side);
  const columns = Array.from({ length: side }, (_, x) => x).filter((x) =>
    Array.from({ length: side }, (_, y) => data[4 * (y * side + x) + 3]).some((alpha) => alpha > 127));
  return columns.length ? [columns[0] / side, (columns.at(-1) + 1) / side] : null;
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
  const { tool: kind, softness } = maskState;
  addStroke({ kind, points: [[x, y], [x + 0.01, y]], width: brushPixels(), softness });
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
  for (const name of SHAPE) if (maskState.found) ui[name].value = maskState.shape[name];
  ui.softness.value = maskState.softness;
  ui.brushSize.value = 1000 * maskState.brush;
  ui.undo.disabled = !maskState.strokes.length;
  ui.redo.disabled = !maskState.undone.length;
  ui.reset.hidden = !maskState.found;
}

/** Register the event handlers. */
export function registerHandlers() {
  for (const name of SHAPE) {
    ui[name].oninput = () => {
      const { value } = ui[name];
      maskState.shape[name] = name === "cleaning" ? value : Number(value);
      dispatch("shape");
    };
  }
  ui.softness.oninput = () => { maskState.softness = Number(ui.softness.value); };
  ui.maskCanvas.onlostpointercapture = () => dispatch("change");
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
