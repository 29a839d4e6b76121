"""A profile file, typed: words and sentences of the output policy, and what it changes in the scenes.

It knows the file's form. Scenes and policy know what the values mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import InvalidInput, NotFound
from gateway.records import Language

_DIRECTORY: Final = Path(__file__).parent
Level = Literal["", "warn", "handoff", "block"]
"""What becomes of an answer that holds a word: nothing, a note, a person looks at it, it is cut."""
_Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bilingual(_Section):
    """A text in both languages."""

    zh: str
    en: str

    def of(self, language: Language) -> str:
        """The text in one language."""
        return self.zh if language == "zh" else self.en


class BlockedWord(_Section):
    """See `gateway.policy.lexicon.Word`. `asked`: `level` when left out."""

    word: _Text
    forms: tuple[_Text, ...] = ()
    level: Level = "block"
    asked: Level | None = None
    allow: tuple[_Text, ...] = ()


class Blocked(_Section):
    """The words, and what is said instead of an answer that holds one."""

    replacement: Bilingual
    words: tuple[BlockedWord, ...] = ()


class SamplingValues(_Section):
    """Names and ranges as OpenAI and the model server have them."""

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)


class SamplingPreset(_Section):
    """A named choice of sampling values for the page."""

    name: _Text
    title: Bilingual
    values: SamplingValues


class Prompts(_Section):
    """What stands in place of every scene's own; None leaves it."""

    system: Bilingual | None = None
    draft: Bilingual | None = None
    reference: Bilingual | None = None
    sampling: SamplingValues | None = None


class SceneChange(_Section):
    """What is different in one scene; None leaves it."""

    enabled: bool | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)


class Profile(_Section):
    """A whole profile. `calibration`: a name in gateway/confidence, or a path."""

    style: Literal["full", "demo"] = "full"
    blocked: Blocked
    disclaimer: Bilingual
    calibration: _Text = "default"
    prompts: Prompts = Prompts()
    scenes: dict[str, SceneChange] = Field(default_factory=dict)
    sampling_presets: tuple[SamplingPreset, ...] = ()

    @classmethod
    def load(cls, name: str) -> Profile:
        """A shipped profile by its name, or any file by its path. `extends` names the one whose values it begins with."""
        try:
            return cls.model_validate(_read(name, ()))
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()
            )
            raise InvalidInput(f"profile {name}", "a file of another form", what) from error


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise InvalidInput(f"profile {name}", "a profile that extends itself", "a chain with an end")
    path = Path(name) if name.endswith((".yaml", ".yml")) else _DIRECTORY / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _DIRECTORY.glob("*.yaml")))
        raise NotFound(f"profile: got {name!r}, allowed: {known}, or the path of a .yaml file")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise InvalidInput(
            f"profile {name}", "no mapping", "a YAML mapping as in gateway/profiles/default.yaml"
        )
    base = values.pop("extends", None)
    return values if base is None else {**_read(str(base), (*seen, name)), **values}
