// The pictures and videos that go with the next question. Knows limits and previews; not how they are sent.

import { announce } from "./announcer.js";
import { icon, make } from "./dom.js";
import { bytesText, onLanguage, t } from "./i18n.js";

/** The gateway's own defaults, until it has told its limits. */
const DEFAULT_LIMITS = {
  max_files: 16, max_image_bytes: 20971520, max_video_bytes: 67108864, max_video_s: 120, max_body_bytes: 67108864,
};

export class Attachments {
  #items = []; // {name, kind, uri, bytes}
  #list;
  #tray;
  #limits = DEFAULT_LIMITS;
  #problems;
  #limitsText;

  /** `list`: the previews of the left pane; `tray`: their small copies beside the question. */
  constructor({ list, tray, problems, limits }) {
    this.#list = list;
    this.#tray = tray;
    this.#problems = problems;
    this.#limitsText = limits;
    onLanguage(() => this.#show());
    this.#show();
  }

  get items() {
    return [...this.#items];
  }

  get limits() {
    return this.#limits;
  }

  setLimits(limits) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    this.#show();
  }

  /** Add files; what cannot be added is said and left out. */
  async add(files) {
    this.#problems.replaceChildren();
    for (const file of files) {
      if (this.#items.length >= this.#limits.max_files) {
        this.#problem("media.many", { files: this.#limits.max_files });
        return;
      }
      const item = await this.#read(file);
      if (item) {
        this.#items.push(item);
        announce(t("media.added", { name: item.name }));
      }
      this.#show();
    }
  }

  /** Hand over what there is, and be empty. */
  take() {
    const taken = this.#items;
    this.#items = [];
    this.#problems.replaceChildren();
    this.#show();
    return taken;
  }

  /** Put back what could not be sent. */
  restore(items) {
    this.#items = [...items, ...this.#items].slice(0, this.#limits.max_files);
    this.#show();
  }

  async #read(file) {
    const name = file.name || t("pane.media");
    const kind = /^(image|video)\//.exec(file.type)?.[1];
    if (!kind || file.type === "image/svg+xml") return this.#problem("media.kind", { name });
    const limit = kind === "image" ? this.#limits.max_image_bytes : this.#limits.max_video_bytes;
    if (file.size > limit) {
      return this.#problem("media.large", { name, size: bytesText(file.size), limit: bytesText(limit) });
    }
    try {
      return { name, kind, bytes: file.size, uri: await dataUri(file), url: URL.createObjectURL(file) };
    } catch {
      return this.#problem("media.unreadable", { name });
    }
  }

  #problem(key, values) {
    this.#problems.append(make("p", { text: key, values }));
    return null;
  }

  #remove(item) {
    const at = this.#items.indexOf(item);
    this.#items.splice(at, 1);
    URL.revokeObjectURL(item.url);
    announce(t("media.removed", { name: item.name }));
    this.#show();
    const next = this.#list.querySelectorAll("button.icon")[Math.min(at, this.#items.length - 1)];
    (next ?? document.getElementById("choose")).focus();
  }

  #show() {
    const { max_files, max_image_bytes, max_video_bytes, max_video_s } = this.#limits;
    this.#limitsText.textContent = t("media.limits", {
      files: max_files, image: bytesText(max_image_bytes), video: bytesText(max_video_bytes), seconds: max_video_s,
    });
    const remove = (item) => icon("×", "media.remove", () => this.#remove(item), { values: { name: item.name } });
    this.#list.replaceChildren(
      ...this.#items.map((item) =>
        make("li", {}, preview(item), make("span", { class: "name" }, `${item.name} · ${bytesText(item.bytes)}`), remove(item)),
      ),
    );
    this.#tray.replaceChildren(...this.#items.map((item) => make("li", {}, thumbnail(item), remove(item))));
    this.#tray.hidden = this.#items.length === 0;
  }
}

/** A picture that opens large when clicked, or a video with controls. */
export function preview(item) {
  if (item.kind === "video") return make("video", { src: item.url, controls: true, preload: "metadata", "aria-label": item.name });
  const open = () => enlarge(item);
  return make("button", { type: "button", class: "picture", label: "media.open", values: { name: item.name }, onclick: open },
    make("img", { src: item.url, alt: item.name }));
}

const thumbnail = (item) =>
  item.kind === "video" ? make("video", { src: item.url, preload: "metadata", tabindex: "-1", "aria-label": item.name }) : make("img", { src: item.url, alt: item.name });

function enlarge(item) {
  const dialog = make("dialog", { class: "enlarged", "aria-label": item.name });
  const close = icon("×", "dialog.close", () => dialog.close());
  dialog.append(close, make("img", { src: item.url, alt: item.name }));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

/** The content of a file or blob, as a URL that holds it whole. */
export function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
