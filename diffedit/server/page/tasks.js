/**
 * What the user starts: open a picture, find and change its mask, edit, and go through its steps.
 *
 * One task runs at a time (`attempt`); its progress is `state.work`. render.js shows the state.
 */

import * as api from "/api.js";
import * as form from "/form.js";
import * as mask from "/mask.js";
import * as overlay from "/overlay.js";
import { blobOf } from "/pictures.js";
import { render } from "/render.js";
import { percent, seconds } from "/snippets.js";
import {
  MASK_ADVICE, announce, currentPicture, save, savePictures, setText, showPicture, state, ui,
} from "/state.js";
import { loadItem, storeForm, storeItem } from "/storage.js";

const { maskState } = mask;
const PREVIEW_SIDE = 1024; // of the mask that clips previews, in pixels

// -- finding masks and editing --------------------------------------------------------------------

/** Run a task unless one is running, show its error, and move the focus to the next step. */
export async function attempt(retry, task) {
  if (state.busy) return;
  Object.assign(state, { busy: true, problem: null });
  const before = { shown: state.shown, found: maskState.found };
  try {
    await task();
  } catch (error) {
    if (error.name === "AbortError") announce("Cancelled.");
    else if (error instanceof api.Problem) state.problem = { error, retry: state.work && retry };
    else throw error;
  } finally {
    const next = state.shown === null ? ui.submitButton : ui.divider;
    const focusNext = state.work?.focused ? next : null;
    Object.assign(state, { busy: false, work: null });
    render();
    ui.editForm.querySelector("[aria-invalid=true]")?.focus();
    if (!state.problem) focusNext?.focus({ preventScroll: true });
    if (state.shown !== before.shown) scrollTo(0, 0);
    else if (maskState.found && maskState.found !== before.found) showMaskPanel();
  }
}

/** Scroll to the mask panel, which is below the image on narrow screens. */
function showMaskPanel() {
  if (matchMedia("(max-width: 60rem)").matches) scrollTo(0, 0);
  else ui.maskPanel.scrollIntoView({ block: "nearest" });
}

/** Show a running task over the image, with a button to cancel it. */
export function beginWork(text) {
  const focused = ui.editFields.contains(document.activeElement);
  const abort = new AbortController();
  const work = {
    began: Date.now(), text, progress: null, // the stage, and how much is done, or null if unknown
    position: 0, wait: 0, // queue position; seconds until a busy server is asked again
    job: null, preview: null, mask: null, // a preview is shown inside the mask only
    focused, abort, signal: abort.signal, onWait: (wait) => updateWork(work, { wait }),
  };
  state.work = work;
  render();
  ui.frame.scrollIntoView({ block: "nearest" });
  if (focused) ui.cancel.focus();
  announce(text);
  return work;
}

export function updateWork(work, changes) {
  const { text, wait } = work;
  Object.assign(work, changes);
  if (text !== work.text) announce(work.text);
  if (work.wait && !wait) announce("The server is busy.");
  render();
}

/** Open a file as the image to edit. */
export function openPhoto(file) {
  return file && attempt(null, async () => {
    const photo = { id: Date.now(), ...await api.readPhoto(file) };
    const dropped = state.earlier;
    if (state.photo) leavePicture();
    const editor = { strokes: [], painting: false, shown: null, base: null };
    await showPicture({ photo, foundMask: null, editor, edits: [] });
    save("photo", "foundMask", "editor");
    savePictures(dropped);
    announce(`${photo.name}, ${photo.width} by ${photo.height} pixels.`);
  });
}

/** Keep the picture that is shown as the one before the next. */
function leavePicture() {
  save("editor");
  state.earlier = currentPicture();
}

/** Open one of the model's example pictures, with its texts. */
export async function openExample({ image, type, name, source_prompt: before, prompt }) {
  await openPhoto(new File([blobOf(image, type)], name, { type }));
  ui.source.value = before;
  ui.prompt.value = prompt;
  onFormChange();
  ui.submitButton.focus();
}

/** Go back to the picture before this one; this one is then the other. */
export function swapPictures() {
  attempt(null, async () => {
    const { earlier } = state;
    leavePicture();
    await showPicture(earlier);
    savePictures();
    announce(`${state.photo.name}.`);
  });
}

/** Use a file as the mask, read by the server's rules. */
export function openMask(file) {
  return file && attempt(null, async () => {
    const read = await api.readMask(file, state.photo, beginWork("Reading the mask"));
    state.painting = true;
    await mask.useFile(read.mask);
    ui.showHeatmap.checked = false;
    announce(`${file.name} is the mask: ${percent(maskState.share)} of the image.`);
  });
}

/** Ask what a file is that was dropped or pasted while a picture is open. */
export function askAbout(file) {
  if (!file || !state.photo) return openPhoto(file);
  if (state.work || ui.fileDialog.open) return undefined;
  setText({ fileTitle: `What is ${file.name || "the pasted picture"}?` });
  ui.fileDialog.returnValue = "";
  ui.fileDialog.showModal();
  ui.fileDialog.onclose = () => {
    const { returnValue: answer } = ui.fileDialog;
    if (answer === "picture") openPhoto(file);
    if (answer === "mask") openMask(file);
  };
  return undefined;
}

