/**
 * The page: one image, two prompts, a mask, and the results of the edits.
 *
 * This module connects the controls with what they start. The state is in state.js, its display in
 * render.js, and what can be started in tasks.js. Requests are in api.js and the form's options in
 * options.js; the mask in mask.js, its display in overlay.js and its tools in brush.js; zoom and pan
 * in view.js; storage and snippets in storage.js and snippets.js.
 */

import * as api from "/api.js";
import * as form from "/form.js";
import * as brush from "/brush.js";
import { hasMask, maskState } from "/mask.js";
import * as overlay from "/overlay.js";
import { render, renderFrame, renderSnippet } from "/render.js";
import { copyText } from "/snippets.js";
import { announce, loadPictures, save, setText, showPicture, state, ui } from "/state.js";
import { loadForm } from "/storage.js";
import {
  askAbout, cancelWork, continueFromResult, edit, findMask, onFormChange, openExample, openMask,
  openPhoto, refineMask, resumeJob, showEdit, startFrom, swapPictures, tryAnotherPrompt,
  tryAnotherSeed,
} from "/tasks.js";
import * as zoom from "/view.js";

const LOADING_POLL_MS = 1000;

// -- event handlers -------------------------------------------------------------------------------

/** Whether dragging moves the zoomed picture, instead of painting or moving the divider. */
function movesPicture({ target }) {
  if (state.shown !== null) return target !== ui.divider;
  return ui.maskCanvas.hidden || !["paint", "erase"].includes(maskState.tool);
}

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
  if (zoom.isMoving()) return;
  ui.frame.setPointerCapture(event.pointerId);
  const { left, width } = ui.frame.getBoundingClientRect();
  setSplit((100 * (event.clientX - left)) / width);
}

function registerPhotoHandlers() {
  ui.drop.onclick = ui.newImage.onclick = () => ui.file.click();
  ui.backImage.onclick = swapPictures;
  ui.exampleList.onclick = ({ target }) => {
    const button = target.closest("button");
    if (button) openExample(state.model.examples[button.value]);
  };
  ui.openMask.onclick = ui.importMask.onclick = () => ui.maskFile.click();
  ui.maskFile.onchange = () => {
    openMask(ui.maskFile.files[0]);
    ui.maskFile.value = "";
  };
  ui.file.onchange = () => {
    openPhoto(ui.file.files[0]);
    ui.file.value = "";
  };
  for (const type of ["dragover", "dragleave", "drop"]) {
    addEventListener(type, (event) => {
      event.preventDefault();
      const over = type === "dragover" || event.relatedTarget !== null;
      document.body.classList.toggle("dragging", over);
      if (type === "drop") askAbout(event.dataTransfer.files[0]);
    });
  }
  addEventListener("paste", (event) => askAbout(event.clipboardData?.files[0]));
}

function registerFormHandlers() {
  ui.editForm.onsubmit = (event) => {
    event.preventDefault();
    if (!form.usesMask()) edit(false);
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
    if (maskState.found) refineMask();
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
  ui.history.onclick = ({ target }) => {
    const button = target.closest("button");
    if (button?.value) showEdit(Number(button.value));
    else if (button) startFrom(null);
  };
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
    await form.loadOptions();
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
  brush.registerHandlers();
  overlay.registerHandlers();
  zoom.registerHandlers(movesPicture);
  registerResultHandlers();
  const [shown, earlier = null] = await loadPictures();
  state.earlier = earlier;
  if (shown) await showPicture(shown);
  render();
  resumeJob();
  loadServerInfo();
}

start();
