"""A deployment with both forms of the weights: prompts go to one, answers to the other, over one cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch

from build_engine.manifest import Manifest
from build_engine.openvino_ir import has_integer_products, tile_tokens
from build_engine.samples import Sample, make_samples
from build_engine.trial import Trial
from build_engine.verify import Transformers, answer_forced
from ensemble.config import DeploymentConfig
from ensemble.language_model import forward, tiles
from ensemble.language_model.batch import Batch
from ensemble.language_model.forward import OpenVinoLanguageModel, Scores
from ensemble.language_model.tiles import LARGE

pytestmark = pytest.mark.skipif(
    not has_integer_products(), reason="without VNNI or AMX, int8 products overflow; the form is refused"
)

EnginesOf = Callable[[Path, str], Path]
NEW_TOKENS = 12
# Mean error of the logits, in standard deviations: twice what was measured on the demo checkpoint.
ALLOWED = {"int8": 0.05, "int4": 0.2, "bf16": 0.02}


needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="without bfloat16 arithmetic, bf16 weights have no form for tiles",
)


@pytest.fixture(autouse=True)
def amx(processor: Callable[[str], None]) -> None:
    """The forms give the same numbers on a processor without AMX, only not as fast."""
    processor("avx512_vnni amx_bf16 amx_int8")


class Served(Trial):
    """A trial whose steps are computed by what the server runs, and that notes their tokens by the form."""

    def __init__(self, directory: Path, matrix_tiles: str) -> None:
        super().__init__(directory, threads=1)
        # With two threads, the first form of bf16 weights is fused.
        config = DeploymentConfig(
            engines=directory, matrix_tiles=matrix_tiles, threads=2, kv_cache_bytes=64 << 20
        )
        self.model = OpenVinoLanguageModel.load(config, self.manifest)
        self.wants_logits = True
        self.steps: dict[str, list[int]] = {"small": [], "large": []}
        for name in self.steps:
            self._note(name)

    def _note(self, name: str) -> None:
        forward = getattr(self.model, f"_{name}").forward

        def noted(batch: Batch) -> Scores:
            self.steps[name].append(len(batch.input_ids))
            scores: Scores = forward(batch)
            return scores

        getattr(self.model, f"_{name}").forward = noted

    def _infer(self, inputs: dict[str, Any]) -> np.ndarray:
        if not self.wants_logits:
            inputs["logits_index"] = np.zeros(0, np.int32)
        scores = self.model.forward(Batch(**inputs))
        logits = np.array(scores.logits)
        exact = torch.logsumexp(torch.tensor(logits, dtype=torch.float64), dim=1).numpy()
        np.testing.assert_allclose(scores.logsumexp, exact, rtol=0, atol=1e-5)
        return logits


@pytest.fixture(scope="module")
def reference(demo_checkpoint: Path, demo_engines: Path) -> Transformers:
    torch.set_num_threads(1)
    return Transformers(demo_checkpoint, Trial(demo_engines, threads=1).manifest.vision)


def _answers(served: Served, reference: Transformers, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    tokens, expected = reference.answer(sample, NEW_TOKENS)
    rows = None
    if sample.items:
        grids = np.array([item.grid for item in sample.items], np.int32)
        rows = served.encode(np.concatenate([item.pixels for item in sample.items]), grids)
    return answer_forced(sample, tokens, reference, served, rows), expected


@pytest.mark.parametrize("weights", ["int8", "int4", pytest.param("bf16", marks=needs_bfloat16)])
def test_answers_go_on_from_the_prompt_that_the_other_form_computed(
    weights: str, demo_checkpoint: Path, engines_of: EnginesOf, reference: Transformers
) -> None:
    served = Served(engines_of(demo_checkpoint, weights), "on")
    long = [sample for sample in make_samples(served.manifest, seed=3) if len(sample.ids) >= LARGE]
    assert len(long) >= 3
    for sample in long:
        made, expected = _answers(served, reference, sample)
        # An answer that did not find its prompt in the cache would be as far off as another answer: about 1.
        assert np.abs(made - expected).mean() < ALLOWED[weights] * expected.std(), sample.name
    assert len(served.steps["large"]) == len(long)
    assert min(served.steps["large"]) >= LARGE
    assert served.steps["small"] == [1] * (NEW_TOKENS - 1) * len(long)


def test_off_leaves_every_step_to_the_first_form(
    demo_checkpoint: Path, engines_of: EnginesOf, reference: Transformers
) -> None:
    served = Served(engines_of(demo_checkpoint, "int8"), "off")
    assert served.model._small is served.model._large
    sample = max(make_samples(served.manifest, seed=3), key=lambda one: len(one.ids))
    made, expected = _answers(served, reference, sample)
    assert np.abs(made - expected).mean() < ALLOWED["int8"] * expected.std()


def test_a_step_that_is_too_long_for_tiles_goes_to_the_first_form(
    demo_checkpoint: Path, engines_of: EnginesOf, reference: Transformers
) -> None:
    served = Served(engines_of(demo_checkpoint, "int8"), "on")
    sample = max(make_samples(served.manifest, seed=3), key=lambda one: len(one.ids))
    served.model.max_num_tokens = len(sample.ids) - 1
    made, expected = _answers(served, reference, sample)
    assert np.abs(made - expected).mean() < ALLOWED["int8"] * expected.std()
    assert served.steps["large"] == []


@needs_bfloat16
@pytest.mark.parametrize(
    ("faster", "times"),
    # In turns, the first form before the other one. In one turn of three the machine is slow in the wrong moment.
    [(True, (1.0, 0.8, 0.5, 2.0, 1.0, 0.8)), (False, (0.8, 1.0, 2.0, 0.5, 0.8, 1.0))],
)
def test_auto_keeps_the_form_of_bf16_weights_that_computes_a_long_step_faster(
    faster: bool,
    times: tuple[float, ...],
    demo_checkpoint: Path,
    engines_of: EnginesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = engines_of(demo_checkpoint, "bf16")
    manifest = Manifest.read(directory)
    steps: list[int] = []
    measured = iter(times)

    def seconds(work: Callable[[], Scores]) -> float:
        work()
        return next(measured)

    monkeypatch.setattr(tiles, "_WORTH_BYTES", 1)
    monkeypatch.setattr(forward, "_seconds", seconds)
    compute = forward._Graph.forward

    def counted(graph: forward._Graph, batch: Batch) -> Scores:
        steps.append(len(batch.input_ids))
        return compute(graph, batch)

    monkeypatch.setattr(forward._Graph, "forward", counted)
    config = DeploymentConfig(engines=directory, threads=2, kv_cache_bytes=64 << 20)
    model = OpenVinoLanguageModel.load(config, manifest)
    most = tile_tokens(manifest)
    assert (model._large is not model._small) is faster
    assert model.max_num_tokens == (most if faster else 0)
    assert steps == [most] * (2 + len(times)) + [1, *([LARGE] if faster else [])], (
        "both are measured, and what is kept is warm"
    )


@pytest.mark.parametrize("matrix_tiles", ["off", "on"])
@pytest.mark.parametrize("weights", ["int8", "int4", pytest.param("bf16", marks=needs_bfloat16)])
def test_a_part_of_a_prompt_that_wants_no_logits_is_all_there_for_the_rest_of_it(
    weights: str, matrix_tiles: str, demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    served = Served(engines_of(demo_checkpoint, weights), matrix_tiles)
    text = served.manifest.text
    random = np.random.default_rng(5)
    ids = random.integers(0, text.vocab_size, 2 * LARGE + 1).astype(np.int32)
    cos, sin = random.standard_normal((2, len(ids), text.head_dim)).astype(np.float32)
    answers = []
    for wants_logits in (True, False):
        request = served.request(ids, cos, sin)
        served.wants_logits = wants_logits
        first = served.step([(request, LARGE)])
        assert first.shape == (int(wants_logits), text.vocab_size)
        served.wants_logits = True
        answers.append(np.concatenate([served.step([(request, LARGE)]), served.step([(request, 1)])]))
        served.model.clear(request.blocks)
    assert np.array_equal(*answers)


def test_a_cleared_block_is_empty_for_both_forms(demo_checkpoint: Path, engines_of: EnginesOf) -> None:
    served = Served(engines_of(demo_checkpoint, "int8"), "on")
    ids = np.arange(LARGE, dtype=np.int32)
    angles = np.ones((LARGE + 1, served.manifest.text.head_dim), np.float32)
    request = served.request(ids, angles, angles)
    served.step([(request, LARGE)])
    caches = [cache.array for cache in served.model._caches.values()]
    assert all(cache[request.blocks].any() for cache in caches)
    served.model.clear(request.blocks)
    assert not any(cache[request.blocks].any() for cache in caches)
