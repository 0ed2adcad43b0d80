/**
 * What outlives a reload of this tab: pictures and results in IndexedDB, texts in sessionStorage.
 *
 * This knows neither what it keeps nor what becomes of it: names and values in, the same out.
 */

const DAY = 86_400_000;
const tab = sessionStorage.getItem("tab") ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
sessionStorage.setItem("tab", tab);

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Do something with the store of this browser, if it has one. */
async function stored(change) {
  try {
    const base = await settled(Object.assign(indexedDB.open("diffedit"), {
      onupgradeneeded: ({ target }) => target.result.createObjectStore("tabs"),
    }));
    await change(base.transaction("tabs", "readwrite").objectStore("tabs"));
  } catch {
    // a private window, or no room: the page works, only a reload forgets
  }
}

/** Keep values for this tab under their names. */
export function keep(values) {
  return stored((store) => Promise.all(Object.entries(values).map(([name, kept]) =>
    settled(store.put({ kept, at: Date.now() }, [tab, name])))));
}

/** All that this tab held, by name; what others left a day ago is forgotten. */
export async function recall() {
  const values = {};
  await stored(async (store) => {
    for (const key of await settled(store.getAllKeys())) {
      const { kept, at } = await settled(store.get(key));
      if (key[0] === tab) values[key[1]] = kept;
      else if (Date.now() - at > DAY) store.delete(key);
    }
  });
  return values;
}

// -- what is small, and there at once -------------------------------------------------------------

/** Note something by a name; undefined forgets it. */
export function note(name, value) {
  if (value === undefined) sessionStorage.removeItem(name);
  else sessionStorage.setItem(name, JSON.stringify(value));
}

export const noted = (name) => JSON.parse(sessionStorage.getItem(name) ?? "null");

/** Note what stands in a form's named fields. */
export function noteForm(form) {
  const fields = [...form.elements].filter(({ name, type }) => name && type !== "radio");
  const values = fields.map((field) => [field.name, field[holding(field)]]);
  note("form", Object.fromEntries(values));
}

export function recallForm(form) {
  for (const [name, value] of Object.entries(noted("form") ?? {})) {
    const field = form.elements[name];
    if (field) field[holding(field)] = value;
  }
}

const holding = ({ type }) => (type === "checkbox" ? "checked" : "value");
