"""Tokens to text while they arrive: every character once and whole, a constant amount of work per token.

It knows byte-level BPE vocabularies (GPT-2's byte alphabet, as in Qwen's tokenizer.json) and UTF-8. It does
not know stop strings or answers.

A token is a run of bytes and may begin or end inside a character. The bytes go through an incremental UTF-8
decoder that keeps an unfinished character back, so the pieces together are exactly what `tokenizers` decodes
from all tokens at once with special tokens skipped: the same bytes, and for bytes that are no UTF-8 the same
U+FFFD.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path


class Vocabulary:
    """The bytes of every token. Immutable and shared by all requests."""

    def __init__(self, token_bytes: Iterable[bytes]) -> None:
        self._token_bytes = tuple(token_bytes)

    def __len__(self) -> int:
        return len(self._token_bytes)

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes; none for a special token or an id without one (a padded vocabulary)."""
        return self._token_bytes[token_id] if 0 <= token_id < len(self._token_bytes) else b""

    @classmethod
    def read(cls, tokenizer_json: Path) -> Vocabulary:
        """Read a tokenizer.json; ValueError if it is not byte-level BPE."""
        plain = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        if plain["model"]["type"] != "BPE" or (plain["decoder"] or {}).get("type") != "ByteLevel":
            raise ValueError(
                f"{tokenizer_json}: model {plain['model']['type']!r} with decoder {plain['decoder']!r}; "
                "only byte-level BPE is supported (model 'BPE', decoder 'ByteLevel'), as Qwen3-VL has it"
            )
        tokens: dict[int, str] = {token_id: token for token, token_id in plain["model"]["vocab"].items()}
        special = set()
        for added in plain["added_tokens"]:
            tokens[added["id"]] = added["content"]
            if added["special"]:
                special.add(added["id"])
        size = max(tokens) + 1
        return cls(b"" if i in special or i not in tokens else _to_bytes(tokens[i]) for i in range(size))


class Detokenizer:
    """The text of one answer. Keeps at most three bytes back: those of an unfinished character."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The characters that are complete with this token, often none or several."""
        return self._decoder.decode(self._vocabulary.bytes_of(token_id))

    def flush(self) -> str:
        """The rest at the end of the answer: U+FFFD if it ends inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for each byte; the others follow from U+0100."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in own}
    others = [byte for byte in range(256) if byte not in set(own)]
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _to_bytes(token: str) -> bytes:
    """A token with a character outside the alphabet (only added tokens can have one) stands for itself."""
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode("utf-8")
