// One answer: grows while it streams, then gets its sources, confidence, actions and rating.

import { Reader, announce } from "./announcer.js";
import { button, copyButton, make } from "./dom.js";
import { t } from "./i18n.js";
import { render } from "./markdown.js";
import { errorBox } from "./messages.js";
import { personButton, ratingForm } from "./rating.js";
import { marker, sourceList } from "./sources.js";

export class AnswerView {
  text = "";
  element;
  #body = make("div", { class: "text" });
  #foot = make("div", { class: "foot" });
  #reader = new Reader();
  #frame = 0;

  constructor() {
    const waiting = make("p", { class: "waiting", text: "chat.thinking" });
    this.#body.append(waiting);
    this.element = make("article", { class: "turn assistant streaming", label: "chat.assistant", "aria-busy": "true" }, this.#body, this.#foot);
  }

  /** Show `piece` after what is there; painted at most once per frame. */
  append(piece) {
    this.text += piece;
    this.#frame ||= requestAnimationFrame(() => this.#paint());
  }

  #paint(citations = []) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const scroller = this.element.closest(".log");
    const follows = scroller && scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
    if (this.text) this.#body.replaceChildren(render(this.text, marker(citations)));
    this.#reader.grow(this.text);
    if (follows) scroller.scrollTop = scroller.scrollHeight; // but leave somebody alone who scrolled up to read
  }

  #settle(citations) {
    this.#paint(citations);
    if (!this.text) this.#body.replaceChildren();
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
    this.#reader.end(this.text);
  }

  /** `done`: what the gateway says about the answer. `actions`: {regenerate, handoff}. */
  finish(done, actions) {
    const citations = done.citations ?? [];
    this.#settle(citations);
    if (!this.text) this.#body.append(make("p", { class: "note", text: "chat.empty" }));
    const note = { length: "chat.length", content_filter: "chat.filtered" }[done.finish];
    const parts = [note ? make("p", { class: "note", text: note }) : null];
    if (citations.length) parts.push(sourceList(citations));
    if (typeof done.confidence === "number") parts.push(confidence(done));
    const tools = [copyButton("chat.copy", () => this.text), button("chat.regenerate", actions.regenerate, { class: "quiet regenerate" })];
    if (done.request_id && !done.handoff) tools.push(...personButton(done.request_id, actions.handoff));
    parts.push(make("div", { class: "tools" }, ...tools));
    if (done.request_id) parts.push(ratingForm(done.request_id));
    this.#foot.replaceChildren(...parts.filter(Boolean));
    announce(t("chat.done"));
  }

  /** The customer stopped it: what came stays. */
  stop(regenerate) {
    this.#settle([]);
    this.#foot.replaceChildren(make("p", { class: "note", text: "chat.stopped" }),
      make("div", { class: "tools" }, this.text ? copyButton("chat.copy", () => this.text) : "", button("chat.regenerate", regenerate, { class: "quiet regenerate" })));
    announce(t("chat.stopped"));
  }

  fail(error, retry) {
    this.#settle([]);
    this.#foot.replaceChildren(errorBox(error, retry));
  }
}

/** A word and a bar: the number alone says little to a customer. */
function confidence({ confidence: value, cached, masked }) {
  const level = value >= 0.75 ? "high" : value >= 0.5 ? "medium" : "low";
  return make("p", { class: `confidence ${level}` },
    make("span", { text: "confidence.label" }), " ",
    make("meter", { min: 0, max: 1, low: 0.5, high: 0.75, optimum: 1, value, label: "confidence.label" }), " ",
    make("strong", { text: `confidence.${level}` }),
    cached ? make("span", { class: "badge", text: "chat.cached" }) : null,
    masked ? make("span", { class: "badge", text: "chat.masked" }) : null);
}
