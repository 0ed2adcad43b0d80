/**
 * The display of the state: `render` updates every region of the page. It starts nothing.
 */

import * as api from "/api.js";
import * as form from "/form.js";
import * as brush from "/brush.js";
import * as mask from "/mask.js";
import * as overlay from "/overlay.js";
import { blobOf } from "/pictures.js";
import { LANGUAGES, percent, seconds, speedupOf, statsOf } from "/snippets.js";
import {
  MASK_ADVICE, element, setHidden, setImage, setList, setText, state, stem, ui, urlOf,
} from "/state.js";

const { maskState, hasMask } = mask;

const PRESET_HINTS = {
  draft: "A quick look, to try words: an eighth of the work of Thorough.",
  balanced: "A good start: clean edges for a quarter of the work of Thorough.",
  paper: "The slowest: every step of the method as it was published. The mask has square edges.",
  instant: "A single step, in seconds. It needs a model that is made for this (Turbo, Lightning, LCM).",
};

export function render() {
  const { photo, shown, work } = state;
  setHidden({ welcome: photo, editor: !photo, newImage: !photo, backImage: !state.earlier });
  setHidden({ editForm: shown !== null, result: shown === null });
  renderProblem();
  renderExamples();
  if (!photo) return;
  ui.editFields.disabled = ui.newImage.disabled = ui.backImage.disabled = Boolean(work);
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
  const instant = preset.value === "instant";
  let advice = "";
  if (instant && state.model.few_steps === false)
    advice = " The model of this server is not, so the change may be weak.";
  if (!instant && state.model.few_steps === true)
    advice = " The model of this server is made for few steps: Instant may do better.";
  setText({ presetHint: PRESET_HINTS[preset.value] + advice });
  form.showModelOptions(state.model);
}

export function renderFrame() {
  const { photo, painting, work, edits, shown, split } = state;
  const result = edits[shown];
  const base = result ? result.base : state.base;
  const after = result ? urlOf(result.image) : work?.preview;
  const showHeatmap = Boolean(maskState.found && !after && ui.showHeatmap.checked);
  if (ui.heatmap.hidden === showHeatmap) overlay.draw(); // the mask is filled without the heatmap only
  const showMask = !after && (hasMask() || painting);
  setHidden({ after: !after, heatmap: !showHeatmap, maskCanvas: !showMask });
  setHidden({ divider: !result, tagBefore: !result, tagAfter: !result });
  setImage(ui.before, urlOf(base === null ? photo.blob : edits[base].image));
  if (after) setImage(ui.after, after);
  ui.after.style.maskImage = work?.mask && !result ? `url(${urlOf(work.mask)})` : "";
  ui.before.classList.toggle("grey", showHeatmap);
  ui.frame.classList.toggle("comparing", Boolean(result));
  ui.frame.style.setProperty("--ratio", photo.width / photo.height);
  ui.frame.style.setProperty("--split", split / 100);
  ui.divider.ariaValueNow = Math.round(split);
  ui.divider.ariaValueText = `${Math.round(split)} % before`;
  setText({
    photoName: photo.name, photoSize: `${photo.width} × ${photo.height}`,
    backImage: `Back to ${state.earlier?.photo.name}`,
  });
}

/** The mask panel, and the form's buttons, which depend on whether there is a mask. */
function renderMaskPanel() {
  const { found, shape } = maskState;
  const usesMask = form.usesMask();
  const visible = usesMask && (hasMask() || state.painting);
  brush.render();
  setHidden({
    maskPanel: !visible, paintMask: visible || !usesMask, openMask: visible || !usesMask,
    shapeFields: !found,
    secondaryButton: !usesMask,
  });
  setText({
    thresholdValue: found ? shape.threshold.toFixed(2) : "",
    growValue: found ? `${shape.grow} ${shape.grow === 1 ? "square" : "squares"}` : "",
    featherValue: `${(100 * shape.feather).toFixed(1)} %`,
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
  const { source_prompt: before, prompt: after } = form.formFields();
  const [foundBefore, foundAfter] = maskState.found?.source.prompts ?? [before, after];
  if (before === foundBefore && after === foundAfter) return "";
  return "This mask was found for other texts; keep it, or find it again.";
}

/** A snippet for the edit that is shown, or for the form. */
export function renderSnippet() {
  const present = {
    fields: form.formFields(hasMask()), hasMask: hasMask(), isPainted: mask.foundId() === null,
    shape: maskState.found && maskState.shape,
  };
  const recipe = state.edits[state.shown]?.recipe ?? present;
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
  const codes = details.warning_codes ?? []; // a soft mask is not news: the page sends soft masks
  setList("resultWarnings", details.warnings.filter((_, k) => codes[k] !== "soft_mask"));
  Object.assign(ui.saveImage, { href: urlOf(result.image), download: name });
  Object.assign(ui.saveMask, { href: urlOf(result.mask), download: `${stem()}.mask.png` });
}

let historyOf = ""; // the picture and the number of edits that the history shows

function renderHistory() {
  const { photo, edits, shown, work } = state;
  setHidden({ historyPanel: !edits.length });
  if (historyOf !== `${photo.id} ${edits.length}`) {
    historyOf = `${photo.id} ${edits.length}`;
    const original = thumbnail(photo.blob, "Original", "The original", "");
    ui.history.replaceChildren(original, ...edits.map(({ recipe, base, image }, index) => {
      const { prompt } = recipe.fields;
      const from = base === null ? "" : `, from step ${base + 1}`;
      return thumbnail(image, `${index + 1}. ${prompt}`, `Step ${index + 1}: ${prompt}${from}`,
        index);
    }));
  }
  const current = shown ?? state.base;
  ui.history.querySelectorAll("button").forEach((button, index) => {
    button.ariaPressed = index === (current === null ? 0 : current + 1);
    button.disabled = Boolean(work);
  });
}

/** Pictures to try with the served model, with their texts. */
function renderExamples() {
  const { about = "", examples = [] } = state.model;
  setHidden({ examples: !examples.length && !about });
  setText({ about });
  if (ui.exampleList.childElementCount === examples.length) return;
  ui.exampleList.replaceChildren(...examples.map((example, index) => {
    const { image, type, source_prompt: before, prompt } = example;
    return thumbnail(blobOf(image, type), prompt, `Try it: ${before} → ${prompt}`, index);
  }));
}

/** A button with a picture; its value says which one was chosen. */
function thumbnail(image, text, label, value) {
  const button = element("button", { type: "button", title: label, ariaLabel: label, value },
    element("img", { src: urlOf(image), alt: "" }), element("span", {}, text));
  return element("li", {}, button);
}
