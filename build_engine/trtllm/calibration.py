"""Sample prompts that ModelOpt measures activations on: reading them, and making transformers' inputs of them.

A line of the JSONL file is `{"messages": [...], "images": ["photo.jpg"]}`: an OpenAI chat whose `{"type": "image"}` parts stand,
in order, for the images (paths from the file's own directory), or `{"text": "..."}`: one user message. A chat may end
with the assistant's answer; real answers calibrate best.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from build_engine.checkpoint import Checkpoint, chat_template

SHIPPED: Final = Path(__file__).with_name("calibration.jsonl")
"""Prompts of customer service in Chinese and English, some with pictures: enough to start with, not to tune on."""
_IMAGE_PAD = "<|image_pad|>"


class CalibrationError(ValueError):
    """A prompt cannot be used: the file, the line, and what is wrong."""


@dataclass(frozen=True)
class Prompt:
    """A chat, and the pictures that its image parts stand for."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[Path, ...] = ()


def read(path: Path) -> tuple[Prompt, ...]:
    """Read a JSONL file; CalibrationError names the first line that cannot be used."""
    if not path.is_file():
        raise CalibrationError(f"{path} is missing; give a JSONL file of prompts")
    lines = path.read_text(encoding="utf-8").splitlines()
    prompts = tuple(
        _parse(line, f"{path}:{number}", path.parent) for number, line in enumerate(lines, 1) if line.strip()
    )
    if not prompts:
        raise CalibrationError(f"{path} holds no prompt")
    return prompts


def _parse(line: str, where: str, directory: Path) -> Prompt:
    try:
        plain = json.loads(line)
    except ValueError as error:
        raise CalibrationError(f"{where}: not JSON ({error})") from error
    if not isinstance(plain, dict) or not ({"text", "messages"} & plain.keys()):
        raise CalibrationError(f'{where}: an object with "text" or "messages" is needed')
    messages = plain.get("messages", [{"role": "user", "content": plain.get("text")}])
    places = 0
    if not isinstance(messages, list) or not messages:
        raise CalibrationError(f"{where}: messages must be a list with at least one message")
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str | list) or not content or "role" not in message:
            raise CalibrationError(
                f"{where}: a message has a role and a content (a string, or a list of parts)"
            )
        if isinstance(content, list):
            kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
            if not set(kinds) <= {"text", "image"}:
                raise CalibrationError(f"{where}: parts are of type text or image, not {kinds}")
            places += kinds.count("image")
    images = tuple(directory / name for name in plain.get("images", []))
    if len(images) != places:
        raise CalibrationError(f"{where}: {places} image parts, but {len(images)} images")
    for image in images:
        if not image.is_file():
            raise CalibrationError(f"{where}: {image} is missing")
    return Prompt(tuple(messages), images)


def encode(prompts: tuple[Prompt, ...], checkpoint: Checkpoint, device: str) -> Iterator[dict[str, Any]]:
    """Keyword arguments of Qwen3VLForConditionalGeneration.forward, one prompt at a time."""
    from PIL import Image
    from transformers import AutoImageProcessor, PreTrainedTokenizerFast

    # By its file: tokenizer_config.json of transformers 5 names classes that 4.57 does not have.
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint.directory / "tokenizer.json"))
    processor = AutoImageProcessor.from_pretrained(checkpoint.directory, use_fast=False)
    template = chat_template(checkpoint.directory)
    merged = checkpoint.vision.spatial_merge_size**2
    for prompt in prompts:
        text = tokenizer.apply_chat_template(
            list(prompt.messages),
            chat_template=template,
            tokenize=False,
            add_generation_prompt=prompt.messages[-1]["role"] != "assistant",
        )
        given: dict[str, Any] = {}
        if prompt.images:
            made = processor([Image.open(path).convert("RGB") for path in prompt.images], return_tensors="pt")
            given = {name: made[name].to(device) for name in ("pixel_values", "image_grid_thw")}
            text = expand(text, [int(grid.prod()) // merged for grid in made["image_grid_thw"]])
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(device)
        yield {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"], **given}


def expand(text: str, visual_tokens: list[int]) -> str:
    """Repeat each image placeholder as often as its picture has visual tokens."""
    first, *rest = text.split(_IMAGE_PAD)
    if len(rest) != len(visual_tokens):
        raise CalibrationError(
            f"the chat template made {len(rest)} image places of {len(visual_tokens)} images; is it Qwen3-VL's?"
        )
    return first + "".join(_IMAGE_PAD * count + part for count, part in zip(visual_tokens, rest, strict=True))
