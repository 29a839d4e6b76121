// One to five stars and a comment for one answer.

import * as api from "./api.js";
import { announce } from "./announcer.js";
import { button, make } from "./dom.js";
import { t } from "./i18n.js";
import { errorBox } from "./messages.js";

let count = 0;

export function ratingForm(requestId) {
  const group = `rating-${(count += 1)}`;
  const form = make("form", { class: "rating" });
  const legend = make("legend", { text: "rating.title" });
  const more = make("div", { class: "more", hidden: true });
  const shown = () => {
    more.hidden = false;
    more.scrollIntoView({ block: "nearest" });
  };
  // Radio buttons: arrow keys and screen readers work by themselves.
  const stars = [1, 2, 3, 4, 5].map((n) => {
    const radio = make("input", { type: "radio", name: group, value: n, label: "rating.star", values: { n }, onchange: () => shown() });
    return make("label", { class: "star" }, radio, make("span", { "aria-hidden": "true" }, "★"));
  });
  const comment = make("textarea", { rows: 2, maxlength: 2000, label: "rating.comment", hint: "rating.comment" });
  const problem = make("div");
  const send = make("button", { class: "primary", text: "rating.send" });
  more.append(comment, send);
  form.append(make("fieldset", {}, legend, make("div", { class: "stars" }, ...stars)), more, problem);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const n = Number(new FormData(form).get(group));
    send.disabled = true;
    problem.replaceChildren();
    try {
      await api.rate(requestId, n, comment.value.trim());
      form.replaceWith(make("p", { class: "thanks", text: "rating.thanks", values: { n } }));
      announce(t("rating.thanks", { n }));
    } catch (error) {
      send.disabled = false;
      problem.replaceChildren(errorBox(error));
    }
  });
  return form;
}

/** A button that asks for a person; `opened` gets the hand-off. */
export function personButton(requestId, opened) {
  const problem = make("div");
  const ask = button("chat.person", async () => {
    ask.disabled = true;
    problem.replaceChildren();
    try {
      opened(await api.askForPerson(requestId));
      ask.remove();
    } catch (error) {
      ask.disabled = false;
      problem.replaceChildren(errorBox(error));
    }
  }, { class: "quiet" });
  return [ask, problem];
}
