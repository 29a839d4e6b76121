// The agents' desk: joins the list of hand-offs and the case that is open.

import * as api from "./api.js";
import { CaseView, why } from "./case.js";
import { make } from "./dom.js";
import { clock, onLanguage, t } from "./i18n.js";
import { errorBox } from "./messages.js";
import { keyField } from "./parameters.js";
import { openShell } from "./shell.js";

const POLL_MS = 3000;
const NAME = "agent-name";
const at = (id) => document.getElementById(id);

let chosen = "";
let shown = null; // what the list holds, once that is known
let opened = null;

openShell();
at("name").value = sessionStorage.getItem(NAME) ?? "";
at("name").addEventListener("change", () => sessionStorage.setItem(NAME, at("name").value.trim()));
keyField(at("key"), () => refresh());
at("state").addEventListener("change", () => refresh());
onLanguage(() => shown && showList(shown));

async function refresh() {
  const state = at("state").value;
  try {
    const { data } = await api.handoffs(state);
    if (state !== at("state").value) return; // an older question's answer
    at("list-problem").replaceChildren();
    at("updated").textContent = t("agent.updated", { time: new Date().toLocaleTimeString("en-GB") });
    if (JSON.stringify(data) !== JSON.stringify(shown)) showList(data);
    const current = data.find((handoff) => handoff.handoff_id === chosen);
    if (current) opened?.update(current);
    opened?.refresh();
  } catch (error) {
    at("list-problem").replaceChildren(errorBox(error, refresh));
  }
}

function showList(handoffs) {
  shown = handoffs;
  const focused = document.activeElement?.dataset?.id;
  at("list").replaceChildren(...handoffs.map((handoff) => make("li", {}, entry(handoff))));
  at("none").hidden = handoffs.length > 0;
  if (focused) at("list").querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
}

function entry(handoff) {
  return make("button", {
    type: "button", "data-id": handoff.handoff_id, "aria-current": String(handoff.handoff_id === chosen), onclick: () => open(handoff),
  },
  make("strong", {}, why(handoff.reason)),
  make("span", { class: "brief" }, handoff.summary),
  make("span", { class: "when" }, clock(handoff.created_s), handoff.agent ? ` · ${t("agent.by", { agent: handoff.agent })}` : ""));
}

function open(handoff) {
  chosen = handoff.handoff_id;
  opened?.end();
  opened = new CaseView(handoff, () => at("name").value.trim() || "agent", refresh);
  at("case").replaceChildren(...opened.elements);
  at("case").focus();
  showList(shown);
}

refresh();
setInterval(() => document.hidden || refresh(), POLL_MS);
