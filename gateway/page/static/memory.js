// Which conversation this tab holds, so that a reload loses nothing. Its words stay with the gateway: here is only its name.

import * as api from "./api.js";
import { dataUri } from "./attachments.js";

const STORED = "conversation";

/** Keep the names of the conversation and of its hand-offs; they end with the tab. */
export function remember(id, handoffs) {
  try {
    sessionStorage.setItem(STORED, JSON.stringify({ id, handoffs }));
  } catch {
    // a reload will begin anew, that is all
  }
}

export function forget() {
  try {
    sessionStorage.removeItem(STORED);
  } catch {
    // there was nothing
  }
}

/** {id, handoffs, turns: [{question, media, answer}]}, or null where nothing was begun. Fails as api.conversation does. */
export async function recall() {
  let stored = null;
  try {
    stored = JSON.parse(sessionStorage.getItem(STORED));
  } catch {
    return null;
  }
  if (!stored) return null;
  const { messages } = await api.conversation(stored.id);
  const turns = [];
  for (const { role, content } of messages) {
    if (role === "user") turns.push({ question: words(content), media: await media(content), answer: "" });
    else if (role === "assistant" && turns.length) turns.at(-1).answer = words(content);
  }
  return turns.length ? { ...stored, turns } : null;
}

export const words = (content) =>
  typeof content === "string" ? content : content.filter((part) => part.type === "text").map((part) => part.text).join("\n");

/** Stored media as if they had just been chosen: later turns send them again. */
async function media(content) {
  if (typeof content === "string") return [];
  const items = [];
  for (const part of content.filter((each) => each.object_id)) {
    const blob = await api.media(part.object_id);
    items.push({ name: part.kind, kind: part.kind, bytes: blob.size, uri: await dataUri(blob), url: URL.createObjectURL(blob) });
  }
  return items;
}
