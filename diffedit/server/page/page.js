/**
 * The page: one picture, two texts, the place that was found, and what became of it.
 *
 * `state`, and `place` of mask.js, are everything there is to know. Whatever changes them calls
 * `render`, which brings every region of the page up to them; what a person wrote reaches it as
 * text only. How the server is spoken to, how a mask is made and drawn, where things are kept and
 * what is copied, this does not know: see api.js, mask.js, keep.js and copy.js.
 */

import * as api from "/api.js";
import { LANGUAGES, copyText, figuresOf, gainOf, percent, seconds } from "/copy.js";
import { keep, note, noted, noteForm, recall, recallForm } from "/keep.js";
import * as mask from "/mask.js";

const { place, marked } = mask;
const REMEDY = "lower the threshold, or paint over what should change";

const state = {
  picture: null, // { blob, name, width, height }
  byHand: false, // the tools are shown although nothing was found
  busy: false, // something is attempted, and nothing else meanwhile
  work: null, // what is waited for; see begin
  results: [], // { recipe, image, mask, figures }: edits of this picture
  shown: null, // the index of the one that is looked at
  split: 50, // percent of the picture that show it as it was
  problem: null, // { error, again }: what went wrong, and how to try once more
  model: "",
};

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));

// -- small things ---------------------------------------------------------------------------------

/** A new element with properties and children; texts among them stay texts. */
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Set texts, by the elements' ids; one that stands there already is not announced again. */
function tell(texts) {
  for (const [id, text] of Object.entries(texts)) {
    if (ui[id].textContent !== text) ui[id].textContent = text;
  }
}

/** Tell those who listen instead of looking. */
const say = (words) => { ui.spoken.textContent = words; };

/** Hide elements, or show them, by their ids. */
function hide(hidden) {
  for (const [id, is] of Object.entries(hidden)) ui[id].hidden = Boolean(is);
}

function list(id, sentences) {
  ui[id].replaceChildren(...sentences.map((sentence) => element("li", {}, sentence)));
}

/** Show a picture; one that is shown already is not loaded again. */
function show(image, url) {
  if (image.src !== url) image.src = url;
}

const urls = new WeakMap();
function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

const stem = () => state.picture.name.replace(/\.[^.]*$/, "");

function save(...names) {
  const { threshold, strokes, found } = place;
  const { picture, byHand, shown, results } = state;
  const kept = { threshold, strokes, byHand, shown };
  const all = { picture, found: found?.told, place: kept, results };
  keep(Object.fromEntries(names.map((name) => [name, all[name]])));
}

// -- finding and editing --------------------------------------------------------------------------

/** Do something, and show what became of it; a problem leads to the field that is wrong. */
async function attempt(again, task) {
  if (state.busy) return;
  Object.assign(state, { busy: true, problem: null });
  try {
    await task();
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else if (error instanceof api.Problem) state.problem = { error, again: state.work && again };
    else throw error;
  } finally {
    const next = state.shown === null ? ui.go : ui.divider;
    const goOn = state.work?.focused ? next : null;
    Object.assign(state, { busy: false, work: null });
    render();
    (ui.ask.querySelector("[aria-invalid=true]") ?? goOn)?.focus();
  }
}

/** From now on something is waited for: shown over the picture, and stoppable. */
function begin(words) {
  const focused = ui.asked.contains(document.activeElement);
  const abort = new AbortController();
  const work = {
    words, share: null, // the stage that it is in, and how much is done, where that is known
    position: 0, wait: 0, // in the server's queue; seconds until a busy server is asked again
    job: null, preview: null, mask: null, // a preview shows nothing outside the mask
    focused, abort, signal: abort.signal, waits: (wait) => heed(work, { wait }),
  };
  state.work = work;
  render();
  ui.frame.scrollIntoView({ block: "nearest" });
  if (focused) ui.cancel.focus();
  say(words);
  return work;
}

function heed(work, news) {
  const { words, wait } = work;
  Object.assign(work, news);
  if (words !== work.words) say(work.words);
  if (work.wait && !wait) say("The server is busy.");
  render();
}

