"""An evaluation set: questions with what is known about good answers, one JSON object a line.

It knows the form, on disk and as records. It does not know where cases come from or who answers them.

    {"id": "...", "scene": "after_sales", "language": "zh", "messages": [{"role": "user", "content": [
        {"type": "image", "file": "media/3f2a.jpg", "mime": "image/jpeg"}, {"type": "text", "text": "怎么办？"}]}],
     "reference": "a good answer", "rejected": "a bad one", "key_phrases": ["长按电源键"], "citations": ["black-screen"],
     "rating": 5, "comment": "", "confidence": 0.9, "handoff": "", "versions": {"model": "...", "prompt": "..."}}

All but id, scene, language and messages may be left out. Files are relative to the set's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import InvalidInput
from gateway.records import Language


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Words(_Part):
    """What was written."""

    type: Literal["text"]
    text: str


class File(_Part):
    """A picture or recording."""

    type: Literal["image", "video"]
    file: str
    mime: str


class Turn(_Part):
    """A message."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Words | File, ...]


class Case(_Part):
    """A question, and what is known about its answers. See the module."""

    id: str = Field(min_length=1)
    scene: str
    language: Language
    messages: tuple[Turn, ...] = Field(min_length=1)
    reference: str = ""
    rejected: str = ""
    key_phrases: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    rating: int | None = Field(default=None, ge=1, le=5)
    comment: str = ""
    confidence: float | None = None
    handoff: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


def read(path: Path) -> list[Case]:
    """A whole set. InvalidInput names the line and field; an id that stands twice, or a missing file, is refused too."""
    cases: list[Case] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            case = Case.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "line"
            raise InvalidInput(
                f"{where}, {field}", first["type"], "see gateway/evaluation/cases.py"
            ) from error
        if case.id in seen:
            raise InvalidInput(f"{where}, id", "one that stands above", "each once")
        for file in files(case):
            if not _inside(path.parent, file.file).is_file():
                raise InvalidInput(f"{where}, file", repr(file.file), "files beside the set")
        seen.add(case.id)
        cases.append(case)
    if not cases:
        raise InvalidInput(path.name, "no cases", "one JSON object a line")
    return cases


def write(path: Path, cases: Sequence[Case]) -> None:
    """A whole set."""
    lines = [case.model_dump_json(exclude_defaults=True, exclude_none=True) for case in cases]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def files(case: Case) -> list[File]:
    """All media of a case, in order."""
    return [part for turn in case.messages for part in turn.content if isinstance(part, File)]


def content(path: Path, file: File) -> bytes:
    """The bytes of a file of the set at `path`."""
    return _inside(path.parent, file.file).read_bytes()


def _inside(directory: Path, name: str) -> Path:
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise InvalidInput("file", repr(name), "a path below the set's directory")
    return path
