// A hand-off as the customer sees it: a banner, and the agent's replies as they are written.

import * as api from "./api.js";
import { announce } from "./announcer.js";
import { make, setText } from "./dom.js";
import { clock, has, t } from "./i18n.js";
import { sentence } from "./messages.js";

const LONGEST_WAIT_MS = 15000;

export class HandoffView {
  #status = make("p", { class: "status", text: "handoff.waiting" });
  #reason = make("p");
  #replies = make("ol", { class: "replies" });
  #shown = 0;
  #stop = new AbortController();
  id;
  element;

  /** `handoff`: {handoff_id, reason, state, agent, replies}; only the id must be there. */
  constructor(handoff) {
    this.id = handoff.handoff_id;
    this.element = make("section", { class: "handoff", label: "handoff.title" },
      make("strong", { text: "handoff.title" }),
      this.#reason,
      this.#status,
      this.#replies);
    announce(t("handoff.title"));
    this.#explain(handoff.reason);
    this.#follow();
  }

  /** Stop listening; what is shown stays. */
  end() {
    this.#stop.abort();
  }

  async #follow() {
    let wait_ms = 500;
    while (!this.#stop.signal.aborted) {
      try {
        for await (const { value } of api.handoffEvents(this.id, this.#stop.signal)) {
          wait_ms = 500;
          this.#show(value);
          if (value.state === "closed") return;
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        if (error.status >= 400 && error.status < 500 && error.status !== 429) {
          this.#status.replaceChildren(sentence(error)); // trying again would not help
          return;
        }
        setText(this.#status, "handoff.reconnecting");
      }
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
      wait_ms = Math.min(wait_ms * 2, LONGEST_WAIT_MS);
    }
  }

  #explain(reason) {
    if (has(`reason.${reason}`)) setText(this.#reason, `reason.${reason}`);
  }

  /** Each event carries the whole hand-off, so a reply that came while the line was down is not lost. */
  #show({ state, agent, reason, replies = [] }) {
    this.#explain(reason);
    for (const reply of replies.slice(this.#shown)) {
      this.#replies.append(replyItem(reply));
      announce(`${t("handoff.agent", { agent: reply.agent })}: ${reply.text}`);
    }
    this.#shown = Math.max(this.#shown, replies.length);
    if (state === "closed") setText(this.#status, "handoff.closed");
    else if (state === "claimed") setText(this.#status, "handoff.claimed", { agent });
    else setText(this.#status, "handoff.waiting");
  }
}

/** A person's words are shown as they are, never as Markdown. */
export const replyItem = ({ agent, text, created_s }) =>
  make("li", {},
    make("span", { class: "who" }, make("span", { text: "handoff.agent", values: { agent } }), created_s ? ` · ${clock(created_s)}` : ""),
    make("p", { class: "said" }, text));
