/**
 * The fields under "More settings": their labels, hints and choices, stated once, and how they are built.
 *
 * Ranges and defaults come from the server's API description and model, see api.js.
 */

const AUTOMATIC = ["", "automatic"];
const METHODS = [
  AUTOMATIC, ["diffedit", "DiffEdit: keeps the shapes in the mask"],
  ["masked-sdedit", "Masked SDEdit: freer in the mask"],
  ["sdedit", "SDEdit: changes the whole picture"],
  ["encode-decode", "DiffEdit without a mask"], ["flowedit", "FlowEdit"],
  ["chordedit", "ChordEdit: one step"],
];
const FOCUS = [AUTOMATIC, ["auto", "when it helps"], ["true", "always"], ["false", "never"]];

/** Name, label, hint, and choices or the type of the input (a number if nothing is said). */
const OPTIONS = [
  ["strength", "How far from the original", "Small numbers stay close; 1 may change everything."],
  ["guidance_scale", "Follow the text",
    "Higher numbers keep closer to your words; too high looks harsh."],
  ["num_inference_steps", "Steps", "More steps give finer results and take longer."],
  ["seed", "Seed", "Another number gives another result, the same number the same again."],
  ["negative_prompt", "Avoid", "What should not appear.", "text"],
  ["focus", "Work close up", "Edit a part around the mask, for sharp details in large pictures.",
    FOCUS],
  ["composite", "Keep the rest", "Leave everything outside the mask exactly as it is.", "checkbox"],
  ["num_maps_per_mask", "Comparisons for the mask",
    "How often your two texts are compared. More make a steadier mask and take longer."],
  ["mask_encode_strength", "Details or whole shapes",
    "For the mask: small numbers look for details, large ones for whole shapes."],
  ["mask_thresholding_ratio", "Weak differences",
    "For the mask: with smaller numbers, small differences between the texts count more."],
  ["method", "Method", "How the picture is changed.", METHODS],
  ["n_max", "How far it may change", "Larger numbers change more."],
  ["n_min", "Free steps at the end", "In these last steps the original is no longer looked at."],
  ["n_avg", "Repeats of each step", "More make a steadier result and take longer."],
  ["source_guidance_scale", "Follow the first text", "The same for the text of what is there."],
  ["step_scale", "Size of the step", "A larger step changes more."],
  ["refining_rows", "Sharpening steps", "Each one makes the result sharper."],
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