export function findMask() {
  attempt(findMask, async () => {
    const fields = form.validFormFields(false);
    const found = await api.findMask(fields, startOf(state.base), beginWork("Finding the mask"));
    await mask.start(maskState.size, found);
    ui.showHeatmap.checked = true;
    save("foundMask", "editor");
    announce(`Mask found: ${percent(found.response.mask_share)} of the image.`);
  });
}

/** What an edit begins with: the result of an edit, or the image itself. */
export function startOf(base) {
  if (base === null) return { image: state.photo.blob };
  const { image, details } = state.edits[base];
  return { image, editId: details.edit_id };
}

let refining = false;

/** Let the server make the mask anew after a slider has moved. Only the newest position counts. */
export async function refineMask() {
  if (refining) return;
  refining = true;
  const { found } = maskState;
  try {
    for (let sent = null; sent !== JSON.stringify(maskState.shape) && found === maskState.found;) {
      sent = JSON.stringify(maskState.shape);
      const response = await api.refineMask(found.source.response.mask_id, maskState.shape);
      if (found === maskState.found) await mask.setRefined(response);
    }
    if (state.problem?.error.param === "mask_id") state.problem = null;
    save("foundMask", "editor");
  } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    state.problem = { error };
  } finally {
    refining = false;
    render();
  }
}

/** Edit inside the current mask, or let the server find one. */
export function edit(withMask) {
  attempt(() => edit(withMask), async () => {
    const fields = form.validFormFields(withMask);
    const n = Number(ui.variations.value);
    if (n > 1) fields.n = n;
    const recipe = { fields, hasMask: withMask, base: state.base };
    if (withMask) {
      if (!maskState.share) {
        throw new api.Problem(`The mask is empty; ${MASK_ADVICE}.`, { param: "mask_id" });
      }
      recipe.shape = maskState.found && { ...maskState.shape };
      recipe.isPainted = mask.foundId() === null;
      fields.mask_feather = maskState.shape.feather;
    }
    const work = beginWork("Sending");
    const sent = withMask ? { id: mask.foundId(), encode: mask.encodeMask } : null;
    const job = await api.submitEdit(fields, startOf(state.base), sent, work);
    storeItem("job", { id: job, recipe });
    await finishEdit(work, job, recipe);
  });
}

/** Follow the job that was running when the page was closed or reloaded. */
export function resumeJob() {
  if (!loadItem("job")) return;
  const { id, recipe } = loadItem("job");
  attempt(() => edit(recipe.hasMask), () => finishEdit(beginWork("Resuming the edit"), id, recipe));
}

/** Wait for a job and show its result. */
export async function finishEdit(work, job, recipe) {
  work.job = job;
  if (recipe.hasMask) work.mask = await mask.encodeMask(PREVIEW_SIDE);
  const split = dividerBesideMask();
  try {
    const onUpdate = (changes) => updateWork(work, changes);
    const results = await api.waitForResult(job, work.signal, onUpdate);
    const kept = { found: maskState.found?.source, strokes: [...maskState.strokes] };
    const { base } = recipe;
    const shown = state.edits.length;
    state.edits.push(...results.map((result) => ({ recipe, base, kept, ...result })));
    Object.assign(state, { shown, split });
    announce(`Edited in ${seconds(results[0].details.timings.total)}.`);
  } finally {
    storeItem("job", undefined);
    save("edits", "editor");
  }
}

/** A position of the divider, in percent, that shows all of the edit and some of the original. */
export function dividerBesideMask() {
  const [left, right] = overlay.extent() ?? [0, 1];
  const share = left >= 1 - right ? left / 2 : left;
  return Math.round(100 * Math.min(0.9, Math.max(0.04, share - 0.02)));
}

/** Cancel the running task: a job on the server, anything else in the browser. */
export function cancelWork() {
  const { job, abort } = state.work;
  if (job) api.cancelJob(job).catch(() => abort.abort());
  else abort.abort();
}

// -- the steps of a picture -----------------------------------------------------------------------

export function showEdit(index) {
  Object.assign(state, { shown: index, problem: null });
  save("editor");
  render();
}

/** Edit the result of a step, or the image itself, with an empty mask. */
export async function startFrom(base) {
  Object.assign(state, { base, shown: null, painting: false, problem: null });
  await mask.start(maskState.size);
  save("foundMask", "editor");
  render();
}

/** Go back to the start and the mask of the edit that is shown. */
export async function restoreStart() {
  const { base, kept, recipe } = state.edits[state.shown];
  Object.assign(state, { base, shown: null, painting: kept.strokes.length > 0, problem: null });
  const { mask_feather: feather } = recipe.fields;
  const shape = feather !== undefined && { shape: { feather } };
  await mask.start(maskState.size, kept.found, { strokes: [...kept.strokes], ...shape });
  ui.source.value = recipe.fields.source_prompt ?? "";
  ui.prompt.value = recipe.fields.prompt;
  save("foundMask", "editor");
  onFormChange();
}

export async function tryAnotherPrompt() {
  await restoreStart();
  ui.prompt.focus();
  ui.prompt.select();
}

export async function tryAnotherSeed() {
  const { hasMask: withMask } = state.edits[state.shown].recipe;
  await restoreStart();
  ui.randomSeed.click();
  edit(withMask);
}

export async function continueFromResult() {
  const { recipe } = state.edits[state.shown];
  await startFrom(state.shown);
  ui.source.value = recipe.fields.prompt;
  ui.prompt.value = "";
  onFormChange();
  ui.prompt.focus();
}

export function onFormChange() {
  storeForm(ui.editForm);
  render();
}