/** Take a file as the picture to edit, if it is one. */
function openPicture(file) {
  return file && attempt(null, async () => {
    const picture = await api.pictureOf(file);
    Object.assign(state, { picture, byHand: false, results: [], shown: null });
    await mask.start([picture.width, picture.height]);
    save("picture", "found", "place", "results");
    say(`${picture.name}, ${picture.width} by ${picture.height} pixels.`);
  });
}

function find() {
  attempt(find, async () => {
    const parameters = api.parameters(false);
    const found = await api.findPlace(parameters, state.picture.blob, begin("Finding the place"));
    await mask.start(place.size, found);
    ui.showHeat.checked = true;
    save("found", "place");
    say(`Found: ${percent(found.answer.mask_share)} of the picture.`);
  });
}

/** Edit under the mask that is drawn, or, without one, where the server finds it. */
function edit(masked) {
  attempt(() => edit(masked), async () => {
    const recipe = { parameters: api.parameters(masked), masked };
    if (masked && !place.share) throw new api.Problem(`No place is marked; ${REMEDY}.`);
    const work = begin("Sending");
    const drawn = masked ? await mask.maskFile() : null;
    const job = await api.submit(recipe.parameters, state.picture.blob, drawn, work);
    note("job", { id: job, recipe });
    await finish(work, job, recipe);
  });
}

/** A job that was under way when the page was left is followed on. */
function resume() {
  if (!noted("job")) return;
  const { id, recipe } = noted("job");
  attempt(() => edit(recipe.masked), () => finish(begin("Following the edit"), id, recipe));
}

/** See a job through, and show what came of it. */
async function finish(work, job, recipe) {
  work.job = job;
  if (recipe.masked) work.mask = await mask.maskFile();
  try {
    const result = await api.outcome(job, work.signal, (news) => heed(work, news));
    Object.assign(state, { shown: state.results.push({ recipe, ...result }) - 1, split: 50 });
    say(`Edited in ${seconds(result.figures.timings.total)}.`);
  } finally {
    note("job", undefined);
    save("results", "place");
  }
}

/** Stop what is waited for: a job at the server, anything else here. */
function cancel() {
  const { job, abort } = state.work;
  if (job) api.cancel(job).catch(() => abort.abort());
  else abort.abort();
}

// -- the regions ----------------------------------------------------------------------------------

function render() {
  const { picture, shown, work } = state;
  hide({ welcome: picture, workshop: !picture, other: !picture });
  hide({ ask: shown !== null, result: shown === null });
  renderProblem();
  if (!picture) return;
  ui.asked.disabled = ui.other.disabled = Boolean(work);
  place.tool = work ? null : ui.ask.elements.tool.value;
  renderFrame();
  renderPlace();
  renderCode();
  renderResult();
  renderHistory();
  renderWork();
}

/** A problem stands beside the field that it names, else above the form. */
function renderProblem() {
  const { error, again } = state.problem ?? {};
  let said = false;
  for (const slot of document.querySelectorAll("[data-error]")) {
    const name = slot.dataset.error;
    const mine = error?.param === name && !slot.parentElement.closest("[hidden]");
    tell({ [slot.id]: mine ? error.message : "" });
    ui.ask.elements[name]?.setAttribute("aria-invalid", mine);
    if (mine) slot.closest("details")?.setAttribute("open", "");
    said ||= mine;
  }
  hide({ notice: !error || said, again: !again });
  tell({ noticeWords: error?.message ?? "" });
}

function renderFrame() {
  const { picture, byHand, work, results, shown, split } = state;
  const result = results[shown];
  const over = result ? urlOf(result.image) : work?.preview;
  const hot = Boolean(place.found && !over && ui.showHeat.checked);
  if (ui.heat.hidden === hot) mask.draw(); // only without the heatmap the mask is filled
  hide({ after: !over, heat: !hot, marks: over || !(marked() || byHand) });
  hide({ divider: !result, tagBefore: !result, tagAfter: !result });
  show(ui.before, urlOf(picture.blob));
  if (over) show(ui.after, over);
  ui.after.style.maskImage = work?.mask && !result ? `url(${urlOf(work.mask)})` : "";
  ui.before.classList.toggle("grey", hot);
  ui.frame.classList.toggle("compares", Boolean(result));
  ui.frame.style.setProperty("--ratio", picture.width / picture.height);
  ui.frame.style.setProperty("--split", `${split}%`);
  ui.divider.ariaValueNow = Math.round(split);
  ui.divider.ariaValueText = `${Math.round(split)} % before`;
  tell({ pictureName: picture.name, pictureSize: `${picture.width} × ${picture.height}` });
}

