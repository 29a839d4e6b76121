// One hand-off on the agents' desk: why, what was said, the pictures, and what an agent can do.

import * as api from "./api.js";
import { preview } from "./attachments.js";
import { button, make } from "./dom.js";
import { clock, has, t } from "./i18n.js";
import { replyItem } from "./handoff.js";
import { render } from "./markdown.js";
import { words } from "./memory.js";
import { errorBox } from "./messages.js";

/** Why a person is needed, in words; a reason that this page does not know is shown as it is. */
export const why = (reason) => (has(`agent.why.${reason}`) ? t(`agent.why.${reason}`) : reason);

export class CaseView {
  elements;
  #handoff;
  #agent;
  #changed;
  #urls = [];
  #known = ""; // the transcript that is shown, as JSON
  #seen = new Set(); // pictures that are shown, or on their way
  #problem = make("div");
  #replies = make("ol", { class: "replies" });
  #transcript = make("ol", { class: "transcript" });
  #pictures = make("div", { class: "pictures" });
  #claim = button("agent.claim", () => this.#do(() => api.claim(this.#id, this.#agent())), { class: "primary", id: "claim" });
  #close = button("agent.close", () => this.#do(() => api.close(this.#id, this.#agent())), { id: "close" });
  #text = make("textarea", { rows: 3, maxlength: 4000, label: "agent.reply.label", hint: "agent.reply.label", id: "reply" });
  #form = make("form", { class: "reply" }, this.#text, make("div", { class: "actions" }, make("button", { class: "primary", text: "agent.reply" }), this.#close));

  /** `agent()`: who works here; `changed()`: told after each thing that was done. */
  constructor(handoff, agent, changed) {
    this.#agent = agent;
    this.#changed = changed;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#text.value.trim();
      if (text) this.#do(async () => {
        const now = await api.reply(this.#id, this.#agent(), text);
        this.#text.value = ""; // only once it has arrived
        return now;
      });
    });
    this.elements = [
      make("h2", {}, why(handoff.reason)),
      make("p", { class: "meta" }, `${clock(handoff.created_s)} · ${handoff.handoff_id}`),
      make("h3", { text: "agent.summary" }),
      make("p", { class: "summary said" }, handoff.summary),
      this.#pictures,
      make("h3", { text: "agent.conversation" }),
      this.#transcript,
      this.#replies,
      this.#problem,
      this.#claim,
      this.#form,
    ];
    this.update(handoff);
    this.refresh();
  }

  /** The customer may have written more since. */
  async refresh() {
    const id = this.#handoff.conversation_id;
    if (!id) return;
    try {
      const { messages } = await api.conversation(id);
      const known = JSON.stringify(messages);
      if (known === this.#known) return; // leave a selection and the place of a reader alone
      this.#known = known;
      this.#transcript.replaceChildren(...messages.map(messageItem));
    } catch (error) {
      if (!this.#known) this.#transcript.replaceChildren(make("li", {}, errorBox(error, () => this.refresh())));
    }
  }

  get #id() {
    return this.#handoff.handoff_id;
  }

  update(handoff) {
    this.#handoff = handoff;
    this.#replies.replaceChildren(...(handoff.replies ?? []).map(replyItem));
    this.#claim.hidden = handoff.state !== "open";
    this.#form.hidden = handoff.state !== "claimed";
    this.#showPictures((handoff.media ?? []).filter(({ object_id }) => !this.#seen.has(object_id))); // more may have come
  }

  /** Give back what the pictures hold. */
  end() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
  }

  async #do(action) {
    this.#problem.replaceChildren();
    try {
      this.update(await action());
      this.#changed();
    } catch (error) {
      this.#problem.replaceChildren(errorBox(error));
    }
  }

  async #showPictures(media) {
    for (const { object_id } of media) this.#seen.add(object_id);
    for (const item of media) {
      try {
        const url = URL.createObjectURL(await api.media(item.object_id));
        this.#urls.push(url);
        this.#pictures.append(preview({ kind: item.kind, url, name: `${this.#pictures.childElementCount + 1}` }));
      } catch (error) {
        this.#pictures.append(errorBox(error));
      }
    }
  }
}

/** `content`: text, or OpenAI's parts; pictures are shown above, all together. */
function messageItem({ role, content }) {
  const text = words(content);
  const body = make("div", { class: "text" }, role === "user" ? make("p", { class: "said" }, text) : render(text));
  return make("li", { class: role }, make("span", { class: "who", text: role === "user" ? "chat.customer" : "chat.assistant" }), body);
}
