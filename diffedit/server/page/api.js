/**
 * The client of the server's API: requests, API keys, errors, masks, edits and jobs.
 *
 * This module knows the key dialog. It does not know how images, masks and results are shown.
 */

import { blobOf } from "/pictures.js";

const RETRY_STATUSES = [429, 503];
const IMAGE_TYPES = ["image/png", "image/jpeg", "image/webp"];
const STAGE_TEXTS = {
  queued: "Waiting", running: "Starting", mask: "Finding the mask",
  encode: "Preparing the picture", decode: "Changing the picture", writing: "Saving the result",
};
const MASK_FIELDS = [
  "prompt", "source_prompt", "preset", "method", "num_inference_steps", "seed",
  "num_maps_per_mask", "mask_encode_strength", "mask_thresholding_ratio",
];
const PREVIEW_SIDE = 1280; // of the masks that the page displays, in pixels

const [keyDialog, keyInput, keyError] = ["keyDialog", "key", "keyError"].map((id) =>
  document.getElementById(id));

/** An error with a message for the user; `param` is the name of the invalid field, or null. */
export class Problem extends Error {
  constructor(message, { status = 0, param = null, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, param, retryAfter });
  }
}

/** Wait some seconds. Rejects at once if the signal is aborted. */
async function pause(seconds, signal) {
  await new Promise((resolve) => {
    setTimeout(resolve, 1000 * seconds);
    signal.onabort = resolve;
  });
  signal.throwIfAborted();
}

// -- requests -------------------------------------------------------------------------------------

/** Send a request and return the successful response. Throws a Problem; asks for a key on 401. */
async function request(path, { headers, ...more } = {}) {
  const key = sessionStorage.getItem("key");
  const authorized = { ...headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...more, headers: authorized }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Check that it is running and you are online.");
  });
  if (response.ok) return response;
  if (response.status !== 401) throw await problemOf(response);
  if (sessionStorage.getItem("key") === key) await askForKey(key !== null);
  return request(path, { headers, ...more });
}

async function problemOf(response) {
  const { error } = await response.json().catch(() => ({}));
  return new Problem(error?.message ?? `The server responded with status ${response.status}.`, {
    status: response.status,
    param: error?.param,
    retryAfter: Number(response.headers.get("Retry-After")),
  });
}

export const getJson = async (path) => (await request(path)).json();

/**
 * Send a form and return the JSON response. If the server is busy, retry after `Retry-After` until
 * it accepts the form or the signal is aborted. `onWait` receives the seconds left, 0 at the end.
 */
