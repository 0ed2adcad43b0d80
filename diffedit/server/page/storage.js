/**
 * State that survives a reload of the tab: images in IndexedDB, texts in sessionStorage.
 *
 * This module stores values by name and does not know what they mean.
 */

const DAY = 86_400_000;
const tab = sessionStorage.getItem("tab") ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
sessionStorage.setItem("tab", tab);

// -- IndexedDB ------------------------------------------------------------------------------------

/** Convert an IndexedDB request to a promise. */
function resultOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

let connection = null; // a promise; kept open, so that storing begins at once

function connect() {
  const opening = Object.assign(indexedDB.open("diffedit"), {
    onupgradeneeded: ({ target }) => target.result.createObjectStore("tabs"),
  });
  connection = resultOf(opening).then((database) => Object.assign(database, {
    onclose: () => { connection = null; }, // the user has deleted the site's data
  }));
  return connection;
}

/** Run an operation on the object store. Returns whether the browser has one and it succeeded. */
async function withStore(operation) {
  try {
    const database = await (connection ?? connect());
    await operation(database.transaction("tabs", "readwrite").objectStore("tabs"));
    return true;
  } catch {
    return false; // a private window, or a full disk: the page works, but a reload loses its state
  }
}

/**
 * Store values by name, for this tab. Returns whether they were stored.
 *
 * All is handed to the browser before the next frame is drawn: what the page shows survives a
 * reload, however soon it comes.
 */
export function storeValues(values) {
  return withStore((store) => {
    const stored = Object.entries(values).map(([name, value]) =>
      resultOf(store.put({ kept: value, at: Date.now() }, [tab, name])));
    store.transaction.commit();
    return Promise.all(stored);
  });
}

/** Delete the values of this tab whose names begin with a text. */
export function deleteValues(prefix) {
  const range = IDBKeyRange.bound([tab, prefix], [tab, `${prefix}\uffff`]);
  return withStore((store) => resultOf(store.delete(range)));
}

/** Load the values of this tab by name. Deletes those of tabs that stored nothing for a day. */
export async function loadValues() {
  const values = {};
  const newest = {}; // by tab
  await withStore(async (store) => {
    const keys = await resultOf(store.getAllKeys());
    for (const [owner, name] of keys) {
      const { kept: value, at } = await resultOf(store.get([owner, name]));
      newest[owner] = Math.max(newest[owner] ?? 0, at);
      if (owner === tab) values[name] = value;
    }
    for (const key of keys) {
      if (key[0] !== tab && Date.now() - newest[key[0]] > DAY) store.delete(key);
    }
  });
  return values;
}

// -- sessionStorage -------------------------------------------------------------------------------

/** Store a small value by name; undefined removes it. */
export function storeItem(name, value) {
  if (value === undefined) sessionStorage.removeItem(name);
  else sessionStorage.setItem(name, JSON.stringify(value));
}

export const loadItem = (name) => JSON.parse(sessionStorage.getItem(name) ?? "null");

/** Store the values of a form's named fields. */
export function storeForm(form) {
  const fields = [...form.elements].filter(({ name, type, checked }) =>
    name && name !== "tool" && (type !== "radio" || checked));
  const values = fields.map((field) => [field.name, field[valueProperty(field)]]);
  storeItem("form", Object.fromEntries(values));
}

export function loadForm(form) {
  for (const [name, value] of Object.entries(loadItem("form") ?? {})) {
    const field = form.elements[name];
    if (field) field[valueProperty(field)] = value;
  }
}

const valueProperty = ({ type }) => (type === "checkbox" ? "checked" : "value");
