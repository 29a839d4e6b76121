// Server-sent events over fetch: EventSource can send neither a body nor an Authorization header.

/** Takes text as it comes, gives the events that are complete. */
export class EventParser {
  #rest = "";
  #data = [];
  #type = "";
  #id = "";

  push(text) {
    this.#rest += text;
    const events = [];
    // A "\r" at the very end may be half of "\r\n": it waits for what follows.
    for (let match; (match = /\r\n|\n|\r(?!$)/.exec(this.#rest)); ) {
      const line = this.#rest.slice(0, match.index);
      this.#rest = this.#rest.slice(match.index + match[0].length);
      const event = this.#line(line);
      if (event) events.push(event);
    }
    return events;
  }

  #line(line) {
    if (line === "") {
      const event = this.#data.length ? { type: this.#type || "message", data: this.#data.join("\n"), id: this.#id } : null;
      this.#data = [];
      this.#type = "";
      return event;
    }
    if (line.startsWith(":")) return null; // a comment that keeps the connection open
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id") this.#id = value;
    return null;
  }
}

/** The events of a response, as they arrive. Leaving the loop ends the connection. */
export async function* events(response) {
  const parser = new EventParser();
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
