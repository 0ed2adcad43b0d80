/**
 * The display of the mask over the picture: its tint, its outline, and the heatmap.
 *
 * The mask canvas covers the frame. It shows the mask in the current view at the resolution of the
 * screen, so that its outline is as sharp under zoom as without. While a stroke is drawn, only the
 * area around its newest points is drawn anew, and while the picture moves, the canvas moves with it
 * as it is, so that a frame of a large picture takes no longer than one of a small picture.
 */

import {
  dispatch, drawMask, drawStroke, followsPicture, foundId, isSoft, maskState,
} from "/mask.js";
import { canvasOf, coverage, placement } from "/pictures.js";
import { view } from "/view.js";

const REDUCED_SIDE = 1024; // of the copy of the whole mask
const MEASURE_MS = 250; // between two measurements of the mask's size during a stroke
const SETTLE_MS = 120; // after the last move of the picture, the mask is drawn in full
const TINT = 0.38;
const PALETTE = [
  [24, 15, 75], [101, 21, 110], [184, 40, 92], [236, 88, 51], [252, 170, 52], [252, 250, 178],
];

const [frame, canvas, heatmap] = ["frame", "maskCanvas", "heatmap"].map((id) =>
  document.getElementById(id));
const context = canvas.getContext("2d");
const [whole, levels, cut, scratch] = [1, 2, 3, 4].map(() => canvasOf([1, 1]));
const [wholePen, pen, cutPen, scratchPen] = [whole, levels, cut, scratch].map((each) =>
  each.getContext("2d", { willReadFrequently: true }));

let frameRequest = 0;
let dirty = null; // the box of `levels` to be displayed anew, [left, top, right, bottom], or null
let drawn = { stroke: null, count: 0 }; // how many points of the last stroke are drawn
let measureTimer = 0;
let settleTimer = 0;
let settled = { ...view }; // the view that the canvas is drawn for
let shownHeat = null;

// -- the mask in the view -------------------------------------------------------------------------

function toView(target) {
  const [width, height] = maskState.size;
  const { zoom, x, y } = view;
  target.setTransform((canvas.width * zoom) / width, 0, 0, (canvas.height * zoom) / height,
    canvas.width * x, canvas.height * y);
}

/** Draw the mask from scratch: the reduced copy, and the part in the view. */
function redraw() {
  const { size, found, strokes } = maskState;
  const scale = Math.min(1, REDUCED_SIDE / Math.max(...size));
  [whole.width, whole.height] = size.map((n) => Math.max(1, Math.round(n * scale)));
  wholePen.setTransform(whole.width / size[0], 0, 0, whole.height / size[1], 0, 0);
  drawMask(wholePen);
  drawn = { stroke: strokes.at(-1), count: strokes.at(-1)?.points?.length ?? 0 };
  if (found && found.small !== shownHeat) drawHeatmap();
  shownHeat = found?.small ?? null;
  redrawView();
  measureSoon(0);
}

function redrawView() {
  clearTimeout(settleTimer);
  settleTimer = 0;
  settled = { ...view };
  canvas.style.transform = "";
  const { clientWidth, clientHeight } = frame;
  const size = [clientWidth, clientHeight].map((n) => Math.round(n * devicePixelRatio) || 1);
  for (const each of [canvas, levels, cut, scratch]) [each.width, each.height] = size;
  toView(pen);
  drawMask(pen);
  pen.resetTransform();
  draw();
}

/** Move the canvas with the picture, and draw the mask for the new view soon. */
function moveView() {
  clearTimeout(settleTimer);
  settleTimer = setTimeout(redrawView, SETTLE_MS);
  const scale = view.zoom / settled.zoom;
  const [right, down] = [view.x - settled.x * scale, view.y - settled.y * scale];
  canvas.style.transform = `translate(${100 * right}%, ${100 * down}%) scale(${scale})`;
}

/** Draw the new points of the last stroke. */
function extend() {
  const stroke = maskState.strokes.at(-1);
  if (drawn.stroke !== stroke) drawn = { stroke, count: 0 };
  drawStroke(wholePen, stroke, drawn.count);
  if (settleTimer) {
    redrawView();
  } else {
    toView(pen);
    drawStroke(pen, stroke, drawn.count);
    pen.resetTransform();
    draw(boxOf(stroke, drawn.count));
  }
  drawn.count = stroke.points.length;
  measureSoon(MEASURE_MS);
}

/** The part of the view that the points of a stroke from `from` on cover. */
function boxOf({ points, width }, from) {
  const [columns, rows] = maskState.size;
  const { zoom, x, y } = view;
  const scale = [(canvas.width * zoom) / columns, (canvas.height * zoom) / rows];
  const at = points.slice(Math.max(0, from - 1)).map((point) =>
    [point[0] * scale[0] + canvas.width * x, point[1] * scale[1] + canvas.height * y]);
  const margin = (width / 2) * scale[0] + 4 * devicePixelRatio;
  const sides = [0, 1].map((axis) => at.map((point) => point[axis]));
  return [
    ...sides.map((side) => Math.floor(Math.min(...side) - margin)),
    ...sides.map((side) => Math.ceil(Math.max(...side) + margin)),
  ];
}

// -- display --------------------------------------------------------------------------------------

