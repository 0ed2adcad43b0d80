/**
 * The state of the page, its elements, and small helpers to fill them.
 *
 * `state` and the `maskState` of mask.js are the whole state. User input is inserted as text, never
 * as HTML.
 */

import * as mask from "/mask.js";
import "/options.js"; // its fields are among the elements
import { storeValues } from "/storage.js";
import * as zoom from "/view.js";

const { maskState } = mask;
export const MASK_ADVICE = "select more, or paint over what should change";

export const state = {
  photo: null, // { blob, name, width, height }
  painting: false, // show the mask tools although no mask was found
  busy: false, // a task is running; others are ignored
  work: null, // the running task as shown over the image, see beginWork
  edits: [], // { recipe, base, image, mask, details }: every finished edit that began with this image
  base: null, // index of the edit whose result is edited next, or null for the image itself
  shown: null, // index of the edit that is shown, or null
  split: 50, // position of the divider, in percent
  problem: null, // { error, retry }: the last error, and a function to try again
  earlier: null, // the picture before this one with all of its state, see currentPicture
  model: {}, // as described by the server
};

export const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));

// -- DOM helpers ----------------------------------------------------------------------------------

/** Create an element with properties and children. Strings become text nodes. */
export function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

/** Set texts by element id. Unchanged texts are not set, so screen readers do not repeat them. */
export function setText(texts) {
  for (const [id, text] of Object.entries(texts)) {
    if (ui[id].textContent !== text) ui[id].textContent = text;
  }
}

/** Announce a text to screen readers. */
export const announce = (text) => { ui.announcement.textContent = text; };

/** Hide or show elements by id. */
export function setHidden(hidden) {
  for (const [id, value] of Object.entries(hidden)) ui[id].hidden = Boolean(value);
}

export function setList(id, sentences) {
  ui[id].replaceChildren(...sentences.map((sentence) => element("li", {}, sentence)));
}

/** Set the source of an image, unless it is set already. */
export function setImage(image, url) {
  if (image.src !== url) image.src = url;
}

const urls = new WeakMap();
export function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

export const stem = () => state.photo.name.replace(/\.[^.]*$/, "");

/** The picture and all of its state. */
export function currentPicture() {
  const { strokes, found } = maskState;
  const { photo, painting, shown, base, edits } = state;
  return { photo, foundMask: found?.source, editor: { strokes, painting, shown, base }, edits };
}

/** Store parts of the state: "photo", "foundMask", "editor", "edits" and "earlier". */
export function save(...names) {
  const values = { ...currentPicture(), earlier: state.earlier };
  storeValues(Object.fromEntries(names.map((name) => [name, values[name]])));
}

/** Show a picture in the state that `currentPicture` returned. */
export async function showPicture({ photo, foundMask, editor: { strokes, painting, shown, base }, edits }) {
  Object.assign(state, { photo, painting, shown, base: base ?? null, edits });
  zoom.fit(photo.width);
  await mask.start([photo.width, photo.height], foundMask, { strokes });
}
