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

/** Run an operation on the object store, if the browser has one. */
async function withStore(operation) {
  try {
    const database = await (connection ?? connect());
    await operation(database.transaction("tabs", "readwrite").objectStore("tabs"));
  } catch {
    // A private window, or a full disk: the page works, but a reload loses its state.
  }
}

/**
 * Store values by name, for this tab.
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

/** Load the values of this tab by name. Deletes those of other tabs that are older than a day. */
export async function loadValues() {
  const values = {};
  await withStore(async (store) => {
    for (const key of await resultOf(store.getAllKeys())) {
      const { kept: value, at } = await resultOf(store.get(key));
      if (key[0] === tab) values[key[1]] = value;
      else if (Date.now() - at > DAY) store.delete(key);
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