/** Display the mask in the next frame, or only the part of the view in a box. */
export function draw(box = [0, 0, canvas.width, canvas.height]) {
  dirty = dirty === null ? box : [
    Math.min(dirty[0], box[0]), Math.min(dirty[1], box[1]),
    Math.max(dirty[2], box[2]), Math.max(dirty[3], box[3]),
  ];
  frameRequest ||= requestAnimationFrame(() => {
    frameRequest = 0;
    const [left, top] = [Math.max(0, dirty[0]), Math.max(0, dirty[1])];
    const width = Math.min(canvas.width, dirty[2]) - left;
    const height = Math.min(canvas.height, dirty[3]) - top;
    dirty = null;
    if (width > 0 && height > 0) display([left, top, width, height]);
  });
}

function display(box) {
  const ratio = devicePixelRatio;
  const soft = isSoft();
  if (soft) cutAtHalf(box);
  const area = soft ? cut : levels;
  const fill = foundId() && !followsPicture() ? maskState.found.blend : null; // its soft edge
  for (const each of [context, scratchPen]) {
    each.save();
    each.beginPath();
    each.rect(...box);
    each.clip();
  }
  context.clearRect(...box);
  if (heatmap.hidden) {
    context.globalAlpha = TINT;
    context.drawImage(coloured("#e8407f", levels, 0, fill), 0, 0);
    context.globalAlpha = 1;
  }
  context.drawImage(coloured("rgb(20 10 30 / 70%)", area, 2.5 * ratio), 0, 0);
  context.drawImage(coloured("#fff", area, 1.25 * ratio), 0, 0);
  context.restore();
  scratchPen.restore();
}

/** A mask in one colour; with a width, only its outline of this width. `whole` replaces its area. */
function coloured(colour, area, width, picture = null) {
  scratchPen.globalCompositeOperation = "copy";
  if (picture) {
    toView(scratchPen);
    scratchPen.drawImage(picture, 0, 0, ...maskState.size);
    scratchPen.resetTransform();
  } else {
    scratchPen.drawImage(area, 0, 0);
  }
  if (width) {
    scratchPen.globalCompositeOperation = "source-over";
    for (const [x, y] of [[-1, -1], [1, -1], [-1, 1], [1, 1]]) {
      scratchPen.drawImage(area, x * width, y * width);
    }
    scratchPen.globalCompositeOperation = "destination-out";
    scratchPen.drawImage(area, 0, 0);
  }
  scratchPen.globalCompositeOperation = "source-in";
  scratchPen.fillStyle = colour;
  scratchPen.fillRect(0, 0, scratch.width, scratch.height);
  return scratch;
}

/** The pixels that take half of the edit or more, with a smooth edge: a soft mask's outline. */
function cutAtHalf(box) {
  const image = pen.getImageData(...box);
  const pixels = new Uint32Array(image.data.buffer);
  for (let k = 0; k < pixels.length; k++) {
    const alpha = Math.min(255, Math.max(0, 128 + 8 * ((pixels[k] >>> 24) - 128)));
    pixels[k] = alpha << 24;
  }
  cutPen.putImageData(image, box[0], box[1]);
}

// -- figures --------------------------------------------------------------------------------------

/** The horizontal extent of the mask, as shares of the width; null if it is empty. */
export const extent = () => coverage(whole).extent;

function measureSoon(milliseconds) {
  if (!milliseconds) clearTimeout(measureTimer);
  else if (measureTimer) return;
  measureTimer = setTimeout(measure, milliseconds);
}

function measure() {
  clearTimeout(measureTimer);
  measureTimer = 0;
  const { share } = coverage(whole);
  if (share === maskState.share) return;
  maskState.share = share;
  dispatch("input");
}

// -- heatmap --------------------------------------------------------------------------------------

/** Draw the heatmap in colour, smoothed and cropped to the image; higher levels are more opaque. */
function drawHeatmap() {
  const { size, found: { source, small } } = maskState;
  const { fitted, from, factor } = placement(size, source.response);
  const scale = 640 / Math.max(...size);
  const shown = size.map((n) => Math.max(1, Math.round(n * scale)));
  [heatmap.width, heatmap.height] = shown;
  const target = heatmap.getContext("2d", { willReadFrequently: true });
  target.imageSmoothingQuality = "high";
  target.drawImage(small, ...[...from, ...fitted].map((n) => n / factor), 0, 0, ...shown);
  const image = target.getImageData(0, 0, ...shown);
  for (let k = 0; k < image.data.length; k += 4) {
    const level = image.data[k];
    image.data.set([...paletteColour(level / 255), 70 + (150 * level) / 255], k);
  }
  target.putImageData(image, 0, 0);
}

/** The palette of diffedit/imaging/compose.py: lightness increases linearly. */
function paletteColour(value) {
  const at = value * (PALETTE.length - 1);
  const from = Math.min(PALETTE.length - 2, Math.floor(at));
  return PALETTE[from].map((low, k) => low + (PALETTE[from + 1][k] - low) * (at - from));
}

/** Register the event handlers. */
export function registerHandlers() {
  canvas.addEventListener("redraw", redraw);
  canvas.addEventListener("stroke", extend);
  canvas.addEventListener("change", measure);
  frame.addEventListener("view", moveView);
  new ResizeObserver(redrawView).observe(frame);
}
