// A model's text as DOM nodes: paragraphs, headings, lists, bold, code, links. Everything else stays the text it is.
// There is no innerHTML here or anywhere: markup in the text can only become a text node.

import { copyButton, make } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^( {0,12})([-*+•]|\d{1,3}[.)、])\s*(?=\S)(.*)$/;
const BULLET = /^( {0,12})[-*+•]\s+/;
const HEADING = /^ {0,3}#{1,6}\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}(-{3,}|\*{3,}|_{3,})\s*$/;

// Repetitions are bounded, so that no text can make the search slow.
const INLINE = new RegExp(
  [
    "`([^`\\n]{1,2000})`",
    "\\*\\*(?=\\S)((?:[^*\\n]|\\*(?!\\*)){1,2000})\\*\\*",
    "\\[([^\\[\\]\\n]{1,300})\\]\\(([^()\\s]{1,2000})\\)",
    "\\[(\\d{1,3})\\]",
    "(https?://[^\\s<>\"'`*（）【】《》，。；、！？]{1,2000})",
  ].join("|"),
  "gi",
);

/**
 * `text` as a fragment. `citation(n)` gives the node for [n], or null where there is no such source: then it stays text.
 */
export function render(text, citation = () => null) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const fragment = document.createDocumentFragment();
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) fragment.append(make("p", {}, ...withBreaks(paragraph, citation)));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (fence) {
      flush();
      const end = closing(lines, at + 1, fence[1]);
      fragment.append(codeBlock(lines.slice(at + 1, end).join("\n"), fence[2]));
      at = end + 1;
    } else if (isItem(line)) {
      flush();
      let end = at;
      while (end < lines.length && (isItem(lines[end]) || (lines[end].trim() === "" && isItem(lines[end + 1] ?? "")) || /^\s+\S/.test(lines[end])) && !FENCE.test(lines[end])) end += 1;
      fragment.append(...lists(lines.slice(at, end).filter((each) => each.trim()), citation));
      at = end;
    } else {
      const heading = HEADING.exec(line);
      if (heading || RULE.test(line) || line.trim() === "") flush();
      if (heading) fragment.append(make("p", { class: "heading" }, ...inline(heading[1], citation)));
      else if (RULE.test(line)) fragment.append(make("hr"));
      else if (line.trim()) paragraph.push(line.trim());
      at += 1;
    }
  }
  flush();
  return fragment;
}

/** A bullet needs its space ("-5 degrees" is none); a number needs one only after "." and ")" ("3.5 V" is none). */
const isItem = (line) => !RULE.test(line) && (BULLET.test(line) || /^ {0,12}\d{1,3}(?:[.)]\s+|、)\S/.test(line));

/** The line that closes a fence; the end of the text while it is still arriving. */
function closing(lines, from, mark) {
  for (let at = from; at < lines.length; at += 1) {
    const bare = lines[at].trim();
    if (bare.length >= mark.length && [...bare].every((sign) => sign === mark[0])) return at;
  }
  return lines.length;
}

function codeBlock(code, name) {
  const head = make("figcaption", {}, make("span", {}, name), copyButton("code.copy", () => code));
  return make("figure", { class: "code" }, head, make("pre", { tabindex: "0" }, make("code", {}, code)));
}

/** Nested lists from indented lines. A line that is no item belongs to the item before it. */
function lists(lines, citation) {
  const roots = [];
  const open = []; // {indent, list, item}, outermost first
  for (const line of lines) {
    const match = isItem(line) ? ITEM.exec(line) : null;
    if (!match) {
      open.at(-1)?.item.append(make("br"), ...inline(line.trim(), citation));
      continue;
    }
    const indent = match[1].length;
    const tag = /\d/.test(match[2]) ? "ol" : "ul";
    while (open.length > 1 && open.at(-1).indent > indent) open.pop();
    let level = open.at(-1);
    if (!level || indent >= level.indent + 2 || level.list.localName !== tag) {
      const nested = level && indent >= level.indent + 2;
      const list = make(tag, tag === "ol" ? { start: parseInt(match[2], 10) } : {});
      if (nested) level.item.append(list);
      else {
        if (level) open.pop();
        const parent = open.at(-1);
        if (parent) parent.item.append(list);
        else roots.push(list);
      }
      level = { indent, list, item: null };
      open.push(level);
    }
    level.item = make("li", {}, ...inline(match[3], citation));
    level.list.append(level.item);
  }
  return roots;
}

const withBreaks = (lines, citation) => lines.flatMap((line, at) => [...(at ? [make("br")] : []), ...inline(line, citation)]);

function inline(text, citation) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const node = element(match, citation);
    if (node === null) continue;
    nodes.push(text.slice(from, match.index), node);
    from = match.index + match[0].length;
    // a URL gives its trailing stop back to the sentence
    if (node.localName === "a" && match[5]) from -= match[5].length - node.textContent.length;
  }
  nodes.push(text.slice(from));
  return nodes.filter((node) => node !== "");
}

function element([, code, bold, label, target, number, url], citation) {
  if (code !== undefined) return make("code", {}, code);
  if (bold !== undefined) return make("strong", {}, ...inline(bold, citation));
  if (label !== undefined) return link(label, target);
  if (number !== undefined) return citation(Number(number));
  const bare = url.replace(/[.,;:!?)\]]+$/, "");
  return link(bare, bare);
}

/** A link to another site, or null for any other scheme. The title shows where it really leads. */
function link(label, target) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") return null;
  return make("a", { href: url.href, title: url.href, target: "_blank", rel: "noopener noreferrer nofollow ugc" }, label);
}
