// What went wrong, in words: what happened, what to do, and a way to try again.

import { ApiError } from "./api.js";
import { button, make } from "./dom.js";
import { has, t } from "./i18n.js";

/** The i18n key of what to do about an error. */
function advice(error) {
  if (!(error instanceof ApiError)) return "error.500";
  if (error.status === 0) return error.code === "cut" ? "error.cut" : "error.network";
  if (has(`error.${error.status}`)) return `error.${error.status}`;
  return error.status === 502 || error.status === 504 ? "error.503" : error.status < 500 ? "error.400" : "error.500";
}

/** One sentence, for places with no room for more. */
export const sentence = (error) => `${t(advice(error))}${error.message && error.status ? ` ${error.message}` : ""}`;

/** A box that says it all. `retry`: called by its button; none without it. */
export function errorBox(error, retry) {
  const details = [];
  if (error.status && error.message) details.push(make("p", { class: "detail" }, error.message));
  if (!(error instanceof ApiError)) console.error(error);
  if (error.requestId) details.push(make("p", { class: "detail", text: "error.request", values: { id: error.requestId } }));
  const wait = error.retryAfter ? make("p", { text: "error.retry.after", values: { seconds: error.retryAfter } }) : null;
  return make(
    "div",
    { class: "problem", role: "alert" },
    make("strong", { text: "error.title" }),
    make("p", { text: advice(error) }),
    wait,
    ...details,
    retry ? button("error.retry", retry, { class: "retry" }) : null,
  );
}
