/**
 * The fields under "Options": their labels, hints and choices, stated once, and how they are built.
 *
 * Ranges and defaults come from the server's API description and model, see api.js.
 */

const PRESETS_OWN = ["", "the preset's"];
const METHODS = [
  PRESETS_OWN, ["diffedit", "DiffEdit"], ["masked-sdedit", "Masked SDEdit"],
  ["sdedit", "SDEdit, no mask"], ["encode-decode", "Encode, no mask"], ["flowedit", "FlowEdit"],
  ["chordedit", "ChordEdit"],
];
const FOCUS = [PRESETS_OWN, ["auto", "when it helps"], ["true", "always"], ["false", "never"]];

/** Name, label, hint, and choices or the type of the input (a number if nothing is said). */
const OPTIONS = [
  ["strength", "How far from the original", "Small numbers stay close; 1 may change everything."],
  ["guidance_scale", "Follow the text", "Higher numbers obey it more; too high looks harsh."],
  ["num_inference_steps", "Steps", "More steps are finer and slower."],
  ["seed", "Seed", "The same number gives the same result again."],
  ["negative_prompt", "Avoid", "What must not appear.", "text"],
  ["focus", "Work close up", "Edit a part around the mask, for sharp details in large pictures.",
    FOCUS],
  ["composite", "Keep the rest", "Leave every pixel outside the mask as it is.", "checkbox"],
  ["num_maps_per_mask", "Tries for the mask", "More tries give a steadier mask and take longer."],
  ["mask_encode_strength", "Noise for the mask", "How much noise the texts are compared under."],
  ["mask_thresholding_ratio", "Even out peaks", "Smaller numbers let weak differences count more."],
  ["method", "Method", "How the picture is edited.", METHODS],
  ["n_max", "Start level", "FlowEdit: a higher level changes more."],
  ["n_min", "End level", "FlowEdit: below this level, ordinary steps finish the picture."],
  ["n_avg", "Tries a step", "FlowEdit: more tries are steadier and slower."],
  ["source_guidance_scale", "Follow the first text", "FlowEdit: how closely, as above."],
  ["step_scale", "Size of the step", "ChordEdit: a larger step changes more."],
  ["refining_rows", "Sharpening steps", "ChordEdit: each one makes the result sharper."],
];

function inputOf(kind) {
  if (!Array.isArray(kind)) {
    const step = kind === "number" ? { step: "any" } : {};
    return Object.assign(document.createElement("input"), { type: kind, ...step });
  }
  const select = document.createElement("select");
  select.append(...kind.map(([value, text]) => new Option(text, value)));
  return select;
}

function fieldOf([name, label, hint, kind = "number"]) {
  const field = document.getElementById("optionTemplate").content.cloneNode(true).firstElementChild;
  const [labelElement, hintElement, errorElement] = field.children;
  const [hintId, errorId] = [`hint-${name}`, `error-${name}`];
  const input = Object.assign(inputOf(kind), { id: `option-${name}`, name });
  input.setAttribute("aria-describedby", `${hintId} ${errorId}`);
  Object.assign(labelElement, { htmlFor: input.id, textContent: label });
  Object.assign(hintElement, { id: hintId, textContent: hint });
  errorElement.id = errorId;
  errorElement.dataset.error = name;
  labelElement.after(input);
  if (kind === "checkbox") field.classList.add("check");
  if (name === "seed") input.after(document.getElementById("randomSeed"));
  return field;
}

document.getElementById("options").append(...OPTIONS.map(fieldOf));
