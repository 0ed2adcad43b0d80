/**
 * The mask: the one found by the server, then every stroke in order.
 *
 * `maskState` is the whole state. Undo drops the last stroke. The server makes the found mask from
 * its heatmap and from `maskState.shape`; the page fetches it (`setRefined`). Masks are drawn in the
 * picture's own pixels (`drawMask`), at any scale, so that what is painted under zoom is exact. The
 * canvas `maskCanvas` fires events like an input element: "input" when its display changes, "change"
 * when the mask changes, "shape" when a slider of the found mask moves. This module knows neither
 * the prompts nor requests nor storage; overlay.js displays the mask, and brush.js paints on it.
 */

import { canvasOf, decoded, greyToAlpha, pathOfCells } from "/pictures.js";

export const maskState = {
  size: [1, 1], // of the image, in pixels; all pairs are [x, y]
  found: null, // { source, small, cells, blend }: findMask's result; its heatmap, a pixel per cell;
  // the mask as a path, and how much of the edit each pixel takes as a canvas
  shape: {}, // how the server makes the mask from the heatmap, see SHAPE
  strokes: [], // { kind, points?, width?, softness?, file? } on the found mask; see OPERATIONS
  undone: [],
  tool: null, // "paint", "erase", "move", or null while the mask is read-only
  brush: 0.06, // diameter, relative to the longer side of the image
  softness: 0, // of the brush: 0 is a sharp edge, 1 fades from its centre on
  cursor: [0, 0], // position of the brush, in pixels
  share: 0, // fraction of the image inside the mask
};

const OPERATIONS = {
  paint: "source-over", erase: "destination-out", clear: "destination-out",
  invert: "source-out", reset: "destination-out", file: "destination-out",
};
const FEATHER = 1 / 256; // of a mask that was not found, as a share of the longer side
export const SHAPE = ["threshold", "grow", "feather", "cleaning"]; // sliders, as the server says
const canvas = document.getElementById("maskCanvas");
const files = new WeakMap(); // mask files that strokes hold -> canvases

/** Whether a mask was found or painted. */
export const hasMask = () => maskState.found !== null || maskState.strokes.length > 0;

/**
 * Start with an image of this size.
 *
 * `source`: the result of `findMask`, or null. `restored`: properties of `maskState` to restore.
 */
export async function start(size, source = null, restored = {}) {
  const cursor = size.map((n) => n / 2);
  await Promise.all((restored.strokes ?? []).map(openFile));
  const found = source && { source, small: await decoded(source.response.heatmap) };
  const shape = { feather: FEATHER };
  Object.assign(maskState, { size, found: null, shape, strokes: [], undone: [], cursor }, restored);
  if (found) {
    await decodeMasks(found, source.refined ?? source.response);
    Object.assign(maskState, { found, shape: shapeOf(source.refined ?? source.response) });
  }
  dispatch("redraw");
}

/** Show another mask that the server made from the same heatmap. */
export async function setRefined(response) {
  const { found } = maskState;
  found.source.refined = response;
  await decodeMasks(found, response);
  dispatch("redraw");
}

/** The id of the found mask as its sliders are now, or null if there is none or it was painted on. */
export const foundId = () => {
  const { found, strokes } = maskState;
  return found && !strokes.length ? (found.source.refined ?? found.source.response).mask_id : null;
};

/** The fraction of the image inside the outline: the server's figure, or that of what is shown. */
export const shareOf = () =>
  foundId() && !followsPicture() ? (maskState.found.source.refined ?? maskState.found.source.response).mask_share
    : maskState.share;

const shapeOf = (response) => Object.fromEntries(SHAPE.map((name) => [name, response[name]]));

async function decodeMasks(found, { mask, blend_mask: blend }) {
  const canvases = await Promise.all([decoded(mask), decoded(blend)]);
  const { cells, canvas: area } = found.source.response;
  found.cells = pathOfCells(canvases[0], maskState.size, { cells, canvas: area });
  found.blend = greyToAlpha(canvases[1]);
}

/** Fire an event on the canvas. */
export function dispatch(type) {
  canvas.dispatchEvent(new Event(type));
}

// -- drawing --------------------------------------------------------------------------------------

/** Whether the found mask's border follows the picture, so that its pixels take parts of the edit. */
export const followsPicture = () => maskState.found !== null && maskState.shape.cleaning === "edges";

/** Whether pixels may take a part of the edit; otherwise all of it or nothing. */
export const isSoft = () => followsPicture() ||
  maskState.strokes.some(({ softness, file }) => softness || file);

/**
 * Draw the mask: opaque = edited. The context's units are the image's pixels.
 *
 * `fileOf`: gives the canvas of a mask file.
 */
