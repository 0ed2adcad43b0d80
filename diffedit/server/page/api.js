/**
 * The server: what its form takes, requests and their keys, errors in sentences, jobs.
 *
 * Of the page this knows the fields that the server describes and the dialog that asks for a key;
 * of what is edited, and of how anything is shown, it knows nothing.
 */

const BUSY = [429, 503];
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const STAGES = {
  queued: "Waiting", running: "Starting", mask: "Finding the place",
  encode: "Encoding the picture", decode: "Repainting", writing: "Writing",
};
const FINDING = [
  "num_maps_per_mask", "mask_encode_strength", "mask_thresholding_ratio", "mask_dilation",
];
const FOUND_BY = ["prompt", "source_prompt", "num_inference_steps", "seed", ...FINDING];

const [ask, options, dialog, keyInput, keyError] = [
  "ask", "options", "keyDialog", "key", "keyError",
].map((id) => document.getElementById(id));

/** What went wrong, in a sentence for people; `param` names the field that is to blame. */
export class Problem extends Error {
  constructor(message, { status = 0, param = null, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, param, retryAfter });
  }
}

async function pause(seconds, signal) {
  await new Promise((over) => {
    setTimeout(over, 1000 * seconds);
    signal.onabort = over;
  });
  signal.throwIfAborted();
}

// -- requests -------------------------------------------------------------------------------------

/** A successful response; everything else is raised as a Problem. Asks for the key if need be. */
async function call(path, { headers, ...more } = {}) {
  const key = sessionStorage.getItem("key");
  const authorized = { ...headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...more, headers: authorized }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Is it running, and are you online?");
  });
  if (response.ok) return response;
  if (response.status !== 401) throw await problemOf(response);
  if (sessionStorage.getItem("key") === key) await askForKey(key !== null);
  return call(path, { headers, ...more });
}

async function problemOf(response) {
  const { error } = await response.json().catch(() => ({}));
  return new Problem(error?.message ?? `The server answered ${response.status}.`, {
    status: response.status,
    param: error?.param,
    retryAfter: Number(response.headers.get("Retry-After")),
  });
}

const told = async (path) => (await call(path)).json();

/**
 * The answer to a form. What a busy server refuses is repeated, when it says so, until it is served
 * or stopped; `waits` is told the seconds that are left.
 */
