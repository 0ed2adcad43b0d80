/**
 * The page: one image, two prompts, a mask, and the results of the edits.
 *
 * `state` and the `maskState` of mask.js are the whole state. Code that changes them calls `render`,
 * which updates every region of the page. User input is inserted as text, never as HTML. Requests,
 * the mask editor, storage and snippets are in api.js, mask.js, storage.js and snippets.js.
 */

import * as api from "/api.js";
import * as mask from "/mask.js";
import { LANGUAGES, copyText, percent, seconds, speedupOf, statsOf } from "/snippets.js";
import { loadForm, loadItem, loadValues, storeForm, storeItem, storeValues } from "/storage.js";

const { maskState, hasMask } = mask;
const LOADING_POLL_MS = 1000;
const MASK_ADVICE = "lower the threshold, or paint over what should change";

const state = {
  photo: null, // { blob, name, width, height }
  painting: false, // show the mask tools although no mask was found
  busy: false, // a task is running; others are ignored
  work: null, // the running task as shown over the image, see beginWork
  edits: [], // { recipe, base, image, mask, details }: every finished edit that began with this image
  base: null, // index of the edit whose result is edited next, or null for the image itself
  shown: null, // index of the edit that is shown, or null
  split: 50, // position of the divider, in percent
  problem: null, // { error, retry }: the last error, and a function to try again
  model: {}, // as described by the server
};

const PRESET_HINTS = {
  draft: "A quick look, to try words: an eighth of the work of Paper.",
  balanced: "A good start: clean edges for a quarter of the work of Paper.",
  paper: "The published method in full: the slowest, with a mask of square cells.",
  instant: "A single step in seconds, for distilled models (Turbo, Lightning, LCM).",
};

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));

// -- DOM helpers ----------------------------------------------------------------------------------

/** Create an element with properties and children. Strings become text nodes. */
function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

/** Set texts by element id. Unchanged texts are not set, so screen readers do not repeat them. */
function setText(texts) {
  for (const [id, text] of Object.entries(texts)) {
    if (ui[id].textContent !== text) ui[id].textContent = text;
  }
}

/** Announce a text to screen readers. */
const announce = (text) => { ui.announcement.textContent = text; };

/** Hide or show elements by id. */
function setHidden(hidden) {
  for (const [id, value] of Object.entries(hidden)) ui[id].hidden = Boolean(value);
}

function setList(id, sentences) {
  ui[id].replaceChildren(...sentences.map((sentence) => element("li", {}, sentence)));
}

/** Set the source of an image, unless it is set already. */
function setImage(image, url) {
  if (image.src !== url) image.src = url;
}

const urls = new WeakMap();
function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

const stem = () => state.photo.name.replace(/\.[^.]*$/, "");

/** Store parts of the state: "photo", "foundMask", "editor" and "edits". */
function save(...names) {
  const { strokes, found } = maskState;
  const { photo, painting, shown, base, edits } = state;
  const editor = { strokes, painting, shown, base };
  const values = { photo, foundMask: found?.source, editor, edits };
  storeValues(Object.fromEntries(names.map((name) => [name, values[name]])));
}

// -- finding masks and editing --------------------------------------------------------------------

/** Run a task unless one is running, show its error, and move the focus to the next step. */
async function attempt(retry, task) {
  if (state.busy) return;
  Object.assign(state, { busy: true, problem: null });
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
    (ui.editForm.querySelector("[aria-invalid=true]") ?? focusNext)?.focus();
  }
}

