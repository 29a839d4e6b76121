"""When two questions are the same question. It knows records, and no cache.

Everything that the answer depends on is in the key, at full width: the masked pixels of every picture, every turn, the
versions of model, adapter, prompt and knowledge, scene, language, sampling - and the tenant, so that no answer of one
tenant can ever be another's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata

from gateway.records import Media, Question, Versions


def key(question: Question[Media], versions: Versions) -> str | None:
    """Hex SHA-256; None if the answer must not be kept: private data, or tools, whose answers are actions."""
    if question.personal or question.tools or any(item.masked for item in question.media):
        return None
    turns = [
        [message.role, [normal(part) if isinstance(part, str) else [part.digest] for part in message.content]]
        for message in question.messages
    ]
    facts = {
        "tenant": question.tenant,
        "scene": question.scene,
        "language": question.language,
        "grounded": question.grounded,
        "sampling": dataclasses.asdict(question.sampling),
        "versions": dataclasses.asdict(versions),
        "turns": turns,
    }
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def normal(text: str) -> str:
    """The same for questions that differ in width, case, white space or closing punctuation only.

    Not NFKC: that makes 5² to 52 and ① to 1, and the answer to another question is worse than none. Nor does a closing
    exclamation mark go: 5! is not 5.
    """
    folded = "".join(map(_narrow, unicodedata.normalize("NFC", text))).casefold()
    return " ".join(folded.split()).rstrip(" ?.。…")


def _narrow(character: str) -> str:
    """A full- or half-width form as the ordinary character."""
    form, _, codes = unicodedata.decomposition(character).partition(" ")
    return chr(int(codes, 16)) if form in ("<wide>", "<narrow>") else character