export function drawMask(pen, fileOf = (file) => files.get(file)) {
  drawFound(pen);
  maskState.strokes.forEach((stroke) => drawStroke(pen, stroke, 0, fileOf));
}

function drawFound(pen) {
  const { found, size } = maskState;
  if (followsPicture()) pen.drawImage(found.blend, 0, 0, ...size);
  else if (found) pen.fill(found.cells);
}

/** Draw a stroke, or only its segments from point `from` on. */
export function drawStroke(pen, stroke, from = 0, fileOf = (file) => files.get(file)) {
  const { kind, points, width, softness, file } = stroke;
  const { size } = maskState;
  pen.globalCompositeOperation = OPERATIONS[kind];
  if (!points) pen.fillRect(0, 0, ...size);
  else if (softness) drawSoftly(pen, points.slice(Math.max(0, from - 1)), width, softness);
  else drawLine(pen, points.slice(Math.max(0, from - 1)), width);
  pen.globalCompositeOperation = "source-over";
  if (kind === "reset") drawFound(pen);
  if (file) pen.drawImage(fileOf(file), 0, 0, ...size);
}

function drawLine(pen, points, width) {
  Object.assign(pen, { lineCap: "round", lineJoin: "round", lineWidth: width });
  pen.beginPath();
  points.forEach((point) => pen.lineTo(...point));
  pen.stroke();
}

/** A line of a soft brush: discs that fade towards their edge, close to each other. */
function drawSoftly(pen, points, width, softness) {
  const radius = width / 2;
  points.slice(1).forEach((to, index) => {
    const from = points[index];
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    const count = Math.max(1, Math.ceil(length / (width / 6)));
    for (let k = 1; k <= count; k++) {
      const [x, y] = from.map((at, axis) => at + ((to[axis] - at) * k) / count);
      const fade = pen.createRadialGradient(x, y, radius * (1 - softness), x, y, radius);
      fade.addColorStop(0, "rgb(0 0 0 / 60%)");
      fade.addColorStop(1, "rgb(0 0 0 / 0%)");
      pen.fillStyle = fade;
      pen.fillRect(x - radius, y - radius, width, width);
    }
  });
  pen.fillStyle = "#000";
}

// -- changes --------------------------------------------------------------------------------------

/** Add a stroke; points may be added to it with `extendStroke`. */
export function addStroke(stroke) {
  maskState.strokes.push(stroke);
  maskState.undone = [];
  dispatch(stroke.points ? "stroke" : "redraw");
  dispatch("change");
}

/** Add points to the last stroke. */
export function extendStroke(points) {
  maskState.strokes.at(-1).points.push(...points);
  dispatch("stroke");
}

/** Drop the last stroke for good. */
export function dropStroke() {
  maskState.strokes.pop();
  dispatch("redraw");
  dispatch("change");
}

export const undo = () => moveLast(maskState.strokes, maskState.undone);
export const redo = () => moveLast(maskState.undone, maskState.strokes);

function moveLast(from, to) {
  if (!from.length) return;
  to.push(from.pop());
  dispatch("redraw");
  dispatch("change");
}

/** Replace the mask by a file that the server has read: a grey PNG, white = edited. */
export async function useFile(file) {
  const stroke = { kind: "file", file };
  await openFile(stroke);
  addStroke(stroke);
}

/** Decode the file of a stroke, if it has one. */
async function openFile({ file }) {
  if (file && !files.has(file)) files.set(file, greyToAlpha(await decoded(file)));
}

// -- encoding -------------------------------------------------------------------------------------

/**
 * Encode the mask as PNG: white = edit, black = keep.
 *
 * Levels between them are kept where the mask is soft, and else cut at half, since a canvas smooths
 * the edges of every stroke. `longestSide`: reduce it for display.
 */
export async function encodeMask(longestSide = Infinity) {
  const { size, strokes } = maskState;
  const scale = Math.min(1, longestSide / Math.max(...size));
  const target = canvasOf(size.map((n) => Math.max(1, Math.round(n * scale))));
  const whole = new Map();
  for (const { file } of strokes) {
    if (file) whole.set(file, greyToAlpha(await decoded(file, Infinity)));
  }
  const pen = target.getContext("2d", { willReadFrequently: true });
  pen.scale(target.width / size[0], target.height / size[1]);
  drawMask(pen, (file) => whole.get(file));
  const image = pen.getImageData(0, 0, target.width, target.height);
  const pixels = new Uint32Array(image.data.buffer);
  const soft = isSoft();
  for (let k = 0; k < pixels.length; k++) {
    const alpha = pixels[k] >>> 24;
    const level = soft ? alpha : alpha < 128 ? 0 : 255;
    pixels[k] = 0xff000000 | (level * 0x010101);
  }
  pen.putImageData(image, 0, 0);
  return new Promise((resolve) => target.toBlob(resolve, "image/png"));
}
