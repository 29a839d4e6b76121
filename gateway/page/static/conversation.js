// The turns of one conversation: what is sent, what came back, and the one request that may be in flight.

import * as api from "./api.js";
import { AnswerView } from "./answer.js";
import { preview } from "./attachments.js";
import { make } from "./dom.js";
import { HandoffView } from "./handoff.js";
import { forget, remember } from "./memory.js";

export class Conversation {
  #log;
  #options;
  #turns = []; // {question, media, answer, view}
  #id = newId();
  #running = null; // AbortController
  #handoffs = [];

  /** `options()`: {scene, sampling, language}, asked for with every request; `changed(busy)`: told when that changes. */
  constructor(log, options, changed) {
    this.#log = log;
    this.#options = options;
    this.changed = changed;
  }

  get busy() {
    return this.#running !== null;
  }

  get empty() {
    return this.#turns.length === 0;
  }

  /** Show again what memory.recall() gives. */
  restore({ id, handoffs, turns }) {
    this.#id = id;
    for (const { question, media, answer } of turns) {
      const turn = { question, media, answer, view: new AnswerView(), element: questionElement(question, media) };
      this.#turns.push(turn);
      this.#log.append(turn.element, turn.view.element);
      turn.view.append(answer);
      turn.view.finish({}, { regenerate: () => this.#again(turn) });
    }
    for (const handoff_id of handoffs) this.#follow({ handoff_id }, this.#turns.at(-1).view);
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  /** Bytes of a request with these further media: data URIs of every turn are sent again. */
  weight(media) {
    return [...this.#turns.flatMap((turn) => turn.media), ...media].reduce((sum, item) => sum + item.uri.length, 0);
  }

  async ask(question, media) {
    const turn = { question, media, answer: "", view: null, element: questionElement(question, media) };
    this.#turns.push(turn);
    this.#log.append(turn.element);
    await this.#answer(turn, {});
  }

  stop() {
    this.#running?.abort();
  }

  /** Forget everything on this page; the gateway keeps what it has to keep. */
  restart() {
    this.stop();
    for (const handoff of this.#handoffs) handoff.end();
    this.#handoffs = [];
    this.#turns = [];
    this.#id = newId();
    forget();
    this.#log.replaceChildren();
  }

  async #again(turn) {
    if (this.busy) return;
    for (const later of this.#turns.splice(this.#turns.indexOf(turn) + 1)) {
      later.element.remove();
      later.view?.element.remove();
    }
    turn.view?.element.remove();
    turn.answer = "";
    // A seed of its own, so that "again" may give something else than the same sampling did.
    await this.#answer(turn, { seed: Math.floor(Math.random() * 2 ** 31) });
  }

  async #answer(turn, extra) {
    const view = new AnswerView();
    const again = () => this.#again(turn);
    turn.view = view;
    this.#log.append(view.element);
    this.#log.scrollTop = this.#log.scrollHeight;
    const running = new AbortController();
    this.#running = running;
    this.changed(true);
    try {
      for await (const event of api.chat({ ...this.#request(turn), ...extra }, running.signal)) {
        if (event.text) view.append(event.text);
        else this.#finish(turn, view, event.done, again);
      }
    } catch (error) {
      turn.answer = view.text;
      if (error.name === "AbortError") view.stop(again);
      else view.fail(error, again);
    } finally {
      if (this.#running === running) {
        this.#running = null;
        this.changed(false);
      }
    }
  }

  #finish(turn, view, done, again) {
    turn.answer = view.text;
    remember(this.#id, this.#handoffs.map((shown) => shown.id));
    view.finish(done, { regenerate: again, handoff: (handoff) => this.#follow(handoff, view) });
    if (done.handoff) this.#follow(done.handoff, view);
  }

  #follow(handoff, view) {
    if (this.#handoffs.some((shown) => shown.id === handoff.handoff_id)) return; // one case, however often it is named
    const shown = new HandoffView(handoff);
    this.#handoffs.push(shown);
    view.element.append(shown.element);
    remember(this.#id, this.#handoffs.map((each) => each.id));
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  #request(last) {
    const { scene, sampling, language } = this.#options();
    const messages = [];
    for (const turn of this.#turns) {
      messages.push({ role: "user", content: content(turn) });
      if (turn === last) break;
      if (turn.answer) messages.push({ role: "assistant", content: turn.answer });
    }
    // The gateway goes by the language that the customer writes; a picture alone has none, so the page's counts.
    const own = last.question ? undefined : language;
    return { messages, ...sampling, customer_service: { conversation_id: this.#id, scene: scene || undefined, language: own } };
  }
}

function content({ question, media }) {
  const parts = media.map((item) => ({ type: `${item.kind}_url`, [`${item.kind}_url`]: { url: item.uri } }));
  if (!parts.length) return question;
  return question ? [...parts, { type: "text", text: question }] : parts;
}

const questionElement = (question, media) =>
  make("article", { class: "turn user", label: "chat.you" },
    media.length ? make("div", { class: "media" }, ...media.map(preview)) : null,
    question ? make("p", { class: "said" }, question) : null);

/** Hard to guess. crypto.randomUUID() would need HTTPS. */
const newId = () => "c-" + Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
