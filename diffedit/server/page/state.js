/**
 * The state of the page, its elements, and small helpers to fill them.
 *
 * `state` and the `maskState` of mask.js are the whole state. User input is inserted as text, never
 * as HTML.
 */

import * as mask from "/mask.js";
import "/options.js"; // its fields are among the elements
import { deleteValues, loadValues, storeValues } from "/storage.js";
import * as zoom from "/view.js";

const { maskState } = mask;
export const MASK_ADVICE = "select more, or paint over what should change";

export const state = {
  photo: null, // { id, blob, name, width, height }
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

const storedEdits = new WeakSet();
const PICTURES = "pictures"; // the ids of the picture that is shown and of the one before it
const storedName = (photo, name) => `${photo.id} ${name}`;

/** Store parts of the picture that is shown: "photo", "foundMask", "editor", "edits". */
export async function save(...names) {
  const { edits, ...values } = currentPicture();
  const { photo } = state;
  const stored = names.filter((name) => name !== "edits").map((name) => [name, values[name]]);
  const fresh = names.includes("edits") ? edits.filter((edit) => !storedEdits.has(edit)) : [];
  for (const edit of fresh) stored.push([`edit ${edits.indexOf(edit)}`, edit]); // each only once
  const named = stored.map(([name, value]) => [storedName(photo, name), value]);
  if (await storeValues(Object.fromEntries(named))) fresh.forEach((edit) => storedEdits.add(edit));
}

/** Store which pictures there are; with `dropped`, delete that one's parts. */
export function savePictures(dropped = null) {
  const { photo, earlier } = state;
  storeValues({ [PICTURES]: [photo, earlier?.photo].filter(Boolean).map(({ id }) => id) });
  if (dropped) deleteValues(storedName(dropped.photo, ""));
}

/** The stored pictures as `currentPicture` returned them: the one to show and the one before it. */
export async function loadPictures() {
  const values = await loadValues();
  const pictures = (values[PICTURES] ?? []).map((id) => {
    const part = (name) => values[storedName({ id }, name)];
    const edits = [];
    for (let edit; (edit = part(`edit ${edits.length}`)); edits.push(edit)) storedEdits.add(edit);
    return { photo: part("photo"), foundMask: part("foundMask"), editor: part("editor"), edits };
  });
  return pictures.filter(({ photo, editor }) => photo && editor);
}

/** Show a picture in the state that `currentPicture` returned. */
export async function showPicture({ photo, foundMask, editor: { strokes, painting, shown, base }, edits }) {
  const known = (index) => (index < edits.length ? index : null); // one may not have been stored
  Object.assign(state, { photo, painting, shown: known(shown), base: known(base), edits });
  zoom.fit(photo.width);
  await mask.start([photo.width, photo.height], foundMask, { strokes });
}
