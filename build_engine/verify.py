"""Compares built engines with transformers in float32, output by output.

What is compared: every kind of visual row (merged feature, each DeepStack level), the logits after each
prompt and at each of the following tokens, and the most likely token there. The engines are fed transformers'
own greedy tokens, so one different token does not spoil the comparison of all later ones.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Manifest, ManifestError, VisionFacts
from build_engine.samples import Sample, make_samples, virtual_ids
from build_engine.trial import Trial

_EPILOG = """\
Runs sample requests (text, odd image grids, several images, a video) through the engines and through
transformers in float32, prints the largest and the mean error of every output, and how many greedy tokens
agree.
Exit code 1 when an error is above what the engines' weights explain, 2 when the comparison could not be made.
"""
NEW_TOKENS: Final = 16
ALLOWED: Final = {"f32": 1e-3, "bf16": 0.08, "int8": 0.12, "int4": 0.6}
"""Largest mean error of an output that the weights explain, as a part of the output's standard deviation."""


@dataclass(frozen=True)
class Comparison:
    """Errors of one output: absolute, and the spread of the reference to judge them by."""

    name: str
    largest: float
    mean: float
    spread: float

    @classmethod
    def of(cls, name: str, got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Comparison:
        """Compare two arrays of one shape."""
        error = np.abs(got - expected)
        return cls(name, float(error.max()), float(error.mean()), float(expected.std()))

    def holds(self, weights: str) -> bool:
        """Whether the mean error (for f32 the largest) is within what the weights explain."""
        return (self.largest if weights == "f32" else self.mean) <= ALLOWED[weights] * self.spread


class Transformers:
    """The checkpoint under transformers, in float32."""

    def __init__(self, checkpoint: Path, vision: VisionFacts) -> None:
        from transformers import Qwen3VLForConditionalGeneration

        self.model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.vision = vision

    @torch.no_grad()
    def encode(self, pixels: npt.NDArray[np.uint8], grids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """[V, 1 + D, H]: merged features and DeepStack levels."""
        made = self.model.model.visual(
            self.normalise(pixels), grid_thw=torch.from_numpy(grids.astype(np.int64))
        )
        return np.asarray(torch.stack([made.pooler_output, *made.deepstack_features], 1).numpy())

    @torch.no_grad()
    def answer(self, sample: Sample, count: int) -> tuple[list[int], npt.NDArray[np.float32]]:
        """`count` greedy tokens, and the logits [count, vocab_size] that chose them."""
        given = self._inputs(sample)
        # transformers keeps the offset of the last pictures it saw, and would apply it to a text without any.
        self.model.model.rope_deltas = None
        state = self.model(**given, use_cache=True)
        tokens, logits = [], []
        for _ in range(count):
            logits.append(state.logits[0, -1].numpy())
            tokens.append(int(state.logits[0, -1].argmax()))
            state = self.model(
                input_ids=torch.tensor([tokens[-1:]]), past_key_values=state.past_key_values, use_cache=True
            )
        return tokens, np.stack(logits)

    @torch.no_grad()
    def rotary(
        self, sample: Sample, new_tokens: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """cos and sin [positions, head_dim] of the prompt and of `new_tokens` after it."""
        given = self._inputs(sample)
        positions = torch.arange(len(sample.ids))[None, None].expand(3, 1, -1)
        if sample.items:
            grids = {name: given.get(name) for name in ("image_grid_thw", "video_grid_thw")}
            positions, _ = self.model.model.get_rope_index(
                given["input_ids"], mm_token_type_ids=given["mm_token_type_ids"], **grids
            )
        after = positions.max() + 1 + torch.arange(new_tokens)
        positions = torch.cat([positions, after[None, None].expand(3, 1, -1)], dim=2)
        cos, sin = self.model.model.language_model.rotary_emb(torch.zeros(1), positions)
        return cos[0].numpy(), sin[0].numpy()

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Patches as the processors normalise them, float32 [N, K]."""
        vision = self.vision
        shaped = torch.from_numpy(pixels).float().reshape(len(pixels), vision.in_channels, -1)
        mean, std = (torch.tensor(values)[None, :, None] for values in (vision.image_mean, vision.image_std))
        return ((shaped * vision.rescale_factor - mean) / std).reshape(len(pixels), -1)

    def _inputs(self, sample: Sample) -> dict[str, torch.Tensor]:
        config = self.model.config
        ids = torch.from_numpy(sample.ids)[None]
        kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for kind, pixels_name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if items := [item for item in sample.items if item.kind == kind]:
                given["mm_token_type_ids"] = kinds
                given[pixels_name] = self.normalise(np.concatenate([item.pixels for item in items]))
                given[f"{kind}_grid_thw"] = torch.tensor([item.grid for item in items])
        return given


def verify(engines: Path, checkpoint: Path) -> bool:
    """Compare and print; True when every output is within what the engines' weights explain."""
    manifest = Manifest.read(engines, check_files=True)
    if Checkpoint.read(checkpoint).content_hash() != manifest.checkpoint_hash:
        raise ManifestError(
            f"{engines} was built from another checkpoint than {checkpoint}, or from an older state of it"
        )
    reference, trial = Transformers(checkpoint, manifest.vision), Trial(engines)
    comparisons, agreed, total = [], 0, 0
    for sample in make_samples(manifest):
        made, same = compare(sample, reference, trial)
        comparisons += made
        agreed, total = agreed + same, total + NEW_TOKENS
    return _print(comparisons, agreed, total, manifest.weights)


def compare(sample: Sample, reference: Transformers, trial: Trial) -> tuple[list[Comparison], int]:
    """Comparisons of one sample, and how many of NEW_TOKENS greedy tokens agree."""
    comparisons = []
    rows = None
    if sample.items:
        pixels = np.concatenate([item.pixels for item in sample.items])
        grids = np.array([item.grid for item in sample.items], np.int32)
        rows, expected_rows = trial.encode(pixels, grids), reference.encode(pixels, grids)
        for level in range(rows.shape[1]):
            part = f"deepstack level {level - 1}" if level else "merged feature"
            comparisons.append(
                Comparison.of(f"{sample.name}: {part}", rows[:, level], expected_rows[:, level])
            )
    tokens, expected = reference.answer(sample, NEW_TOKENS)
    logits = answer_forced(sample, tokens, reference, trial, rows)
    comparisons.append(Comparison.of(f"{sample.name}: logits", logits, expected))
    return comparisons, int((logits.argmax(1) == np.array(tokens)).sum())


def answer_forced(
    sample: Sample,
    tokens: list[int],
    reference: Transformers,
    trial: Trial,
    rows: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """The engines' logits [len(tokens), vocab_size] at each place of an answer that is given."""
    prompt = virtual_ids(sample, trial.manifest)
    ids = np.concatenate([prompt, tokens[:-1]]).astype(np.int32)
    request = trial.request(ids, *reference.rotary(sample, len(tokens)), rows)
    logits = [trial.step([(request, len(prompt))])]
    logits += [trial.step([(request, 1)]) for _ in tokens[:-1]]
    trial.release(request)
    return np.concatenate(logits)


def _print(comparisons: list[Comparison], agreed: int, total: int, weights: str) -> bool:
    measured = "max" if weights == "f32" else "mean"
    print(
        f"{'output':<36} {'max error':>10} {'mean error':>10} {'std':>8}   "
        f"{weights}: {measured} <= {ALLOWED[weights]} std"
    )
    for made in comparisons:
        verdict = "ok" if made.holds(weights) else "TOO FAR"
        print(f"{made.name:<36} {made.largest:10.2e} {made.mean:10.2e} {made.spread:8.3f}   {verdict}")
    print(f"greedy tokens that agree: {agreed} of {total}")
    return all(made.holds(weights) for made in comparisons) and (weights != "f32" or agreed == total)


def main(arguments: list[str]) -> int:
    """The command `verify`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m build_engine verify",
        description="Compare built engines with transformers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engines", type=Path, help="directory that the build wrote")
    parser.add_argument("checkpoint", type=Path, help="checkpoint it was built from")
    given = parser.parse_args(arguments)
    return 0 if verify(given.engines, given.checkpoint) else 1