/** The place, and the form's buttons, which do what is left to do about it. */
function renderPlace() {
  const { found, threshold, share } = place;
  const shown = marked() || state.byHand;
  mask.render();
  hide({ place: !shown, byHand: shown, heatField: !found });
  tell({
    thresholdValue: threshold.toFixed(2),
    share: marked() ? `${percent(share)} of the picture` : "",
    placeHint: hintOnPlace(),
    go: marked() ? "Edit" : "Find the place",
    alternative: found ? "Find again" : marked() ? "Find it" : "Edit at once",
  });
  list("foundWarnings", found?.told.answer.warnings ?? []);
}

function hintOnPlace() {
  if (!marked()) return "Paint over what should change.";
  if (!place.share) return `Nothing is marked; ${REMEDY}.`;
  const { source_prompt: before, prompt: after } = api.chosen();
  const [there, wanted] = place.found?.told.texts ?? [before, after];
  if (before === there && after === wanted) return "";
  return "This place was found for other texts; keep it, or find again.";
}

/** The edit that is shown, or else the one that is being written, as text to copy. */
function renderCode() {
  const now = { parameters: api.chosen(marked()), masked: marked() };
  const { parameters, masked } = state.results[state.shown]?.recipe ?? now;
  const language = ui.languages.querySelector(":checked").value;
  const code = LANGUAGES[language]({
    file: state.picture.name,
    mask: masked ? `${stem()}.mask.png` : null,
    fields: { prompt: "", ...parameters },
    origin: location.origin,
    keyed: api.hasKey(),
    model: state.model,
  });
  tell({ code, copy: "Copy" });
}

function renderWork() {
  const { work } = state;
  hide({ work: !work });
  if (!work) return;
  const { words, share, position, wait } = work;
  const known = share !== null && !wait && !position;
  const done = known ? Math.round(100 * share) : null;
  const waiting = position ? `Waiting, number ${position} in the queue` : words;
  tell({
    workWords: wait ? `The server is busy. Trying again in ${wait} s` : waiting,
    workShare: known ? `${done} %` : "",
    cancel: wait ? "Stop" : "Cancel",
  });
  ui.track.classList.toggle("unknown", !known);
  ui.track.ariaValueNow = done;
  ui.filled.style.width = known ? `${100 * share}%` : "";
}

function renderResult() {
  const result = state.results[state.shown];
  if (!result) return;
  const { recipe: { parameters }, figures } = result;
  const rows = figuresOf(figures).map(([name, value, detail]) => element("div", {},
    element("dt", {}, name),
    element("dd", {}, value, ...(detail ? [element("small", {}, detail)] : []))));
  ui.figures.replaceChildren(...rows);
  tell({
    saidBefore: parameters.source_prompt ?? "",
    saidAfter: parameters.prompt,
    faster: gainOf(result, state.results[0]),
  });
  list("resultWarnings", figures.warnings);
  Object.assign(ui.saveImage, { href: urlOf(result.image), download: `${stem()}.edited.png` });
  Object.assign(ui.saveMask, { href: urlOf(result.mask), download: `${stem()}.mask.png` });
}

function renderHistory() {
  const { results, shown, work } = state;
  hide({ history: !results.length });
  if (ui.history.childElementCount !== results.length) {
    ui.history.replaceChildren(...results.map(thumbnail));
  }
  ui.history.querySelectorAll("button").forEach((button, index) => {
    button.ariaPressed = index === shown;
    button.disabled = Boolean(work);
  });
}