async function postForm(path, fields, files, { signal, onWait }) {
  const body = new FormData();
  Object.entries(fields).forEach(([name, value]) => body.append(name, value));
  Object.entries(files).forEach(([name, file]) => body.append(name, file, name));
  const headers = { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
  for (;;) {
    try {
      return await (await request(path, { method: "POST", body, headers, signal })).json();
    } catch (problem) {
      if (!RETRY_STATUSES.includes(problem.status) || !problem.retryAfter) throw problem;
      for (let left = problem.retryAfter; left > 0; left--) {
        onWait(left);
        await pause(1, signal);
      }
      onWait(0);
    }
  }
}

let keyRequest = null;

export const hasKey = () => sessionStorage.getItem("key") !== null;

/** Show the key dialog, once for concurrent requests. Throws a Problem if it is closed. */
function askForKey(refused) {
  keyError.textContent = refused ? "The server does not know this key." : "";
  keyRequest ??= new Promise((resolve, reject) => {
    keyDialog.returnValue = keyInput.value = "";
    keyDialog.showModal();
    keyDialog.onclose = () => {
      keyRequest = null;
      if (keyDialog.returnValue) resolve(sessionStorage.setItem("key", keyInput.value.trim()));
      else reject(new Problem("This server needs an API key.", { status: 401 }));
    };
  });
  return keyRequest;
}

// -- masks and edits ------------------------------------------------------------------------------

/**
 * Find the mask; returns { response, prompts }: the texts it was found with.
 *
 * `start`: the picture to edit, { image, editId }: a file, and the id of the edit that made it.
 */
export async function findMask(fields, start, work) {
  const names = MASK_FIELDS.filter((name) => name in fields);
  const sent = Object.fromEntries(names.map((name) => [name, fields[name]]));
  const shown = { preview_side: PREVIEW_SIDE };
  const response = await postEdit("/v1/masks", { ...sent, ...shown }, start, null, work);
  return { response, prompts: [sent.source_prompt, sent.prompt] };
}

/** Make another mask of the same heatmap; no network runs. */
export async function refineMask(maskId, shape) {
  const body = new URLSearchParams({ ...shape, preview_side: PREVIEW_SIDE });
  try {
    return await (await request(`/v1/masks/${maskId}`, { method: "POST", body })).json();
  } catch (error) {
    if (error.status !== 404) throw error;
    const message = "The server no longer has this mask; find it again to use these controls.";
    throw new Problem(message, { status: 404, param: "mask_id" });
  }
}

/** Let the server read a mask file for a picture; returns { mask, warnings }, the mask as a Blob. */
export async function readMask(file, { width, height }, work) {
  const { mask, warnings } = await postForm("/v1/masks/read", { width, height }, { mask: file }, work);
  return { mask: blobOf(mask), warnings };
}

/**
 * Start an edit and return the job's id. `mask`: { id, encode }: the id of the mask or null, and a
 * function that encodes it; null lets the server find one. `start` as for `findMask`.
 */
export async function submitEdit(fields, start, mask, work) {
  const more = { partial_images: 3, output_format: "png" };
  return (await postEdit("/v1/jobs", { ...fields, ...more }, start, mask, work)).id;
}

/** Send a form with ids where the server has the pictures, and with files where it does not. */
async function postEdit(path, fields, { image, editId }, mask, work) {
  let [previousId, maskId] = [editId, mask?.id];
  for (;;) {
    const files = { ...(!previousId && { image }) };
    const form = { ...fields, ...(previousId && { previous_edit_id: previousId }) };
    if (maskId) form.mask_id = maskId;
    else if (mask) Object.assign(files, { mask: await mask.encode() });
    if (mask && !maskId) form.mask_format = "white";
    try {
      return await postForm(path, form, files, work);
    } catch (error) { // results expire: the browser still has the pictures
      if (previousId && error.param === "previous_edit_id") previousId = null;
      else if (maskId && error.param === "mask_id") maskId = null;
      else throw error;
    }
  }
}

export const cancelJob = (job) => request(`/v1/jobs/${job}`, { method: "DELETE" });

/** Wait for a job; returns { image, mask, details } of each edit. `onUpdate`: see followJob. */
export async function waitForResult(job, signal, onUpdate) {
  const path = `/v1/jobs/${job}`;
  try {
    const { state, error } = await followJob(path, signal, onUpdate);
    if (state === "cancelled") throw new DOMException("Cancelled.", "AbortError");
    if (error) throw new Problem(error.message, error);
    const { data } = await getJson(path);
    const fileOf = async (name, index) =>
      (await request(`${path}/${name}?index=${index}`)).blob();
    return await Promise.all(data.map(async (details, index) => {
      const [image, mask] = await Promise.all([fileOf("image", index), fileOf("mask", index)]);
      return { image, mask, details };
    }));
  } catch (error) {
    if (error.status !== 404) throw error;
    throw new Problem("The server no longer has this edit. It may have been restarted; try again.");
  }
}

/**
 * Read a job's events to the end, reconnecting as often as necessary; returns the last payload.
 * `onUpdate` receives the changed values among { text, progress, position, preview }.
 */
async function followJob(path, signal, onUpdate) {
  for (let lastId = null, failures = 0; ;) {
    try {
      const headers = lastId && { "Last-Event-ID": lastId };
      const { body } = await request(`${path}/events`, { headers, signal });
      for await (const { id, event, data } of readEvents(body)) {
        [lastId, failures] = [id, 0];
        if (event === "done") return data;
        onUpdate(UPDATES[event](data));
      }
    } catch (error) {
      if (error.name === "AbortError" || (error.status && error.status < 500)) throw error;
    }
    failures += 1;
    if (failures > 1) onUpdate({ text: "Connection lost, reconnecting" });
    await pause(Math.min(8, 2 ** failures / 4), signal);
  }
}

const UPDATES = {
  state: ({ state, position }) => ({ text: STAGE_TEXTS[state], position }),
  progress: ({ stage, progress }) => ({ text: STAGE_TEXTS[stage] ?? stage, progress, position: 0 }),
  preview: ({ image }) => ({ preview: `data:image/png;base64,${image}` }),
};

/** Parse the server-sent events of a response body into { id, event, data }. */
async function* readEvents(body) {
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

// -- the server's model and limits ----------------------------------------------------------------

let limits = {}; // from /v1/models; until they are loaded, only the server checks them

/** Return the served model, and load the limits. */
export async function servedModel() {
  const response = await getJson("/v1/models");
  limits = response.limits;
  return response.data[0];
}

/** Read a file as { blob, name, width, height }. Throws a Problem if the server would refuse it. */
export async function readPhoto(file) {
  const name = file.name || "image.png";
  const refuse = (reason) => { throw new Problem(`${name} ${reason}`, { param: "image" }); };
  const checkLimit = (value, limit, unit) => {
    const size = `has ${Number(value.toFixed(1))} ${unit}`;
    if (value > limit) refuse(`${size}, but the limit is ${limit} ${unit}; scale it down.`);
  };
  if (!IMAGE_TYPES.includes(file.type)) {
    refuse("is neither PNG, JPEG nor WebP; convert it to one of them.");
  }
  checkLimit(file.size / 1e6, limits.max_body_bytes / 1e6, "MB");
  const image = Object.assign(new Image(), { src: URL.createObjectURL(file) });
  await image.decode().catch(() => refuse("is damaged; save it again."));
  const { naturalWidth: width, naturalHeight: height } = image;
  checkLimit((width * height) / 1e6, limits.max_pixels / 1e6, "megapixels");
  checkLimit(Math.max(width, height), limits.max_side, "pixels per side");
  return { blob: file, name, width, height };
}
