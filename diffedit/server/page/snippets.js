/**
 * An edit as a command or a program to copy, and the statistics of a finished edit as text.
 *
 * This module knows neither the page nor the server. An edit is { file, mask, fields, origin,
 * hasKey, model }: file names, form fields, and the server to send them to.
 */

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) =>
  typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
const each = (fields, format) => Object.entries(fields).map(([name, value]) => format(name, value));
const when = (condition, ...lines) => (condition ? lines : []);

/** Language -> function from an edit to a snippet. */
export const LANGUAGES = {
  curl: ({ file, mask, fields, origin, hasKey }) => [
    `curl -sS ${shell(`${origin}/v1/images/edits`)}`,
    ...when(hasKey, '-H "Authorization: Bearer $DIFFEDIT_API_KEY"'),
    `-F ${shell(`image=@${JSON.stringify(file)}`)}`,
    ...when(mask, `-F ${shell(`mask=@${JSON.stringify(mask)}`)}`, "-F mask_format=white"),
    ...each(fields, (name, value) => `--form-string ${shell(`${name}=${value}`)}`),
    "| jq -r '.data[0].b64_json' | base64 -d > edited.png",
  ].join(" \\\n  "),

  shell: ({ file, mask, fields }) => [
    `diffedit-trt edit ${shell(file)}`,
    ...each(fields, (name, value) => {
      const option = name.replaceAll("_", "-");
      if (typeof value === "boolean") return value ? `--${option}` : `--no-${option}`;
      return `--${option} ${typeof value === "number" ? value : shell(value)}`;
    }),
    ...when(mask, `--mask ${shell(mask ?? "")}`),
    "--model path/or/hub-id",
  ].join(" \\\n  "),

  python: ({ file, mask, fields: { prompt, ...more } }) => [
    "from diffedit import DiffEditPipeline",
    "",
    'pipe = DiffEditPipeline.from_pretrained("path/or/hub-id")',
    "result = pipe(",
    `    ${python(file)},`,
    `    ${python(prompt)},`,
    ...each(more, (name, value) => `    ${name}=${python(value)},`),
    ...when(mask, `    mask_image=${python(mask)},`),
    ")",
    'result.image.save("edited.png")',
  ].join("\n"),

  openai: ({ file, mask, fields: { prompt, ...more }, origin, hasKey, model }) => {
    const extra = { ...more, ...(mask && { mask_format: "white" }) };
    const body = each(extra, (name, value) => `"${name}": ${python(value)}`).join(", ");
    const key = hasKey ? 'os.environ["DIFFEDIT_API_KEY"]' : '"none"';
    return [
      "import base64, os",
      "from openai import OpenAI",
      "",
      `client = OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${key})`,
      "answer = client.images.edit(",
      `    model=${python(model)},`,
      `    image=open(${python(file)}, "rb"),`,
      ...when(mask, `    mask=open(${python(mask)}, "rb"),`),
      `    prompt=${python(prompt)},`,
      ...when(body, `    extra_body={${body}},`),
      ")",
      'with open("edited.png", "wb") as file:',
      "    file.write(base64.b64decode(answer.data[0].b64_json))",
    ].join("\n");
  },
};

/** Copy an element's text to the clipboard; returns a message for the user. */
export async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return "Copied";
  } catch { // without https there is no clipboard API
    getSelection().selectAllChildren(element);
    return "Selected; copy it with Ctrl+C";
  }
}

// -- statistics -----------------------------------------------------------------------------------

const STAGE_NAMES = {
  queue: "waiting", mask: "finding the mask", encode: "preparing", decode: "changing",
};
const COST_OPTIONS = ["preset", "method", "num_inference_steps", "strength", "guidance_scale", "num_maps_per_mask"];

export const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
export const percent = (share) =>
  share > 0 && share < 0.001 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`;

/** Statistics of a finished edit, as [name, value, detail]. */
export function statsOf({ timings, rows, denoiser, mask_share: share, seed, ...more }) {
  const outside = more.max_abs_diff_outside_mask;
  const stages = Object.keys(STAGE_NAMES).filter((name) => timings[name] >= 0.05);
  const detail = stages.map((name) => `${STAGE_NAMES[name]} ${seconds(timings[name])}`).join(", ");
  return [
    ["Time", seconds(timings.total), detail],
    ["Work of the model", `${rows[denoiser] ?? 0} passes`],
    ["Edited area", percent(share), "with its soft edge"],
    ["Changes outside the mask", outside ? `up to ${outside} of 255 levels` : "none"],
    ["Seed", String(seed)],
  ];
}

/** Describe how much less an edit cost than the first one of this image; "" if not comparable. */
export function speedupOf(edit, first) {
  const [rows, firstRows] = [edit, first].map(({ details }) => details.rows[details.denoiser]);
  const comparable = edit.recipe.hasMask === first.recipe.hasMask
    && COST_OPTIONS.every((name) => edit.recipe.fields[name] === first.recipe.fields[name]);
  if (!comparable || !(rows < firstRows)) return "";
  const factor = first.details.timings.total / edit.details.timings.total;
  const speed = factor > 1.05 ? `${factor.toFixed(1)} times as fast as the first edit: ` : "";
  return `${speed}${rows} passes instead of ${firstRows}, because the server remembers the picture.`;
}
