"""Scenes: complete in both languages, and in the form that the demo checkpoint has learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engine.demo import dialogue
from gateway.errors import InvalidInput, NotFound
from gateway.records import Language, Sampling
from gateway.scene import Scene, sampling_presets, scenes

NAMES = ["after_sales", "education", "finance_review", "technical_support"]
LANGUAGES: tuple[Language, Language] = ("zh", "en")


@pytest.mark.parametrize("profile", ["default", "demo"])
@pytest.mark.parametrize("name", NAMES)
def test_every_scene_is_complete_in_both_languages(profile: str, name: str) -> None:
    scene = scenes(profile)[name]
    assert (scene.name, scene.scope, scene.enabled) == (name, name, True)
    assert 0 < scene.threshold < 1
    for text in (scene.title, scene.system, scene.draft, scene.reference):
        assert text("zh") != text("en")
        assert any("\u4e00" <= letter <= "\u9fff" for letter in text("zh"))
        assert text("en").isascii()
    assert len(scene.presets) >= 2
    assert all(preset.prompt.zh and preset.prompt.en.isascii() for preset in scene.presets)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_full_style_asks_for_citations_and_honesty(name: str, language: Language) -> None:
    text = scenes()[name].system(language)
    assert "[n]" in text
    assert {"zh": "不要编造", "en": "make nothing up"}[language] in text
    assert {"zh": "客户使用的语言", "en": "the customer's language"}[language] in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_demo_style_is_what_the_checkpoint_was_trained_with(name: str, language: Language) -> None:
    scene = Scene.load(name, "demo")
    assert scene.style == "demo"
    assert scene.system(language) in dialogue.SYSTEM_PROMPTS
    assert scene.reference(language) == dialogue.REFERENCE[language]
    assert scene.draft(language) in dialogue.DIAGNOSE[language]


def test_sampling_values_of_the_tutorial_and_of_the_makers_are_offered() -> None:
    presets = {preset.name: preset.values.model_dump(exclude_none=True) for preset in sampling_presets()}
    assert presets == {
        "tutorial": {"temperature": 0.9, "top_p": 0.95, "max_tokens": 1024},
        "qwen": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5},
    }
    qwen = Sampling(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5, max_tokens=1024)
    assert {scene.sampling for scene in scenes().values()} == {qwen}
    assert scenes("demo")["education"].sampling == Sampling(temperature=0, max_tokens=256)


def test_private_papers_are_not_cached_and_need_more_certainty() -> None:
    found = scenes()
    assert not found["finance_review"].cacheable
    assert found["finance_review"].threshold == max(scene.threshold for scene in found.values())


def test_a_profile_turns_scenes_off_and_moves_thresholds(tmp_path: Path) -> None:
    profile = tmp_path / "shop.yaml"
    profile.write_text(
        "extends: default\nscenes: {education: {enabled: false}, after_sales: {threshold: 0.7}}\n"
    )
    found = scenes(str(profile))
    assert not found["education"].enabled
    assert found["after_sales"].threshold == 0.7
    assert found["after_sales"].prompt_version != scenes()["after_sales"].prompt_version
    profile.write_text("extends: default\nscenes: {eduction: {enabled: false}}\n")
    with pytest.raises(InvalidInput, match="eduction"):
        scenes(str(profile))


def test_the_prompt_version_follows_the_words_and_nothing_else() -> None:
    assert scenes()["education"].prompt_version == Scene.load("education").prompt_version
    versions = {scene.prompt_version for profile in ("default", "demo") for scene in scenes(profile).values()}
    assert len(versions) == 8


@pytest.mark.parametrize("name", ["nothing", "../profiles/default", ""])
def test_unknown_scenes_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(NotFound, match="after_sales, education, finance_review, technical_support"):
        Scene.load(name)
