// The gateway's HTTP API. Knows routes and shapes of JSON; nothing of the page.

import { events } from "./sse.js";

const KEY = "api-key";

/** An answer that says no, or none at all (status 0). */
export class ApiError extends Error {
  constructor(status, message = "", { param = "", code = "", retryAfter = null, requestId = "" } = {}) {
    super(message);
    Object.assign(this, { status, param, code, retryAfter, requestId });
  }
}

export const key = () => {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
};

export const setKey = (value) => {
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // the key is lost with the page, which is the safe side
  }
};

async function call(method, path, { body, signal, accept = "application/json" } = {}) {
  const headers = { Accept: accept };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0);
  }
  if (response.ok) return response;
  let said = {};
  try {
    said = (await response.json()).error ?? {};
  } catch {
    // a proxy's page, not the gateway's: the status has to do
  }
  throw failure(response.status, said, response.headers);
}

function failure(status, said, headers) {
  const seconds = Number(headers?.get("Retry-After"));
  return new ApiError(status, typeof said.message === "string" ? said.message : "", {
    param: said.param ?? "",
    code: said.code ?? "",
    retryAfter: Number.isFinite(seconds) && seconds > 0 ? Math.ceil(seconds) : null,
    requestId: headers?.get("X-Request-Id") ?? "",
  });
}

const json = async (...request) => {
  const response = await call(...request);
  return response.status === 204 ? null : response.json();
};

/**
 * Ask; yields {text} for each piece, then {done: {finish, ...customer_service}}.
 * A stream that ends without the last piece raises ApiError with status 0 and code "cut".
 */
export async function* chat(body, signal) {
  const response = await call("POST", "/v1/chat/completions", {
    body: { ...body, stream: true, stream_options: { include_usage: true } }, signal, accept: "text/event-stream",
  });
  const requestId = response.headers.get("X-Request-Id") ?? "";
  let finish = null;
  let extension = null;
  let whole = false;
  try {
    for await (const { data } of events(response)) {
      if (data === "[DONE]") {
        whole = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw failure(Number(chunk.error.status) || 500, chunk.error, response.headers);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      finish = choice?.finish_reason ?? finish;
      extension = chunk.customer_service ?? extension;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(0, "", { code: "cut", requestId });
  }
  if (!whole && finish === null) throw new ApiError(0, "", { code: "cut", requestId });
  yield { done: { request_id: requestId, ...extension, finish } };
}

export const scenes = () => json("GET", "/v1/scenes");
export const article = (id) => json("GET", `/v1/articles/${encodeURIComponent(id)}`);
export const rate = (requestId, rating, comment) =>
  json("POST", "/v1/feedback", { body: { request_id: requestId, rating, comment } });

export const askForPerson = (requestId) => json("POST", "/v1/handoffs", { body: { request_id: requestId } });
export const handoffs = (state) => json("GET", `/v1/handoffs${state ? `?state=${state}` : ""}`);
export const claim = (id, agent) => json("POST", `/v1/handoffs/${encodeURIComponent(id)}/claim`, { body: { agent } });
export const reply = (id, agent, text) => json("POST", `/v1/handoffs/${encodeURIComponent(id)}/replies`, { body: { agent, text } });
export const close = (id, agent) => json("POST", `/v1/handoffs/${encodeURIComponent(id)}/close`, { body: { agent } });
export const conversation = (id) => json("GET", `/v1/conversations/${encodeURIComponent(id)}`);

/** A stored picture or video: an <img> cannot send the key itself. */
export const media = async (objectId) => (await call("GET", `/v1/media/${encodeURIComponent(objectId)}`, { accept: "*/*" })).blob();

/** What happens to a hand-off, until it is closed: each event carries its data parsed. */
export async function* handoffEvents(id, signal) {
  const response = await call("GET", `/v1/handoffs/${encodeURIComponent(id)}/events`, { signal, accept: "text/event-stream" });
  for await (const { type, data } of events(response)) {
    if (data === "[DONE]") return;
    yield { type, value: JSON.parse(data) };
  }
}
