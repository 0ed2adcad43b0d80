/**
 * The fields of the form: their ranges, defaults and values. options.js builds those of "More settings".
 */

import { Problem, getJson } from "/api.js";
import "/options.js";

const MASK_OPTIONS = ["num_maps_per_mask", "mask_encode_strength", "mask_thresholding_ratio"];
const OWNERS = { // options that only one method has
  n_max: "flowedit", n_min: "flowedit", n_avg: "flowedit", source_guidance_scale: "flowedit",
  step_scale: "chordedit", refining_rows: "chordedit",
};
const MASKLESS_METHODS = ["sdedit", "encode-decode"];

const [editForm, options] = ["editForm", "options"].map((id) => document.getElementById(id));

/** Set defaults and ranges of the option inputs from the server's OpenAPI document. */
export async function loadOptions() {
  const { paths } = await getJson("/openapi.json");
  const { content } = paths["/v1/images/edits"].post.requestBody;
  const fields = content["multipart/form-data"].schema.properties;
  for (const input of options.querySelectorAll("input, select")) {
    const field = fields[input.name];
    if (input.type === "checkbox") input.defaultChecked = field.default;
    if (input.type === "number") Object.assign(input, numberAttributes(field));
  }
}

/** Attributes of a number input; the title describes the range. */
function numberAttributes({ type, minimum, exclusiveMinimum, maximum, default: placeholder }) {
  const [noun, step] = type === "integer" ? ["a whole number", 1] : ["a number", "any"];
  const min = minimum ?? exclusiveMinimum;
  const max = Math.min(maximum, Number.MAX_SAFE_INTEGER);
  const range = minimum === undefined ? `above ${min} and at most ${max}` : `from ${min} to ${max}`;
  return { min, max, step, placeholder, title: `${noun} ${range}` };
}

/** The chosen method: the form's own, or the preset's. */
export function chosenMethod() {
  const { method, preset } = editForm.elements;
  return method.value || (preset.value === "instant" ? "chordedit" : "diffedit");
}

/** Whether the chosen method has a mask. */
export const usesMask = () => !MASKLESS_METHODS.includes(chosenMethod());

/** Show the defaults of the preset, and hide the options that model and method do not use. */
export function showModelOptions({ presets = {}, methods, ...model }) {
  const method = chosenMethod();
  for (const [name, value] of Object.entries(presets[editForm.elements.preset.value] ?? {})) {
    const input = editForm.elements[name];
    if (input) input.placeholder = value;
  }
  const used = { guidance_scale: model.uses_guidance, negative_prompt: model.uses_negative_prompt };
  for (const [name, owner] of Object.entries(OWNERS)) used[name] = owner === method;
  if (method === "flowedit") used.strength = false; // n_max takes its place
  for (const name of [...Object.keys(OWNERS), "guidance_scale", "negative_prompt", "strength"]) {
    editForm.elements[name].closest(".field").hidden = used[name] === false;
  }
  for (const option of editForm.elements.method.options) {
    option.hidden = Boolean(option.value && methods && !methods.includes(option.value));
  }
}

/** Return the form's filled fields. With a mask, the options for finding one are left out. */
export function formFields(hasMask) {
  const fields = {};
  for (const input of editForm.elements) {
    const { name, type, value, checked, defaultChecked } = input;
    if (!name || (hasMask && MASK_OPTIONS.includes(name)) || !isUsed(input)) continue;
    if (type === "checkbox" && checked !== defaultChecked) fields[name] = checked;
    if (type === "number" && value) fields[name] = Number(value);
    if (type === "select-one" && value) fields[name] = value;
    if (name === "preset" && checked) fields.preset = value;
    if (type.startsWith("text") && value.trim()) fields[name] = value.trim();
  }
  return fields;
}

/** Whether the served model uses an option. */
const isUsed = (input) => !input.closest(".option[hidden]");

/** Return the form's fields. Throws a Problem if one is missing or invalid. */
export function validFormFields(hasMask) {
  const fields = formFields(hasMask);
  if (!fields.prompt) throw new Problem("Describe what should be there.", { param: "prompt" });
  const invalid = options.querySelector("input:invalid");
  if (!invalid) return fields;
  const [label] = invalid.labels;
  const message = `${label.textContent} must be ${invalid.title || "a number"}.`;
  throw new Problem(message, { param: invalid.name });
}
