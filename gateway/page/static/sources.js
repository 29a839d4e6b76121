// The articles that an answer rests on: their list under it, and the dialog that shows one.

import * as api from "./api.js";
import { icon, make } from "./dom.js";
import { t } from "./i18n.js";
import { render } from "./markdown.js";
import { sentence } from "./messages.js";

/** The [n] of an answer as a button, or null where the answer has no such source. */
export function marker(citations) {
  return (number) => {
    const citation = citations.find((each) => each.number === number);
    if (!citation) return null;
    return make("button", {
      type: "button", class: "citation", label: "sources.open", values: { number, title: citation.title }, onclick: () => open(citation),
    }, String(number));
  };
}

export function sourceList(citations) {
  const items = citations.map((citation) =>
    make("li", { value: citation.number },
      make("button", { type: "button", class: "source", onclick: () => open(citation) }, citation.title || citation.article_id),
      typeof citation.support === "number"
        ? make("span", { class: "support", text: "sources.support", values: { percent: Math.round(citation.support * 100) } })
        : null),
  );
  return make("section", { class: "sources", label: "sources.title" }, make("h3", { text: "sources.title" }), make("ol", {}, ...items));
}

async function open(citation) {
  const body = make("div", { class: "article" }, make("p", { text: "sources.loading" }));
  const title = make("h2", { id: "article-title" }, `[${citation.number}] ${citation.title || citation.article_id}`);
  const dialog = make("dialog", { class: "reader", "aria-labelledby": "article-title" });
  dialog.append(icon("×", "dialog.close", () => dialog.close()), title, body);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const text = citation.text ?? (await api.article(citation.article_id)).text;
    body.replaceChildren(render(text));
  } catch (error) {
    body.replaceChildren(make("p", { class: "problem", role: "alert" }, t("sources.missing", { why: sentence(error) })));
  }
}
