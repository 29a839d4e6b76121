// Makes elements. Text always becomes a text node, so nothing that is passed in can become markup.

import { t } from "./i18n.js";

/** An element: `properties` are attributes, except on* (listeners), `text` (an i18n key), `label` and `values` (see i18n). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  const { text, label, hint, values, ...rest } = properties;
  if (values) element.dataset.values = JSON.stringify(values);
  if (text) {
    element.dataset.text = text;
    element.textContent = t(text, values);
  }
  if (label) {
    element.dataset.label = label;
    element.setAttribute("aria-label", t(label, values));
    if (tag === "button") element.title = t(label, values);
  }
  if (hint) {
    element.dataset.hint = hint;
    element.placeholder = t(hint, values);
  }
  for (const [name, value] of Object.entries(rest)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Change which i18n text an element shows. */
export function setText(element, key, values = {}) {
  element.dataset.text = key;
  element.dataset.values = JSON.stringify(values);
  element.textContent = t(key, values);
}

export const button = (text, onclick, properties = {}) => make("button", { type: "button", text, onclick, ...properties });

/** An icon button: a glyph that screen readers skip, and a name. */
export const icon = (glyph, label, onclick, properties = {}) =>
  make("button", { type: "button", class: "icon", label, onclick, ...properties }, make("span", { "aria-hidden": "true" }, glyph));

/** Copy text; true if it worked. Without HTTPS browsers offer no clipboard API, so the old way stays as a second one. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { class: "hidden-visually", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    try {
      return document.execCommand("copy");
    } finally {
      area.remove();
    }
  }
}

/** A button that copies what `text()` gives, and says whether it did. */
export function copyButton(key, text) {
  const element = button(key, async () => {
    setText(element, (await copy(text())) ? "chat.copied" : "chat.copy.failed");
    setTimeout(() => setText(element, key), 1500);
  }, { class: "quiet" });
  return element;
}
