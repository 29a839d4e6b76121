// The customers' page: joins its parts.

import * as api from "./api.js";
import { Attachments } from "./attachments.js";
import { Conversation } from "./conversation.js";
import { make } from "./dom.js";
import { bytesText, language } from "./i18n.js";
import { takeIn } from "./intake.js";
import { errorBox } from "./messages.js";
import { Parameters, keyField } from "./parameters.js";
import { recall } from "./memory.js";
import { openShell, openTabs } from "./shell.js";

const at = (id) => document.getElementById(id);

openShell();
const show = openTabs(at("tabs"), at("panes"));
const attachments = new Attachments({ list: at("previews"), tray: at("tray"), problems: at("media-problems"), limits: at("limits") });
const parameters = new Parameters(
  { scene: at("scene"), samples: at("samples"), presets: at("presets"), fields: at("fields") },
  (text) => {
    at("question").value = text;
    grow();
    show("chat");
    at("question").focus();
  },
);
const conversation = new Conversation(
  at("log"),
  () => ({ scene: parameters.scene, sampling: parameters.sampling, language: language() }),
  (busy) => {
    at("send").hidden = busy;
    at("stop").hidden = !busy;
    at("new").disabled = false;
  },
);

takeIn(attachments, { input: at("files"), zone: at("panes"), camera: at("camera"), arrived: () => show("chat") });
at("choose").addEventListener("click", () => at("files").click());
at("attach").addEventListener("click", () => at("files").click());
keyField(at("key"), begin);
begin();

function begin() {
  loadScenes();
  comeBack();
}

/** After a reload the conversation is there again, and an agent's replies go on arriving. */
async function comeBack() {
  if (!conversation.empty) return;
  const found = await recall().catch(() => null); // forgotten, or of another key: a new one begins
  if (found && conversation.empty) {
    conversation.restore(found);
    at("welcome").hidden = true;
  }
}

async function loadScenes() {
  at("settings-problem").replaceChildren();
  try {
    const { data, limits } = await api.scenes();
    parameters.setScenes(data);
    if (limits) attachments.setLimits(limits);
  } catch (error) {
    at("settings-problem").replaceChildren(errorBox(error, loadScenes));
  }
}

/** The field is as high as its text, up to a limit that the style sheet sets. */
function grow() {
  const field = at("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function send() {
  const question = at("question").value.trim();
  const media = attachments.items;
  if (conversation.busy || (!question && !media.length)) return;
  if (!parameters.valid()) return show("settings");
  const limit = attachments.limits.max_body_bytes;
  const weight = conversation.weight(media);
  if (weight > limit) {
    const values = { size: bytesText(weight), limit: bytesText(limit) };
    at("composer-problem").replaceChildren(make("p", { text: "media.total", values }));
    return;
  }
  at("composer-problem").replaceChildren();
  attachments.take();
  at("question").value = "";
  grow();
  at("welcome").hidden = true;
  conversation.ask(question, media);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("question").addEventListener("input", grow);
at("question").addEventListener("keydown", (event) => {
  // While an input method composes (Chinese), Enter chooses a word: it must not send.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]") || !conversation.busy) return;
  event.preventDefault();
  conversation.stop();
  at("question").focus();
});
at("stop").addEventListener("click", () => {
  conversation.stop();
  at("question").focus();
});
at("new").addEventListener("click", () => {
  conversation.restart();
  attachments.take();
  at("composer-problem").replaceChildren();
  at("welcome").hidden = false;
  show("chat");
  at("question").focus();
});
