/**
 * The brush and the mask's tools: painting with a pointer or the keyboard, undo, and the sliders.
 */

import {
  SHAPE, addStroke, dispatch, dropStroke, extendStroke, maskState, redo, undo,
} from "/mask.js";
import { frameAt, isMoving, pictureAt, reveal, view } from "/view.js";

const SMALLEST = 0.001; // of a brush, relative to the longer side of the image
const LARGEST = 0.4;

const ui = Object.fromEntries([
  "frame", "maskCanvas", "brush", ...SHAPE, "brushSize", "softness", "undo", "redo", "clear",
  "invert", "reset",
].map((id) => [id, document.getElementById(id)]));
let painting = null; // the id of the pointer that draws a stroke, or null

const paints = () => maskState.tool === "paint" || maskState.tool === "erase";
const brushPixels = () => Math.max(1, maskState.brush * Math.max(...maskState.size));

const pixelAt = (event) => pictureAt(event).map((at, axis) => at * maskState.size[axis]);

/** Start a stroke with one dot. Its length must not be zero, or the canvas draws nothing. */
function addDot([x, y]) {
  const { tool: kind, softness } = maskState;
  addStroke({ kind, points: [[x, y], [x + 0.01, y]], width: brushPixels(), softness });
}

// -- pointer --------------------------------------------------------------------------------------

function startStroke(event) {
  if (event.button !== 0 || !paints() || isMoving()) return;
  painting = event.pointerId;
  ui.maskCanvas.setPointerCapture(painting);
  addDot(pixelAt(event));
}

function continueStroke(event) {
  maskState.cursor = pixelAt(event);
  showBrush();
  if (painting !== event.pointerId) return;
  const events = event.getCoalescedEvents?.() ?? []; // not in every browser
  extendStroke((events.length ? events : [event]).map(pixelAt));
}

function endStroke() {
  if (painting === null) return;
  painting = null;
  dispatch("change");
}

/** Drop the stroke that a finger has begun, since a second one moves the picture. */
function abandonStroke() {
  if (painting === null) return;
  painting = null;
  dropStroke();
}

// -- keyboard -------------------------------------------------------------------------------------

/** Paint with the keyboard: arrow keys move the brush, Space paints. */
function paintByKey(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = event.key === " " ? [0, 0] : moves[event.key];
  if (!move) return;
  event.preventDefault();
  if (event.key === " " && paints()) addDot(maskState.cursor);
  const step = brushPixels() / (event.shiftKey ? 8 : 2);
  maskState.cursor = maskState.cursor.map((at, axis) =>
    Math.min(maskState.size[axis], Math.max(0, at + step * move[axis])));
  reveal(maskState.cursor.map((at, axis) => at / maskState.size[axis]));
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

// -- tools ----------------------------------------------------------------------------------------

function resizeBrush(size) {
  maskState.brush = Math.min(LARGEST, Math.max(SMALLEST, size));
  dispatch("input");
}

function showBrush() {
  const [left, top] = frameAt(maskState.cursor.map((at, axis) => at / maskState.size[axis]));
  const width = (view.zoom * brushPixels()) / maskState.size[0];
  Object.assign(ui.brush.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`,
  });
}

/** Update the brush and the tools from `maskState`. */
export function render() {
  showBrush();
  for (const name of SHAPE) if (name in maskState.shape) ui[name].value = maskState.shape[name];
  ui.softness.value = maskState.softness;
  ui.brushSize.value = 1000 * maskState.brush;
  ui.undo.disabled = !maskState.strokes.length;
  ui.redo.disabled = !maskState.undone.length;
  ui.reset.hidden = !maskState.found;
  ui.frame.classList.toggle("painting", paints());
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
  ui.brushSize.oninput = () => resizeBrush(ui.brushSize.value / 1000);
  ui.undo.onclick = undo;
  ui.redo.onclick = redo;
  for (const kind of ["clear", "invert", "reset"]) ui[kind].onclick = () => addStroke({ kind });
  ui.maskCanvas.onpointerdown = startStroke;
  ui.maskCanvas.onpointermove = continueStroke;
  ui.maskCanvas.onlostpointercapture = endStroke;
  ui.maskCanvas.onkeydown = paintByKey;
  ui.frame.addEventListener("gesture", abandonStroke);
  ui.frame.addEventListener("view", showBrush);
  addEventListener("keydown", shortcut);
}
