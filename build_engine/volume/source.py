"""Where a checkpoint can come from, and which of the files there belong to one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from build_engine.shards import INDEX, SINGLE
from build_engine.volume import AbsentError

CONFIG: Final = "config.json"
_TEXTS: Final = frozenset({
    CONFIG, "generation_config.json", "quantize_config.json",
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json",
    "chat_template.jinja", "chat_template.json",
})  # fmt: skip
"""Configuration, tokenizer, processors and chat template, as Qwen3-VL and transformers name them."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a source.

    Attributes:
        address: how the source finds it.
        version: changes whenever the content does.
        sha256: if the source tells it.
    """

    name: str
    size: int
    address: str
    version: str
    sha256: str | None = None


@dataclass(frozen=True)
class Listing:
    """All files of a source at one moment. `commit` names the moment, "" where it has no name."""

    commit: str
    files: dict[str, RemoteFile]

    def texts(self) -> list[RemoteFile]:
        """The small files of a checkpoint, and the index of its weights."""
        return [file for name, file in sorted(self.files.items()) if name in _TEXTS or name == INDEX]

    def weights(self, index: str | None, origin: str) -> list[RemoteFile]:
        """The files with its weights.

        Args:
            index: the text of the index of its weights, None if there is none.
            origin: for messages.
        """
        names = [SINGLE]
        if index is not None:
            try:
                names = sorted(set(json.loads(index)["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise AbsentError(f"{origin}: {INDEX} is not a safetensors index ({error!r})") from error
        if missing := [name for name in names if name not in self.files]:
            raise AbsentError(
                f"{origin} has no {', '.join(missing[:3])}{' ...' if missing[3:] else ''}: only safetensors weights are read, "
                "and an upload may not be finished"
            )
        return [self.files[name] for name in names]


class Source(Protocol):
    """A place that holds a checkpoint. Both methods raise FailedError or AbsentError with what to do."""

    @property
    def name(self) -> str:
        """As the command line spells it, without a revision."""
        ...

    @property
    def revision(self) -> str:
        """The branch, tag or commit that was asked for; "" if there are none."""
        ...

    def list(self) -> Listing:
        """The files that lie at the top of it."""
        ...

    def append(self, file: RemoteFile, offset: int, part: BinaryIO) -> None:
        """Write what follows the first `offset` bytes of `file` to `part`, whose end is there. Several threads call it."""
        ...


def parse(text: str) -> Source | None:
    """The source that `text` names; None for a local path. ValueError when it is neither."""
    if match := re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?", text):
        from build_engine.volume.hub import Hub

        return Hub(match[1], match[2] or "main")
    if match := re.fullmatch(r"s3://([\w.-]+)(?:/(.*))?", text):
        from build_engine.volume.bucket import Bucket

        return Bucket(match[1], (match[2] or "").strip("/"))
    if "://" in text:
        raise ValueError(
            f"SOURCE {text!r} is none of hf://ORG/NAME[@REVISION], s3://BUCKET[/PREFIX], or a local path"
        )
    return None
