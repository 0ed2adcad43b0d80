/**
 * Zoom and pan: which part of the picture the frame shows.
 *
 * `view` is the whole state. The frame keeps its size and shows the picture `zoom` times as large,
 * shifted by `x` and `y`, in shares of the frame's sides. This module knows nothing of masks and
 * edits: it fires "view" on the frame when the view changes, and "gesture" when two fingers or the
 * middle button begin to move the picture, so that a stroke which has begun can be dropped.
 */

export const view = { zoom: 1, x: 0, y: 0 };

const STEP = 1.25; // of a zoom button or key
const PAN_STEP = 0.125; // of an arrow key, in shares of the frame
const WHEEL_RATE = 0.0015; // of the zoom, per pixel of the wheel
const LARGEST_PIXEL = 4; // CSS pixels per pixel of the picture, at the largest zoom

const [frame, zoomBar, zoomIn, zoomOut, zoomFit, zoomValue] = [
  "frame", "zoomBar", "zoomIn", "zoomOut", "zoomFit", "zoomValue",
].map((id) => document.getElementById(id));
const fingers = new Map(); // pointers that are down: id -> [x, y], in shares of the frame
let pictureWidth = 1;
let panning = null; // the id of the pointer that moves the picture, or null
let panTool = () => false; // whether a plain drag moves the picture

/** Show all of a picture of this width. */
export function fit(width = pictureWidth) {
  pictureWidth = width;
  set(1, 0, 0);
}

export const isZoomed = () => view.zoom > 1;

/** Whether the pointer is moving the picture, so that it must not paint. */
export const isMoving = () => panning !== null || fingers.size > 1;

/** A position in the frame, in shares of its sides. */
function inFrame({ clientX, clientY }) {
  const { left, top, width, height } = frame.getBoundingClientRect();
  return [(clientX - left) / width, (clientY - top) / height];
}

/** Where a pointer is on the picture, in shares of its sides. */
export function pictureAt(event) {
  const [left, top] = inFrame(event);
  return [(left - view.x) / view.zoom, (top - view.y) / view.zoom];
}

/** Where a position on the picture is in the frame, in shares of its sides. */
export const frameAt = ([left, top]) =>
  [left * view.zoom + view.x, top * view.zoom + view.y];

/** Move the picture so that a position on it, in shares of its sides, is inside the frame. */
export function reveal(position) {
  const [left, top] = frameAt(position);
  const missing = (at) => Math.max(0, 0.05 - at) + Math.min(0, 0.95 - at);
  if (isZoomed()) pan(missing(left), missing(top));
}

const largestZoom = () => Math.max(4, (LARGEST_PIXEL * pictureWidth) / (frame.clientWidth || 1));

function set(zoom, x, y) {
  const inside = (offset) => Math.min(0, Math.max(1 - zoom, offset));
  Object.assign(view, { zoom, x: inside(x), y: inside(y) });
  for (const [name, value] of Object.entries(view)) frame.style.setProperty(`--${name}`, value);
  frame.classList.toggle("zoomed", isZoomed());
  zoomValue.textContent = `${Math.round(100 * zoom)} %`;
  zoomFit.disabled = zoomOut.disabled = !isZoomed();
  zoomIn.disabled = zoom >= largestZoom();
  frame.dispatchEvent(new Event("view"));
}

function pan(right, down) {
  set(view.zoom, view.x + right, view.y + down);
}

/** Zoom by a factor, and keep what is at `at` (in shares of the frame) in its place. */
function zoomBy(factor, [left, top] = [0.5, 0.5]) {
  const zoom = Math.min(largestZoom(), Math.max(1, view.zoom * factor));
  const ratio = zoom / view.zoom;
  set(zoom, left - (left - view.x) * ratio, top - (top - view.y) * ratio);
}

// -- pointers -------------------------------------------------------------------------------------

function onWheel(event) {
  if (event.deltaY > 0 && !isZoomed() && !event.ctrlKey) return; // the page scrolls
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode ? 30 : 1);
  const rate = event.ctrlKey ? 6 * WHEEL_RATE : WHEEL_RATE; // a pinch on a touchpad
  zoomBy(Math.exp(-pixels * rate), inFrame(event));
}

function onDown(event) {
  if (event.target.closest("button, .work")) return;
  fingers.set(event.pointerId, inFrame(event));
  const drags = event.button === 1 || (event.button === 0 && isZoomed() && panTool(event));
  if (fingers.size === 1 && drags) {
    panning = event.pointerId;
    frame.setPointerCapture(panning);
    event.preventDefault();
  }
  frame.classList.toggle("moving", isMoving());
  if (isMoving()) frame.dispatchEvent(new Event("gesture"));
}

function onMove(event) {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = inFrame(event);
  const [left, top] = now;
  if (fingers.size === 2) {
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const distance = (at) => sizeOf(at[0] - other[0], at[1] - other[1]);
    zoomBy(distance(now) / Math.max(0.01, distance(before)), middle(before, other));
    pan((left - before[0]) / 2, (top - before[1]) / 2);
  } else if (panning === event.pointerId) {
    pan(left - before[0], top - before[1]);
  }
  fingers.set(event.pointerId, now);
}

/** The length of a vector that is given in shares of the frame's sides. */
const sizeOf = (x, y) => Math.hypot(x * frame.clientWidth, y * frame.clientHeight) /
  frame.clientWidth;
const middle = (a, b) => a.map((at, axis) => (at + b[axis]) / 2);

function onUp(event) {
  fingers.delete(event.pointerId);
  if (panning === event.pointerId) panning = null;
  frame.classList.toggle("moving", isMoving());
}

// -- keyboard -------------------------------------------------------------------------------------

const KEYS = {
  "+": () => zoomBy(STEP), "=": () => zoomBy(STEP), "-": () => zoomBy(1 / STEP), 0: () => fit(),
};
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function onKey(event) {
  const { key, target, ctrlKey, metaKey, altKey } = event;
  const typing = target.matches("textarea, select, input:not([type=range], [type=radio])");
  if (ctrlKey || metaKey || altKey || typing || !frame.checkVisibility()) return;
  KEYS[key]?.();
  if (!(key in ARROWS) || !zoomBar.contains(target)) return;
  event.preventDefault();
  pan(...ARROWS[key].map((n) => n * PAN_STEP));
}

/** Register the event handlers. `isPanTool(event)`: whether a plain drag moves the picture. */
export function registerHandlers(isPanTool) {
  panTool = isPanTool;
  frame.addEventListener("wheel", onWheel, { passive: false });
  frame.addEventListener("pointerdown", onDown, true); // before the brush
  frame.addEventListener("pointermove", onMove, true);
  for (const type of ["pointerup", "pointercancel"]) addEventListener(type, onUp, true);
  addEventListener("keydown", onKey);
  zoomIn.onclick = () => zoomBy(STEP);
  zoomOut.onclick = () => zoomBy(1 / STEP);
  zoomFit.onclick = () => fit();
}
