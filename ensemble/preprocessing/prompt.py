"""Chat to token ids: template, control tokens, and one id per visual token.

It knows the grids of the pictures, not their pixels. The ids it gives for visual tokens are the
checkpoint's own placeholders (``<|image_pad|>``, ``<|video_pad|>``), as transformers' processor gives them.

How customers' text is kept from writing control tokens. Before rendering, a private mark is put after every
character that begins a control token and before every character that ends one (for Qwen: after ``<`` and
before ``>``), in customers' text only. So in the rendered prompt only the template's own control tokens are
whole, even where the template joins, trims or splits customers' texts, and even if two parts of a message
would form one together. The prompt is cut at the whole ones, the marks are removed, and each piece of text
between two control tokens, template words and customer words together, is encoded in one go by a tokenizer
without added tokens. That is what the tokenizers library does itself with a text, so merges across the seam
("user\\n" + text) and the normalisation are the same, and for a text without control tokens the ids equal
transformers'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.manifest import TokenIds
from ensemble.errors import InvalidMessages
from ensemble.preprocessing.chat_template import ChatTemplate
from ensemble.preprocessing.messages import IMAGE, VIDEO, Chat
from ensemble.preprocessing.tokenizer import TextTokenizer

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True)
class MediaShape:
    """What the prompt needs to know of an item: rows and columns of merged visual tokens in each temporal
    group.

    `timestamps` has the seconds of each temporal group of a video; an image is one group without a time.
    """

    kind: str
    height: int
    width: int
    timestamps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Span:
    """A run of visual tokens: a whole image, or one temporal group of a video.

    Attributes:
        start: index of the first token in the prompt.
        item: index of the item in prompt order.
        height, width: merged visual tokens down and across; the run has height * width tokens.
    """

    start: int
    item: int
    height: int
    width: int

    @property
    def stop(self) -> int:
        """Index after the last token."""
        return self.start + self.height * self.width


@dataclass(frozen=True)
class TokenizedPrompt:
    """`ids` int32 [L] with the checkpoint's placeholder ids, and where the visual tokens are."""

    ids: NDArray[np.int32]
    spans: tuple[Span, ...]


class PromptWriter:
    """Writes prompts for one checkpoint."""

    def __init__(self, checkpoint: Path, tokens: TokenIds) -> None:
        self._template = ChatTemplate.from_checkpoint(checkpoint)
        self._tokenizer = TextTokenizer(checkpoint / "tokenizer.json")
        self._tokens = tokens
        self._kinds = {
            self._tokenizer.control_token(tokens.image): IMAGE,
            self._tokenizer.control_token(tokens.video): VIDEO,
        }
        first = {re.escape(token[0]) for token in self._tokenizer.control_tokens}
        last = {re.escape(token[-1]) for token in self._tokenizer.control_tokens}
        self._edges = re.compile(f"(?<=[{''.join(sorted(first))}])|(?=[{''.join(sorted(last))}])")

    def write(self, chat: Chat, shapes: Sequence[MediaShape]) -> TokenizedPrompt:
        """Token ids of a chat; `shapes` are its items in prompt order."""
        mark = self._unused_character(chat)
        rendered = self._template.render([self._guard(message, mark) for message in chat.messages])
        pieces = self._tokenizer.split_control_tokens(rendered)
        self._check_media(chat, pieces)
        pieces = [piece.replace(mark, "") for piece in pieces]
        return self._encode(pieces, shapes)

    def _unused_character(self, chat: Chat) -> str:
        written = set(self._template.source).union(*chat.texts)
        return next(chr(code) for code in _PRIVATE_USE if chr(code) not in written)

    def _guard(self, message: dict[str, Any], mark: str) -> dict[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return {**message, "content": self._edges.sub(mark, content)}
        guarded = [{**p, "text": self._edges.sub(mark, p["text"])} if "text" in p else p for p in content]
        return {**message, "content": guarded}

    def _check_media(self, chat: Chat, pieces: Iterable[str]) -> None:
        rendered = tuple(self._kinds[piece] for piece in pieces if piece in self._kinds)
        if rendered != chat.media:
            raise InvalidMessages(
                "messages",
                f"media parts {list(chat.media)} of which the chat template renders {list(rendered)}",
                "media parts in messages of the user",
            )

    def _encode(self, pieces: Sequence[str], shapes: Sequence[MediaShape]) -> TokenizedPrompt:
        tokens, ids, spans = self._tokens, _Ids(self._tokenizer), []
        coming = enumerate(shapes)
        for at, piece in enumerate(pieces):
            if at % 2 == 0:
                ids.add_text(piece)
            elif piece not in self._kinds:
                ids.add_control(self._tokenizer.control_tokens[piece])
            else:
                item, shape = next(coming)
                count = shape.height * shape.width
                if shape.kind == IMAGE:
                    spans.append(Span(ids.add_control(tokens.image, count), item, shape.height, shape.width))
                for seconds in shape.timestamps:
                    # As transformers 5 writes it: the template's own start and end tokens stay around the
                    # whole video.
                    ids.add_text(f"<{seconds:.1f} seconds>")
                    ids.add_control(tokens.vision_start)
                    spans.append(Span(ids.add_control(tokens.video, count), item, shape.height, shape.width))
                    ids.add_control(tokens.vision_end)
        return TokenizedPrompt(np.asarray(ids.finish(), dtype=np.int32), tuple(spans))


class _Ids:
    """Collects ids; text is held back until a control token follows, so that neighbouring texts merge."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""

    def add_text(self, text: str) -> None:
        self._text += text

    def add_control(self, token_id: int, count: int = 1) -> int:
        start = len(self.finish())
        self._ids.extend([token_id] * count)
        return start

    def finish(self) -> list[int]:
        if self._text:
            self._ids.extend(self._tokenizer.encode_text(self._text))
            self._text = ""
        return self._ids