/** Show a running task over the image, with a button to cancel it. */
function beginWork(text) {
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

function updateWork(work, changes) {
  const { text, wait } = work;
  Object.assign(work, changes);
  if (text !== work.text) announce(work.text);
  if (work.wait && !wait) announce("The server is busy.");
  render();
}

/** Open a file as the image to edit. */
function openPhoto(file) {
  return file && attempt(null, async () => {
    const photo = await api.readPhoto(file);
    Object.assign(state, { photo, painting: false, edits: [], base: null, shown: null });
    await mask.start([photo.width, photo.height]);
    save("photo", "foundMask", "editor", "edits");
    announce(`${photo.name}, ${photo.width} by ${photo.height} pixels.`);
  });
}

function findMask() {
  attempt(findMask, async () => {
    const fields = api.validFormFields(false);
    const found = await api.findMask(fields, startOf(state.base), beginWork("Finding the mask"));
    await mask.start(maskState.size, found);
    ui.showHeatmap.checked = true;
    save("foundMask", "editor");
    announce(`Mask found: ${percent(found.response.mask_share)} of the image.`);
  });
}

/** What an edit begins with: the result of an edit, or the image itself. */
function startOf(base) {
  if (base === null) return { image: state.photo.blob };
  const { image, details } = state.edits[base];
  return { image, editId: details.edit_id };
}

let refining = false;

/** Let the server make the mask anew after a slider has moved. Only the newest position counts. */
async function refineMask() {
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
function edit(withMask) {
  attempt(() => edit(withMask), async () => {
    const fields = api.validFormFields(withMask);
    const n = Number(ui.variations.value);
    if (n > 1) fields.n = n;
    const recipe = { fields, hasMask: withMask, base: state.base };
    if (withMask) {
      if (!maskState.share) {
        throw new api.Problem(`The mask is empty; ${MASK_ADVICE}.`, { param: "mask_id" });
      }
      recipe.shape = maskState.found && { ...maskState.shape };
      recipe.isPainted = mask.foundId() === null;
      if (recipe.shape) fields.mask_feather = recipe.shape.feather;
    }
    const work = beginWork("Sending");
    const sent = withMask ? { id: mask.foundId(), encode: mask.encodeMask } : null;
    const job = await api.submitEdit(fields, startOf(state.base), sent, work);
    storeItem("job", { id: job, recipe });
    await finishEdit(work, job, recipe);
  });
}

/** Follow the job that was running when the page was closed or reloaded. */
function resumeJob() {
  if (!loadItem("job")) return;
  const { id, recipe } = loadItem("job");
  attempt(() => edit(recipe.hasMask), () => finishEdit(beginWork("Resuming the edit"), id, recipe));
}

/** Wait for a job and show its result. */
async function finishEdit(work, job, recipe) {
  work.job = job;
  if (recipe.hasMask) work.mask = await mask.encodeMask();
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
function dividerBesideMask() {
  const [left, right] = mask.extent() ?? [0, 1];
  const share = left >= 1 - right ? left / 2 : left;
  return Math.round(100 * Math.min(0.9, Math.max(0.04, share - 0.02)));
}

/** Cancel the running task: a job on the server, anything else in the browser. */
function cancelWork() {
  const { job, abort } = state.work;
  if (job) api.cancelJob(job).catch(() => abort.abort());
  else abort.abort();
}

// -- rendering ------------------------------------------------------------------------------------

function render() {
  const { photo, shown, work } = state;
  setHidden({ welcome: photo, editor: !photo, newImage: !photo });
  setHidden({ editForm: shown !== null, result: shown === null });
  renderProblem();
  if (!photo) return;
  ui.editFields.disabled = ui.newImage.disabled = Boolean(work);
  maskState.tool = work ? null : ui.editForm.elements.tool.value;
  renderFrame();
  renderMaskPanel();
  renderPreset();
  renderSnippet();
  renderResult();
  renderHistory();
  renderWork();
}

/** Show an error next to the field that it names, or else above the form. */
function renderProblem() {
  const { error, retry } = state.problem ?? {};
  let shownAtField = false;
  for (const slot of document.querySelectorAll("[data-error]")) {
    const name = slot.dataset.error;
    const matches = error?.param === name && !slot.parentElement.closest("[hidden]");
    setText({ [slot.id]: matches ? error.message : "" });
    const input = ui.editForm.elements[name];
    if (input instanceof Element) input.setAttribute("aria-invalid", matches);
    if (matches) slot.closest("details")?.setAttribute("open", "");
    shownAtField ||= matches;
  }
  setHidden({ notice: !error || shownAtField, retry: !retry });
  setText({ noticeText: error?.message ?? "" });
}

function renderPreset() {
  const { preset } = ui.editForm.elements;
  const unfit = preset.value === "instant" && state.model.few_steps === false;
  const warning = " The served model is not one, so the edit may be weak.";
  setText({ presetHint: PRESET_HINTS[preset.value] + (unfit ? warning : "") });
  api.showModelOptions(state.model);
}

function renderFrame() {
  const { photo, painting, work, edits, shown, split } = state;
  const result = edits[shown];
  const base = result ? result.base : state.base;
  const overlay = result ? urlOf(result.image) : work?.preview;
  const showHeatmap = Boolean(maskState.found && !overlay && ui.showHeatmap.checked);
  if (ui.heatmap.hidden === showHeatmap) mask.draw(); // the mask is filled without the heatmap only
  const showMask = !overlay && (hasMask() || painting);
  setHidden({ after: !overlay, heatmap: !showHeatmap, maskCanvas: !showMask });
  setHidden({ divider: !result, tagBefore: !result, tagAfter: !result });
  setImage(ui.before, urlOf(base === null ? photo.blob : edits[base].image));
  if (overlay) setImage(ui.after, overlay);
  ui.after.style.maskImage = work?.mask && !result ? `url(${urlOf(work.mask)})` : "";
  ui.before.classList.toggle("grey", showHeatmap);
  ui.frame.classList.toggle("comparing", Boolean(result));
  ui.frame.style.setProperty("--ratio", photo.width / photo.height);
  ui.frame.style.setProperty("--split", `${split}%`);
  ui.divider.ariaValueNow = Math.round(split);
  ui.divider.ariaValueText = `${Math.round(split)} % before`;
  setText({ photoName: photo.name, photoSize: `${photo.width} × ${photo.height}` });
}

/** The mask panel, and the form's buttons, which depend on whether there is a mask. */
function renderMaskPanel() {
  const { found, shape } = maskState;
  const usesMask = api.usesMask();
  const visible = usesMask && (hasMask() || state.painting);
  mask.render();
  setHidden({
    maskPanel: !visible, paintMask: visible || !usesMask, shapeFields: !found,
    secondaryButton: !usesMask,
  });
  setText({
    thresholdValue: found ? shape.threshold.toFixed(2) : "",
    growValue: found ? `${shape.grow} ${shape.grow === 1 ? "cell" : "cells"}` : "",
    featherValue: found ? `${(100 * shape.feather).toFixed(1)} %` : "",
    maskShare: hasMask() ? `${percent(mask.shareOf())} of the image` : "",
    maskHint: maskHint(),
    submitButton: hasMask() || !usesMask ? "Edit" : "Find the mask",
    secondaryButton: found ? "Find again" : hasMask() ? "Find it" : "Edit directly",
  });
  setList("maskWarnings", found?.source.response.warnings ?? []);
}

function maskHint() {
  if (!hasMask()) return "Paint over what should change.";
  if (!maskState.share) return `The mask is empty; ${MASK_ADVICE}.`;
  const { source_prompt: before, prompt: after } = api.formFields();
  const [foundBefore, foundAfter] = maskState.found?.source.prompts ?? [before, after];
  if (before === foundBefore && after === foundAfter) return "";
  return "This mask was found for other texts; keep it, or find it again.";
}

/** A snippet for the edit that is shown, or for the form. */
function renderSnippet() {
  const form = {
    fields: api.formFields(hasMask()), hasMask: hasMask(), isPainted: mask.foundId() === null,
    shape: maskState.found && maskState.shape,
  };
  const recipe = state.edits[state.shown]?.recipe ?? form;
  const isFile = recipe.hasMask && recipe.isPainted;
  const language = ui.languages.querySelector(":checked").value;
  const code = LANGUAGES[language]({
    file: state.photo.name,
    mask: isFile ? `${stem()}.mask.png` : null,
    fields: { prompt: "", ...recipe.fields, ...(recipe.hasMask && !isFile && foundBy(recipe.shape)) },
    origin: location.origin,
    hasKey: api.hasKey(),
    model: state.model.id ?? "",
  });
  setText({ code, copy: "Copy" });
}

/** The options with which an edit finds the mask that the sliders show. */
const foundBy = ({ threshold, grow, feather, cleaning }) => ({
  mask_threshold: threshold, mask_dilation: grow, mask_feather: feather, mask_cleaning: cleaning,
});

/** About how much longer a task takes, as text; "" while nothing is known. */
function timeToGo({ began, progress }) {
  const passed = (Date.now() - began) / 1000;
  if (!(progress > 0.1) || passed < 2) return "";
  return `about ${seconds((passed * (1 - progress)) / progress)} left`;
}

function renderWork() {
  const { work } = state;
  setHidden({ work: !work });
  if (!work) return;
  const { text, progress, position, wait } = work;
  const known = progress !== null && !wait && !position;
  const percentage = known ? Math.round(100 * progress) : null;
  const stage = position ? `Waiting, number ${position} in the queue` : text;
  setText({
    workText: wait ? `The server is busy. Trying again in ${wait} s` : stage,
    workPercent: known ? `${percentage} % ${timeToGo(work)}` : "",
    cancel: wait ? "Stop" : "Cancel",
  });
  ui.track.classList.toggle("unknown", !known);
  ui.track.ariaValueNow = percentage;
  ui.trackFill.style.width = known ? `${100 * progress}%` : "";
}

function renderResult() {
  const result = state.edits[state.shown];
  if (!result) return;
  const { recipe: { fields }, details } = result;
  const name = `${stem()}.edited.seed${details.seed}.png`;
  const rows = statsOf(details).map(([name, value, detail]) => element("div", {},
    element("dt", {}, name),
    element("dd", {}, value, ...(detail ? [element("small", {}, detail)] : []))));
  ui.stats.replaceChildren(...rows);
  setText({
    promptBefore: fields.source_prompt ?? "",
    promptAfter: fields.prompt,
    resultTitle: result.base === null ? "Edited" : `Edited, from step ${result.base + 1}`,
    speedup: speedupOf(result, state.edits[0]),
  });
  setList("resultWarnings", details.warnings);
  Object.assign(ui.saveImage, { href: urlOf(result.image), download: name });
  Object.assign(ui.saveMask, { href: urlOf(result.mask), download: `${stem()}.mask.png` });
}

function renderHistory() {
  const { photo, edits, shown, work } = state;
  setHidden({ historyPanel: !edits.length });
  if (ui.history.childElementCount !== edits.length + 1) {
    const original = thumbnail(photo.blob, "Original", "The original", () => startFrom(null));
    ui.history.replaceChildren(original, ...edits.map(({ recipe, base, image }, index) => {
      const { prompt } = recipe.fields;
      const from = base === null ? "" : `, from step ${base + 1}`;
      return thumbnail(image, `${index + 1}. ${prompt}`, `Step ${index + 1}: ${prompt}${from}`,
        () => showEdit(index));
    }));
  }
  const current = shown ?? state.base;
  ui.history.querySelectorAll("button").forEach((button, index) => {
    button.ariaPressed = index === (current === null ? 0 : current + 1);
    button.disabled = Boolean(work);
  });
}

function thumbnail(image, text, label, onclick) {
  const button = element("button", { type: "button", title: label, ariaLabel: label, onclick },
    element("img", { src: urlOf(image), alt: "" }), element("span", {}, text));
  return element("li", {}, button);
}

function showEdit(index) {
  Object.assign(state, { shown: index, problem: null });
  save("editor");
  render();
}

/** Edit the result of a step, or the image itself, with an empty mask. */
async function startFrom(base) {
  Object.assign(state, { base, shown: null, painting: false, problem: null });
  await mask.start(maskState.size);
  save("foundMask", "editor");
  render();
}

// -- event handlers -------------------------------------------------------------------------------

function setSplit(split) {
  state.split = Math.min(100, Math.max(0, split));
  renderFrame();
}

function moveSplitByKey(event) {
  const step = event.shiftKey ? 10 : 2;
  const moves = {
    ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step,
    PageDown: -10, PageUp: 10, Home: -100, End: 100,
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  setSplit(state.split + moves[event.key]);
}

function moveSplitByPointer(event) {
  if (state.shown === null || !(event.buttons & 1) || ui.work.contains(event.target)) return;
  ui.frame.setPointerCapture(event.pointerId);
  const { left, width } = ui.frame.getBoundingClientRect();
  setSplit((100 * (event.clientX - left)) / width);
}

/** Go back to the start and the mask of the edit that is shown. */
async function restoreStart() {
  const { base, kept, recipe } = state.edits[state.shown];
  Object.assign(state, { base, shown: null, painting: kept.strokes.length > 0, problem: null });
  await mask.start(maskState.size, kept.found, { strokes: [...kept.strokes] });
  ui.source.value = recipe.fields.source_prompt ?? "";
  ui.prompt.value = recipe.fields.prompt;
  save("foundMask", "editor");
  onFormChange();
}

async function tryAnotherPrompt() {
  await restoreStart();
  ui.prompt.focus();
  ui.prompt.select();
}

async function tryAnotherSeed() {
  const { hasMask: withMask } = state.edits[state.shown].recipe;
  await restoreStart();
  ui.randomSeed.click();
  edit(withMask);
}

async function continueFromResult() {
  const { recipe } = state.edits[state.shown];
  await startFrom(state.shown);
  ui.source.value = recipe.fields.prompt;
  ui.prompt.value = "";
  onFormChange();
  ui.prompt.focus();
}

function onFormChange() {
  storeForm(ui.editForm);
  render();
}

function registerPhotoHandlers() {
  ui.drop.onclick = ui.newImage.onclick = () => ui.file.click();
  ui.file.onchange = () => {
    openPhoto(ui.file.files[0]);
    ui.file.value = "";
  };
  for (const type of ["dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      event.preventDefault();
      const over = type === "dragover" || event.relatedTarget !== null;
      document.body.classList.toggle("dragging", over);
      if (type === "drop") openPhoto(event.dataTransfer.files[0]);
    });
  }
  addEventListener("paste", (event) => openPhoto(event.clipboardData?.files[0]));
}

function registerFormHandlers() {
  ui.editForm.onsubmit = (event) => {
    event.preventDefault();
    if (!api.usesMask()) edit(false);
    else if (hasMask()) edit(true);
    else findMask();
  };
  ui.editForm.oninput = ({ target }) => {
    if (state.problem?.error.param === target.name) state.problem = null;
    onFormChange();
  };
  ui.editForm.onkeydown = (event) => {
    const submits = event.key === "Enter" && !event.shiftKey && event.target.matches("textarea");
    if (!submits || event.isComposing) return;
    event.preventDefault();
    ui.editForm.requestSubmit();
  };
  ui.secondaryButton.onclick = () => (hasMask() ? findMask() : edit(false));
  ui.paintMask.onclick = () => {
    state.painting = true;
    render();
    ui.maskCanvas.focus();
  };
  ui.randomSeed.onclick = () => {
    ui.editForm.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
    onFormChange();
  };
  ui.maskCanvas.addEventListener("shape", () => {
    render();
    refineMask();
  });
  ui.maskCanvas.oninput = render;
  ui.maskCanvas.onchange = () => {
    render();
    save("editor");
  };
}

function registerResultHandlers() {
  ui.retry.onclick = () => state.problem.retry();
  ui.cancel.onclick = cancelWork;
  ui.frame.onpointerdown = ui.frame.onpointermove = moveSplitByPointer;
  ui.divider.onkeydown = moveSplitByKey;
  ui.newPrompt.onclick = tryAnotherPrompt;
  ui.again.onclick = tryAnotherSeed;
  ui.continueEditing.onclick = continueFromResult;
  addEventListener("keydown", ({ key }) => {
    if (key === "Escape" && state.work) cancelWork();
  });
  ui.languages.onchange = renderSnippet;
  ui.copy.onclick = async () => {
    const copy = await copyText(ui.code);
    setText({ copy });
    announce(copy);
  };
}

/** Load the options and the model from the server. */
async function loadServerInfo() {
  try {
    await api.loadOptions();
    const model = await api.servedModel();
    const { id, family, backend, native_size: side } = model;
    state.model = model;
    const facts = family ? [family, `${side} px`, backend] : ["the model is loading"];
    setText({ model: [id, ...facts].join(" · ") });
    if (!family) setTimeout(loadServerInfo, LOADING_POLL_MS);
  } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    setText({ model: error.message });
  }
  render();
}

async function start() {
  loadForm(ui.editForm);
  registerPhotoHandlers();
  registerFormHandlers();
  mask.registerHandlers();
  registerResultHandlers();
  const { photo, foundMask, editor, edits } = await loadValues();
  if (photo) {
    const { strokes, painting, shown, base } = editor;
    Object.assign(state, { photo, painting, shown, base: base ?? null, edits });
    await mask.start([photo.width, photo.height], foundMask, { strokes });
  }
  render();
  resumeJob();
  loadServerInfo();
}

start();
