// The right pane: scene, sample questions, sampling. Gives what goes into a request; None of it is sent where the scene decides.

import * as api from "./api.js";
import { make } from "./dom.js";
import { localized, onLanguage, t } from "./i18n.js";

const FIELDS = {
  temperature: { min: 0, max: 2, step: 0.05, initial: 0.9 },
  top_p: { min: 0.05, max: 1, step: 0.05, initial: 0.95 },
  top_k: { min: 0, max: 200, step: 1, initial: 0 },
  max_tokens: { min: 1, max: 8192, step: 1, initial: 1024 },
  presence_penalty: { min: -2, max: 2, step: 0.1, initial: 0 },
};

const PRESETS = {
  tutorial: { temperature: 0.9, top_p: 0.95, top_k: 0, max_tokens: 1024, presence_penalty: 0 },
  qwen: { temperature: 0.7, top_p: 0.8, top_k: 20, max_tokens: 1024, presence_penalty: 1.5 },
};

const STORED = "parameters";

export class Parameters {
  #preset = "scene"; // "scene", a name in PRESETS, or "" where fields were changed by hand
  #scenes = [];
  #select;
  #samples;
  #inputs = {};
  #radios = {};
  #ask;

  /** `ask(text)`: called with a sample question that was chosen. */
  constructor({ scene, samples, presets, fields }, ask) {
    this.#select = scene;
    this.#samples = samples;
    this.#ask = ask;
    for (const name of ["scene", ...Object.keys(PRESETS)]) {
      const radio = make("input", { type: "radio", name: "preset", value: name, onchange: () => this.#choose(name) });
      this.#radios[name] = radio;
      presets.append(make("label", {}, radio, make("span", { text: `settings.preset.${name}` })));
    }
    for (const [name, limits] of Object.entries(FIELDS)) fields.append(this.#field(name, limits));
    scene.addEventListener("change", () => this.#sceneChanged());
    onLanguage(() => this.#showScenes());
    this.#restore();
  }

  get scene() {
    return this.#select.value;
  }

  /** OpenAI's names; empty where the scene's own values hold. */
  get sampling() {
    if (this.#preset === "scene") return {};
    const values = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, this.#inputs[name].valueAsNumber]));
    if (!values.top_k) delete values.top_k; // 0: no limit
    return values;
  }

  /** Whether all fields hold allowed values; the first that does not is shown. */
  valid() {
    return Object.values(this.#inputs).every((input) => input.reportValidity());
  }

  setScenes(scenes) {
    this.#scenes = scenes.filter((scene) => scene.enabled !== false);
    this.#showScenes();
    const wanted = this.#stored().scene;
    if (this.#scenes.some((scene) => scene.name === wanted)) this.#select.value = wanted;
    this.#sceneChanged();
  }

  #field(name, { min, max, step, initial }) {
    const id = `field-${name}`;
    const number = make("input", { id, type: "number", min, max, step, value: initial, required: true });
    const range = make("input", { type: "range", min, max, step, value: initial, tabindex: "-1", "aria-hidden": "true" });
    const changed = (from, to) => () => {
      to.value = from.value;
      this.#mark("");
      number.setCustomValidity("");
      if (!number.validity.valid) number.setCustomValidity(t("settings.range", { min, max }));
      this.#store();
    };
    number.addEventListener("input", changed(number, range));
    range.addEventListener("input", changed(range, number));
    this.#inputs[name] = number;
    return make("div", { class: "field" }, make("label", { for: id }, make("span", { text: `settings.${name}` }), " ", make("code", {}, name)), number, range);
  }

  #choose(name) {
    this.#mark(name);
    const scene = this.#scenes.find((each) => each.name === this.scene);
    this.#fill(name === "scene" ? (scene?.sampling ?? {}) : PRESETS[name]);
    this.#store();
  }

  #mark(name) {
    this.#preset = name;
    for (const [each, radio] of Object.entries(this.#radios)) radio.checked = each === name;
  }

  #fill(values) {
    for (const [name, { initial }] of Object.entries(FIELDS)) {
      const input = this.#inputs[name];
      input.value = values[name] ?? initial;
      input.setCustomValidity("");
      input.nextElementSibling.value = input.value;
    }
  }

  #sceneChanged() {
    if (this.#preset === "scene") this.#choose("scene");
    this.#showSamples();
    this.#store();
  }

  #showScenes() {
    const chosen = this.#select.value;
    this.#select.replaceChildren(
      ...this.#scenes.map((scene) => make("option", { value: scene.name }, localized(scene.title) || scene.name)),
    );
    if (chosen) this.#select.value = chosen;
    this.#showSamples();
  }

  #showSamples() {
    const scene = this.#scenes.find((each) => each.name === this.scene);
    const samples = scene?.presets ?? [];
    this.#samples.replaceChildren(
      ...samples.map((sample) => {
        const prompt = localized(sample.prompt);
        return make("button", { type: "button", class: "sample", onclick: () => this.#ask(prompt) }, localized(sample.title) || prompt);
      }),
    );
  }

  #stored() {
    try {
      return JSON.parse(localStorage.getItem(STORED)) ?? {};
    } catch {
      return {};
    }
  }

  #store() {
    const fields = Object.fromEntries(Object.entries(this.#inputs).map(([name, input]) => [name, input.value]));
    try {
      const scene = this.scene || this.#stored().scene;
      localStorage.setItem(STORED, JSON.stringify({ scene, preset: this.#preset, fields }));
    } catch {
      // not remembered, that is all
    }
  }

  #restore() {
    const { preset = "scene", fields } = this.#stored();
    this.#mark(preset);
    if (preset in PRESETS) this.#fill(PRESETS[preset]);
    else if (preset === "" && fields) this.#fill(fields);
  }
}

/** A field for the key: it goes into this tab's storage and nowhere else. */
export function keyField(input, changed) {
  input.value = api.key();
  input.addEventListener("change", () => {
    api.setKey(input.value.trim());
    changed();
  });
}
