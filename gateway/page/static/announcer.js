// Speaks to screen readers. A streamed answer is read sentence by sentence, not again from its start with every piece.

const region = () => document.getElementById("announcer");

export function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  const place = region();
  place.append(line);
  while (place.childElementCount > 20) place.firstElementChild.remove();
}

/** Takes a growing text; announces each sentence once it is complete. */
export class Reader {
  #spoken = 0;

  grow(text) {
    const match = /^[\s\S]*[。！？；\n]|^[\s\S]*[.!?](?=\s)/.exec(text.slice(this.#spoken));
    if (!match) return;
    this.#spoken += match[0].length;
    this.#say(match[0]);
  }

  end(text) {
    this.#say(text.slice(this.#spoken));
    this.#spoken = text.length;
  }

  #say(text) {
    const plain = text.replace(/[*`#]+/g, "").trim();
    if (plain) announce(plain);
  }
}
