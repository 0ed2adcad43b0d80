/**
 * The texts to copy: an edit as a command or as a program; and its figures in words.
 *
 * Data in, text out: this knows neither the page nor the server. An edit is told as { file, mask,
 * fields, origin, keyed, model }: names of files, fields of the form, and where they would be sent.
 */

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (value) =>
  typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
const each = (fields, said) => Object.entries(fields).map(([name, value]) => said(name, value));
const when = (condition, ...lines) => (condition ? lines : []);

/** The same edit in other words, by their language. */
export const LANGUAGES = {
  curl: ({ file, mask, fields, origin, keyed }) => [
    `curl -sS ${shell(`${origin}/v1/images/edits`)}`,
    ...when(keyed, '-H "Authorization: Bearer $DIFFEDIT_API_KEY"'),
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

  openai: ({ file, mask, fields: { prompt, ...more }, origin, keyed, model }) => {
    const extra = { ...more, ...(mask && { mask_format: "white" }) };
    const body = each(extra, (name, value) => `"${name}": ${python(value)}`).join(", ");
    const key = keyed ? 'os.environ["DIFFEDIT_API_KEY"]' : '"none"';
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

/** Copy an element's text; returns what became of it, in words. */
export async function copyText(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return "Copied";
  } catch { // no clipboard without https: then by hand
    getSelection().selectAllChildren(element);
    return "Selected; copy it with Ctrl+C";
  }
}

// -- figures --------------------------------------------------------------------------------------

const SPANS = { queue: "queue", mask: "place", encode: "encoding", decode: "repainting" };
const ALIKE = ["num_inference_steps", "strength", "guidance_scale", "num_maps_per_mask"];

export const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
export const percent = (share) =>
  share > 0 && share < 0.001 ? "under 0.1 %" : `${(100 * share).toFixed(1)} %`;

/** Of a finished edit, as [name, value, detail]. */
export function figuresOf({ timings, rows, mask_share: share, seed, ...more }) {
  const outside = more.max_abs_diff_outside_mask;
  const spans = Object.keys(SPANS).filter((name) => timings[name] >= 0.05);
  const detail = spans.map((name) => `${SPANS[name]} ${seconds(timings[name])}`).join(", ");
  return [
    ["Time", seconds(timings.total), detail],
    ["Rows of the UNet", String(rows.unet ?? 0)],
    ["Repainted", percent(share)],
    ["Pixels changed outside the mask", outside ? `by up to ${outside} of 255` : "0"],
    ["Seed", String(seed)],
  ];
}

/** How much less an edit took than the first one of this picture, where they compare. */
export function gainOf(edit, first) {
  const [rows, before] = [edit.figures.rows.unet, first.figures.rows.unet];
  const compares = edit.recipe.masked === first.recipe.masked
    && ALIKE.every((name) => edit.recipe.parameters[name] === first.recipe.parameters[name]);
  if (!compares || !(rows < before)) return "";
  const times = first.figures.timings.total / edit.figures.timings.total;
  const speed = times > 1.05 ? `${times.toFixed(1)} times as fast as the first edit: ` : "";
  return `${speed}${rows} rows instead of ${before}, for the picture was known.`;
}
