"""Scenes: what customers come for, each a YAML file in gateway/scenes, as a profile changes it.

A scene knows its instructions, its articles' scope, how sure an answer must be, and what the page offers. It does not
know how a prompt is put together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import InvalidInput, NotFound
from gateway.profiles.profile import Bilingual, Profile, SamplingPreset, SamplingValues
from gateway.records import Language, Sampling

_DIRECTORY: Final = Path(__file__).parent / "scenes"


class Preset(BaseModel):
    """A question that the page offers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Bilingual
    prompt: Bilingual


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Bilingual
    enabled: bool = True
    scope: str = Field(min_length=1)
    cacheable: bool = True
    threshold: float = Field(ge=0, le=1)
    sampling: SamplingValues
    system: Bilingual
    draft: Bilingual
    reference: Bilingual
    presets: tuple[Preset, ...] = ()


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        name: of its file.
        titles: what customers read.
        enabled: whether it is offered.
        style: "full" for a Qwen3-VL, "demo" for the demo checkpoint, which knows one form of instructions only.
        scope: which articles belong to it.
        cacheable: whether an answer may be given again to somebody else.
        threshold: an answer less sure than this goes to a person.
        sampling: where the customer's request says nothing.
        presets: questions that the page offers.
        prompt_version: changes with every word of the instructions.
    """

    name: str
    titles: Bilingual
    enabled: bool
    style: Literal["full", "demo"]
    scope: str
    cacheable: bool
    threshold: float
    sampling: Sampling
    presets: tuple[Preset, ...]
    prompt_version: str
    prompts: tuple[Bilingual, Bilingual, Bilingual]

    def title(self, language: Language) -> str:
        """What customers read."""
        return self.titles.of(language)

    def system(self, language: Language) -> str:
        """The instructions."""
        return self.prompts[0].of(language)

    def draft(self, language: Language) -> str:
        """Asks what a picture shows, so that articles can be found for it."""
        return self.prompts[1].of(language)

    def reference(self, language: Language) -> str:
        """What stands above the articles."""
        return self.prompts[2].of(language)

    @classmethod
    def load(cls, name: str, profile: str = "default") -> Scene:
        """One scene as a profile changes it; NotFound with the names there are."""
        return _scene(name, Profile.load(profile))


def scenes(profile: str = "default") -> dict[str, Scene]:
    """All scenes by name, also those that are not enabled."""
    loaded = Profile.load(profile)
    names = [file.stem for file in sorted(_DIRECTORY.glob("*.yaml"))]
    if unknown := sorted(set(loaded.scenes) - set(names)):
        raise InvalidInput(f"profile {profile}: scenes", ", ".join(unknown), ", ".join(names))
    return {name: _scene(name, loaded) for name in names}


def sampling_presets(profile: str = "default") -> tuple[SamplingPreset, ...]:
    """Named sampling values that the page offers."""
    return Profile.load(profile).sampling_presets


def _scene(name: str, profile: Profile) -> Scene:
    path = _DIRECTORY / f"{name}.yaml"
    if path.parent != _DIRECTORY or not path.is_file():
        known = ", ".join(sorted(file.stem for file in _DIRECTORY.glob("*.yaml")))
        raise NotFound(f"scene: got {name!r}, allowed: {known}")
    content = path.read_bytes()
    try:
        file = _File.model_validate(yaml.safe_load(content))
    except ValidationError as error:
        raise InvalidInput(f"scene {name}", "a file of another form", str(error)) from error
    own, changed = profile.prompts, profile.scenes.get(name)
    prompts = (own.system or file.system, own.draft or file.draft, own.reference or file.reference)
    sampling = own.sampling or file.sampling
    enabled, threshold = file.enabled, file.threshold
    if changed is not None:
        enabled = enabled if changed.enabled is None else changed.enabled
        threshold = threshold if changed.threshold is None else changed.threshold
    return Scene(
        name=name,
        titles=file.title,
        enabled=enabled,
        style=profile.style,
        scope=file.scope,
        cacheable=file.cacheable,
        threshold=threshold,
        sampling=_sampling(sampling),
        presets=file.presets,
        prompt_version=hashlib.sha256(content + profile.model_dump_json().encode()).hexdigest()[:16],
        prompts=prompts,
    )


def _sampling(values: SamplingValues) -> Sampling:
    chosen: dict[str, Any] = values.model_dump(exclude_none=True)
    return Sampling(**chosen)
