// Elements made in code: never from strings of HTML, so that no name of a voice or file can become markup.

/** The path of the whole site, `/voices` say, where a proxy publishes it below one; else empty. */
export const root = document.body.dataset.root;

/** A path of this site as the browser must ask for it; other addresses unchanged. */
export const at = (address) => (address.startsWith("/") ? root + address : address);

const URLS = new Set(["href", "src"]);

/** `h("a", { href, class, onclick }, ...children)`; null children are left out, texts become text nodes. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : URLS.has(name) ? at(value) : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Set a text only if it differs: a selection, or a screen reader's position, is kept. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Render `items` as a list's children in their order, reusing the elements of known keys. */
export function keyed(list, items, keyOf, make, update) {
  const present = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = present.get(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    present.delete(key);
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else list.insertBefore(child, place);
  }
  for (const left of present.values()) left.remove();
}