async function post(path, fields, files, { signal, waits }) {
  const body = new FormData();
  Object.entries(fields).forEach(([name, value]) => body.append(name, value));
  Object.entries(files).forEach(([name, file]) => body.append(name, file, name));
  const headers = { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
  for (;;) {
    try {
      return await (await call(path, { method: "POST", body, headers, signal })).json();
    } catch (problem) {
      if (!BUSY.includes(problem.status) || !problem.retryAfter) throw problem;
      for (let left = problem.retryAfter; left > 0; left--) {
        waits(left);
        await pause(1, signal);
      }
      waits(0);
    }
  }
}

let keyAsked = null;

export const hasKey = () => sessionStorage.getItem("key") !== null;

/** Show the dialog once, whoever asks; done when a key was given, a Problem when none was. */
function askForKey(refused) {
  keyError.textContent = refused ? "That key is not known here." : "";
  keyAsked ??= new Promise((resolve, reject) => {
    dialog.returnValue = keyInput.value = "";
    dialog.showModal();
    dialog.onclose = () => {
      keyAsked = null;
      if (dialog.returnValue) resolve(sessionStorage.setItem("key", keyInput.value.trim()));
      else reject(new Problem("This server asks for a key.", { status: 401 }));
    };
  });
  return keyAsked;
}

// -- places and edits -----------------------------------------------------------------------------

/** Where the server would edit: its answer, how far that was grown, and the texts it is for. */
export async function findPlace(fields, image, work) {
  const names = FOUND_BY.filter((name) => name in fields);
  const asked = Object.fromEntries(names.map((name) => [name, fields[name]]));
  const answer = await post("/v1/masks", asked, { image }, work);
  const { source_prompt: before, prompt: after, mask_dilation: dilation = 0 } = asked;
  return { answer, dilation, texts: [before, after] };
}

/** Begin an edit, under a mask or where the server finds the place; returns the job's id. */
export async function submit(fields, image, mask, work) {
  const more = { partial_images: 3, output_format: "png", ...(mask && { mask_format: "white" }) };
  const files = { image, ...(mask && { mask }) };
  const { id } = await post("/v1/jobs", { ...fields, ...more }, files, work);
  return id;
}

/** Stop a job. */
export const cancel = (job) => call(`/v1/jobs/${job}`, { method: "DELETE" });

/** See a job through; returns its two pictures and its figures. `heed`: see follow. */
export async function outcome(job, signal, heed) {
  const path = `/v1/jobs/${job}`;
  try {
    const { state, error } = await follow(path, signal, heed);
    if (state === "cancelled") throw new DOMException("Stopped.", "AbortError");
    if (error) throw new Problem(error.message, error);
    const pictures = ["image", "mask"].map(async (name) => (await call(`${path}/${name}`)).blob());
    const [image, mask] = await Promise.all(pictures);
    const { data: [figures] } = await told(path);
    return { image, mask, figures };
  } catch (error) {
    if (error.status !== 404) throw error;
    throw new Problem("The server no longer knows this edit; it may have been restarted.");
  }
}

/**
 * Hear of a job to its end, over as many connections as it takes; returns the last event's data.
 * `heed` is told what changes: { words, share, position, preview }.
 */
async function follow(path, signal, heed) {
  for (let last = null, failures = 0; ;) {
    try {
      const headers = last && { "Last-Event-ID": last };
      const { body } = await call(`${path}/events`, { headers, signal });
      for await (const { id, event, data } of eventsOf(body)) {
        [last, failures] = [id, 0];
        if (event === "done") return data;
        heed(NEWS[event](data));
      }
    } catch (error) {
      if (error.name === "AbortError" || (error.status && error.status < 500)) throw error;
    }
    failures += 1;
    if (failures > 1) heed({ words: "Connection lost, trying again" });
    await pause(Math.min(8, 2 ** failures / 4), signal);
  }
}

const NEWS = {
  state: ({ state, position }) => ({ words: STAGES[state], position }),
  progress: ({ stage, progress: share }) => ({ words: STAGES[stage] ?? stage, share, position: 0 }),
  preview: ({ image }) => ({ preview: `data:image/png;base64,${image}` }),
};

/** Server-sent events of a response's body, as { id, event, data }. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value.replaceAll("\r", "")).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = [...block.matchAll(/^(\w+): ?(.*)$/gm)];
      const { id, event, data } = Object.fromEntries(lines.map((line) => line.slice(1)));
      if (data) yield { id, event, data: JSON.parse(data) };
    }
  }
}

// -- what it is and takes -------------------------------------------------------------------------

let limits = {}; // of /v1/models; until they are told, the server itself refuses

/** The model that is served. */
export async function servedModel() {
  const { data: [model], limits: most } = await told("/v1/models");
  limits = most;
  return model;
}

/** A file as { blob, name, width, height }; a Problem where the server would not take it. */
export async function pictureOf(file) {
  const name = file.name || "picture.png";
  const refuse = (why) => { throw new Problem(`${name} ${why}`, { param: "image" }); };
  const measure = (size, most, unit) => {
    const has = `has ${Number(size.toFixed(1))} ${unit}`;
    if (size > most) refuse(`${has}, but at most ${most} ${unit} are taken; scale it down.`);
  };
  if (!TYPES.includes(file.type)) refuse("is neither PNG, JPEG nor WebP; save it as one of them.");
  measure(file.size / 1e6, limits.max_body_bytes / 1e6, "MB");
  const image = Object.assign(new Image(), { src: URL.createObjectURL(file) });
  await image.decode().catch(() => refuse("is damaged; save it again."));
  const { naturalWidth: width, naturalHeight: height } = image;
  measure((width * height) / 1e6, limits.max_pixels / 1e6, "megapixels");
  measure(Math.max(width, height), limits.max_side, "pixels a side");
  return { blob: file, name, width, height };
}

/** Defaults, ranges and sentences of the options, as the server states them. */
export async function describeOptions() {
  const { paths } = await told("/openapi.json");
  const { content } = paths["/v1/images/edits"].post.requestBody;
  const fields = content["multipart/form-data"].schema.properties;
  for (const input of options.querySelectorAll("input")) {
    const field = fields[input.name];
    document.getElementById(`hint-${input.name}`).textContent = field.description;
    if (input.type === "checkbox") input.defaultChecked = field.default;
    if (input.type === "number") Object.assign(input, rangeOf(field));
  }
}

/** What a number may be, for its input; the title says it in words. */
function rangeOf({ type, minimum, exclusiveMinimum, maximum, default: placeholder }) {
  const [kind, step] = type === "integer" ? ["a whole number", 1] : ["a number", "any"];
  const min = minimum ?? exclusiveMinimum;
  const max = Math.min(maximum, Number.MAX_SAFE_INTEGER);
  const range = minimum === undefined ? `above ${min} and at most ${max}` : `from ${min} to ${max}`;
  return { min, max, step, placeholder, title: `${kind} ${range}` };
}

/** What was written and chosen, for an edit under a given mask or a found one. */
export function chosen(masked) {
  const fields = {};
  for (const { name, type, value, checked, defaultChecked } of ask.elements) {
    if (!name || (masked && FINDING.includes(name))) continue;
    if (type === "checkbox" && checked !== defaultChecked) fields[name] = checked;
    if (type === "number" && value) fields[name] = Number(value);
    if (type.startsWith("text") && value.trim()) fields[name] = value.trim();
  }
  return fields;
}

/** The same, or a Problem where the server would not take it. */
export function parameters(masked) {
  const fields = chosen(masked);
  if (!fields.prompt) throw new Problem("Say what should be there.", { param: "prompt" });
  const wrong = options.querySelector("input:invalid");
  if (!wrong) return fields;
  const [label] = wrong.labels;
  const must = `${label.textContent} must be ${wrong.title || "a number"}.`;
  throw new Problem(must, { param: wrong.name });
}