function thumbnail({ recipe, image }, index) {
  const title = recipe.parameters.prompt;
  const onclick = () => {
    Object.assign(state, { shown: index, split: 50, problem: null });
    render();
  };
  return element("li", {}, element("button", { type: "button", title, onclick },
    element("img", { src: urlOf(image), alt: "" }), element("span", {}, title)));
}

// -- who does what --------------------------------------------------------------------------------

function compareAt(split) {
  state.split = Math.min(100, Math.max(0, split));
  renderFrame();
}

function compareByKey(event) {
  const step = event.shiftKey ? 10 : 2;
  const moves = {
    ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step,
    PageDown: -10, PageUp: 10, Home: -100, End: 100,
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  compareAt(state.split + moves[event.key]);
}

function compareByPointer(event) {
  if (state.shown === null || !(event.buttons & 1) || ui.work.contains(event.target)) return;
  ui.frame.setPointerCapture(event.pointerId);
  const { left, width } = ui.frame.getBoundingClientRect();
  compareAt((100 * (event.clientX - left)) / width);
}

function tryAnotherText() {
  state.shown = null;
  save("place");
  render();
  ui.prompt.focus();
  ui.prompt.select();
}

async function continueFromResult() {
  const { image, recipe } = state.results[state.shown];
  await openPicture(new File([image], `${stem()}.edited.png`, { type: image.type }));
  ui.source.value = recipe.parameters.prompt;
  ui.prompt.value = "";
  formChanged();
  ui.prompt.focus();
}

function formChanged() {
  noteForm(ui.ask);
  render();
}

function wirePicture() {
  ui.drop.onclick = ui.other.onclick = () => ui.file.click();
  ui.file.onchange = () => {
    openPicture(ui.file.files[0]);
    ui.file.value = "";
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      const over = kind === "dragover" || event.relatedTarget !== null;
      document.body.classList.toggle("dragging", over);
      if (kind === "drop") openPicture(event.dataTransfer.files[0]);
    });
  }
  addEventListener("paste", (event) => openPicture(event.clipboardData?.files[0]));
}

function wireForm() {
  ui.ask.onsubmit = (event) => {
    event.preventDefault();
    if (marked()) edit(true);
    else find();
  };
  ui.ask.oninput = ({ target }) => {
    if (state.problem?.error.param === target.name) state.problem = null;
    formChanged();
  };
  ui.ask.onkeydown = (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && event.target.matches("textarea");
    if (!sends || event.isComposing) return;
    event.preventDefault();
    ui.ask.requestSubmit();
  };
  ui.alternative.onclick = () => (marked() ? find() : edit(false));
  ui.byHand.onclick = () => {
    state.byHand = true;
    render();
    ui.marks.focus();
  };
  ui.dice.onclick = () => {
    ui.ask.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
    formChanged();
  };
  ui.marks.oninput = render;
  ui.marks.onchange = () => {
    render();
    save("place");
  };
}

function wireRest() {
  ui.again.onclick = () => state.problem.again();
  ui.cancel.onclick = cancel;
  ui.frame.onpointerdown = ui.frame.onpointermove = compareByPointer;
  ui.divider.onkeydown = compareByKey;
  ui.another.onclick = tryAnotherText;
  ui.goOn.onclick = continueFromResult;
  ui.languages.onchange = renderCode;
  ui.copy.onclick = async () => {
    const copy = await copyText(ui.code);
    tell({ copy });
    say(copy);
  };
}

async function meetServer() {
  try {
    await api.describeOptions();
    const { id, backend, native_size: side } = await api.servedModel();
    state.model = id;
    tell({ model: [id, backend, side && `sees ${side} px`].filter(Boolean).join(" · ") });
  } catch (error) {
    if (!(error instanceof api.Problem)) throw error;
    tell({ model: error.message });
  }
  render();
}

async function start() {
  recallForm(ui.ask);
  [wirePicture, wireForm, mask.wire, wireRest].forEach((wire) => wire());
  const { picture, found, place: kept, results } = await recall();
  if (picture) {
    const { threshold, strokes, byHand, shown } = kept;
    Object.assign(state, { picture, byHand, shown, results });
    await mask.start([picture.width, picture.height], found, { threshold, strokes });
  }
  render();
  resume();
  meetServer();
}

start();
