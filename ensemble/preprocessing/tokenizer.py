"""Text to token ids, with control tokens and plain text kept apart.

A control token is any added token of tokenizer.json (``<|im_end|>``, ``<|image_pad|>``, ``<tool_call>``,
...). It never comes out of `encode_text`, whatever the text says. It does not know chats or pictures.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


class TextTokenizer:
    """The tokenizer of a checkpoint, split into its control tokens and its plain-text model.

    The tokenizers library cuts a text at its added tokens first, and then normalises, splits and merges
    each piece on its own. `split_control_tokens` does the first half and `encode_text` the second, with the
    same result for the whole text; between the two the caller may decide which control tokens are meant.
    """

    def __init__(self, path: Path) -> None:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        added = plain["added_tokens"]
        for token in added:
            unusual = [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]
            if unusual or len(token["content"]) < 2:
                raise ValueError(
                    f"{path}: added token {token['content']!r} {unusual} is of a kind that is not supported"
                )
        self.control_tokens: dict[str, int] = {token["content"]: token["id"] for token in added}
        plain.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        self._text_model = Tokenizer.from_str(json.dumps(plain))
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        self._pattern = re.compile(
            "(" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "((?!))"
        )

    def split_control_tokens(self, text: str) -> list[str]:
        """Pieces of `text`: even ones are plain text (perhaps empty), odd ones are control tokens."""
        return self._pattern.split(text)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a piece of text in which nothing is a control token."""
        ids: list[int] = self._text_model.encode(text, add_special_tokens=False).ids
        return ids

    def control_token(self, token_id: int) -> str:
        """The control token with an id; ValueError if there is none."""
        for content, known in self.control_tokens.items():
            if known == token_id:
                return content
        raise ValueError(
            f"tokenizer.json has no added token with id {token_id}; the engines are of another checkpoint"
        )
