"""The in-flight batcher over the real float32 engine: every answer equals transformers' greedy one, token by
token, whatever else runs, in whichever chunks, after whichever preemption, from whichever blocks.
"""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache, Qwen3VLForConditionalGeneration

from build_engine.manifest import Limits, Manifest
from build_engine.openvino_ir import load_language_model
from ensemble.errors import EngineFailure
from ensemble.language_model.engine import Engine
from ensemble.language_model.forward import OpenVinoLanguageModel
from ensemble.language_model.request import Output, Request, Sampling

NEW_TOKENS = 48


class World:
    """One checkpoint: its engine, and transformers beside it."""

    def __init__(self, checkpoint: Path, engines: Path) -> None:
        self.manifest = Manifest.read(engines)
        self.compiled = load_language_model(engines, self.manifest)
        torch.set_num_threads(1)  # one small sequence at a time: more threads only wait for each other
        model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.text, self.head = model.model.language_model, model.lm_head
        self._answers: dict[str, tuple[list[int], list[float]]] = {}

    def engine(self, num_blocks: int = 64, reuse: bool = True, **limits: int) -> Engine:
        changed = dataclasses.replace(self.manifest.limits, **limits)
        assert isinstance(changed, Limits)
        manifest = dataclasses.replace(self.manifest, limits=changed)
        return Engine(OpenVinoLanguageModel(self.compiled, num_blocks), manifest, reuse)

    def request(
        self, name: str, parts: list[int | tuple[int, int]], sampling: Sampling | None = None
    ) -> Request:
        """Text of n random tokens for an integer n; for (rows, columns) a picture with random features.

        The text depends on n and place only, the picture on `name` too.
        """
        owned, text = self.manifest.rows_per_visual_token, self.manifest.text
        ids: list[int] = []
        positions: list[tuple[int, int, int]] = []
        tables, extra_ids = [np.zeros((0, text.hidden_size), np.float32)], []
        for place, part in enumerate(parts):
            start = 1 + max((max(p) for p in positions), default=-1)
            if isinstance(part, int):
                words = np.random.default_rng((place, part)).integers(0, text.vocab_size, part)
                ids += words.tolist()
                positions += [(start + i,) * 3 for i in range(part)]
                extra_ids += [0] * part
                continue
            rows, columns = part
            first = text.vocab_size + sum(map(len, tables))
            ids += range(first, first + owned * rows * columns, owned)
            positions += [(start, start + r, start + c) for r in range(rows) for c in range(columns)]
            noise = np.random.default_rng([place, *name.encode()])
            tables.append(
                noise.standard_normal((owned * rows * columns, text.hidden_size)).astype(np.float32) / 4
            )
            extra_ids += [int(noise.integers(1, 1 << 62))] * (rows * columns)
        after = 1 + max(max(p) for p in positions)
        positions += [(after + i,) * 3 for i in range(NEW_TOKENS)]
        return Request(
            request_id=name,
            input_ids=np.array(ids, np.int32),
            prompt_embedding_table=np.concatenate([*tables, np.zeros((owned, text.hidden_size), np.float32)]),
            extra_ids=np.array(extra_ids, np.uint64),
            mrope_cos_sin=self._rotary(np.array(positions)),
            max_new_tokens=NEW_TOKENS,
            sampling=sampling or Sampling(),
            return_log_probs=True,
        )

    @torch.no_grad()
    def _rotary(self, positions: np.ndarray) -> np.ndarray:
        half = self.manifest.text.head_dim // 2
        cos, sin = self.text.rotary_emb(torch.zeros(1), torch.tensor(positions.T)[:, None])
        return torch.stack([cos[0, :, :half], sin[0, :, :half]], -1).numpy()

    @torch.no_grad()
    def greedy(self, request: Request) -> tuple[list[int], list[float]]:
        """NEW_TOKENS tokens of transformers' language model and their log-probabilities, one sequence, plain cache."""
        vocab_size, owned = self.manifest.text.vocab_size, self.manifest.rows_per_visual_token
        ids = torch.tensor(request.input_ids, dtype=torch.long)
        visual = ids >= vocab_size
        embeds = self.text.embed_tokens(torch.where(visual, 0, ids))
        rows = torch.tensor(request.prompt_embedding_table)
        embeds[visual] = rows[ids[visual] - vocab_size]
        levels = [rows[ids[visual] - vocab_size + 1 + k] for k in range(owned - 1)] if visual.any() else None
        cache = DynamicCache(config=self.text.config)
        table = torch.tensor(np.concatenate([request.mrope_cos_sin] * 2, axis=1))  # [positions, head_dim, 2]
        self.text.rotary_emb.forward = lambda x, position_ids: tuple(
            table[None, position_ids[0, 0], :, i] for i in (0, 1)
        )
        tokens: list[int] = []
        log_probs: list[float] = []
        for _ in range(NEW_TOKENS):
            past = cache.get_seq_length()
            places = torch.arange(past, past + embeds.shape[0]).expand(3, 1, -1)
            hidden = self.text(
                inputs_embeds=embeds[None],
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                visual_pos_masks=visual[None] if not past and visual.any() else None,
                deepstack_visual_embeds=levels if not past else None,
            ).last_hidden_state
            scores = torch.log_softmax(self.head(hidden[0, -1]).double(), dim=-1)
            tokens.append(int(scores.argmax()))
            log_probs.append(float(scores[tokens[-1]]))
            embeds = self.text.embed_tokens(torch.tensor(tokens[-1:]))
        del self.text.rotary_emb.forward
        return tokens, log_probs

    def expected(self, request: Request) -> list[int]:
        return self._expected(request)[0]

    def expected_log_probs(self, request: Request) -> list[float]:
        return self._expected(request)[1]

    def _expected(self, request: Request) -> tuple[list[int], list[float]]:
        if request.request_id not in self._answers:
            self._answers[request.request_id] = self.greedy(request)
        return self._answers[request.request_id]


@pytest.fixture(
    scope="module", params=["demo", "untied", "three_levels", "no_level", "wide_heads", "one_kv_head"]
)
def world(
    request: pytest.FixtureRequest,
    demo_checkpoint: Path,
    random_checkpoint: Callable[[str], Path],
    engines_of: Callable[[Path, str], Path],
) -> World:
    checkpoint = demo_checkpoint if request.param == "demo" else random_checkpoint(request.param)
    return World(checkpoint, engines_of(checkpoint, "f32"))


class Answer:
    """Tokens of one request, as they come."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        engine.submit(request, self._outputs.put)

    def read(self) -> Output:
        output = self._outputs.get(timeout=120)
        self.tokens += output.token_ids
        self.log_probs += output.log_probs
        return output

    def wait(self) -> Output:
        while not (output := self.read()).finished:
            pass
        return output


PROMPTS: dict[str, list[int | tuple[int, int]]] = {
    "one token": [1],
    "full blocks": [64],
    "text": [70],
    "image": [10, (6, 8), 13],
    "three images": [5, (3, 5), 9, (8, 2), (1, 13), 4],
    "image first": [(7, 9), 3],
    "long": [40, (5, 6), 300],
    "odd": [31, (2, 2), 1],
}


def test_each_alone_equals_transformers(world: World) -> None:
    engine = world.engine()
    for name, parts in PROMPTS.items():
        answer = Answer(engine, request := world.request(name, parts))
        answer.wait()
        assert answer.tokens == world.expected(request), name
    engine.close()


@pytest.mark.parametrize("max_num_tokens", [8, 48, 512])
def test_staggered_arrivals_and_chunked_prompts_equal_transformers(world: World, max_num_tokens: int) -> None:
    engine = world.engine(max_num_tokens=max_num_tokens, max_batch_size=8)
    requests = [world.request(name, parts) for name, parts in PROMPTS.items()]
    answers = []
    for request in requests:
        answers.append(Answer(engine, request))
        answers[0].read()  # the next one arrives some steps later
    for request, answer in zip(requests, answers, strict=True):
        answer.wait()
        assert answer.tokens == world.expected(request), request.request_id
        expected = world.expected_log_probs(request)
        np.testing.assert_allclose(answer.log_probs, expected, rtol=0, atol=1e-3, err_msg=request.request_id)
    assert engine.counters.kv_blocks_in_use == 0
    engine.close()


@pytest.mark.parametrize("reuse", [True, False])
def test_preempted_requests_equal_transformers(world: World, reuse: bool) -> None:
    engine = world.engine(num_blocks=15, reuse=reuse, max_num_tokens=64)
    requests = [world.request(name, parts) for name, parts in PROMPTS.items() if name != "one token"] * 2
    requests = [dataclasses.replace(r, request_id=f"{i}") for i, r in enumerate(requests)]
    names = [name for name in PROMPTS if name != "one token"] * 2
    answers = [Answer(engine, request) for request in requests]
    for name, answer in zip(names, answers, strict=True):
        answer.wait()
        assert answer.tokens == world.expected(world.request(name, PROMPTS[name])), name
    assert engine.counters.preemptions > 0
    assert engine.counters.kv_blocks_in_use == 0
    engine.close()


def test_a_reused_prefix_gives_the_same_answer(world: World) -> None:
    engine = world.engine()
    for name in ("image", "long", "image", "long"):
        answer = Answer(engine, request := world.request(name, PROMPTS[name]))
        last = answer.wait()
        assert answer.tokens == world.expected(request)
    assert last.reused_blocks == 11
    engine.close()


def test_pictures_of_equal_size_and_different_content_share_nothing_and_both_are_right(world: World) -> None:
    engine = world.engine()
    for name in ("a picture", "another picture"):
        answer = Answer(engine, request := world.request(name, [(8, 8), 5]))
        assert answer.wait().reused_blocks == 0
        assert answer.tokens == world.expected(request)
    assert world.expected(world.request("a picture", [(8, 8), 5])) != answer.tokens
    engine.close()


def test_a_request_with_nan_fails_alone_and_spoils_no_block_for_later_ones(world: World) -> None:
    engine = world.engine(num_blocks=15)
    good, bad = world.request("text", PROMPTS["text"]), world.request("image", PROMPTS["image"])
    spoiled = bad.prompt_embedding_table.copy()
    spoiled[7] = np.nan
    first = Answer(engine, good)
    first.read()
    failed = Answer(engine, dataclasses.replace(bad, prompt_embedding_table=spoiled))
    assert isinstance(failed.wait().error, EngineFailure)
    first.wait()
    assert first.tokens == world.expected(good)
    for name in ("long", "image"):
        answer = Answer(engine, request := world.request(name, PROMPTS[name]))
        answer.wait()
        assert answer.tokens == world.expected(request), name
    engine.close()


def test_a_seeded_answer_is_the_same_alone_in_company_and_after_a_preemption(world: World) -> None:
    sampling = Sampling(top_k=0, temperature=1.2, top_p=0.95, seed=1234)
    sampled = world.request("image", PROMPTS["image"], sampling)
    engine = world.engine(num_blocks=7, max_num_tokens=32, reuse=False)
    alone = Answer(engine, sampled)
    alone.wait()
    other = Answer(engine, world.request("text", PROMPTS["text"]))  # both grow into a fourth block
    company = Answer(engine, sampled)
    other.wait()
    company.wait()
    assert engine.counters.preemptions > 0
    assert company.tokens == alone.tokens
    assert alone.tokens != world.expected(world.request("image", PROMPTS["image"]))
    engine.close()


def test_a_cancel_frees_the_blocks_and_disturbs_nobody(world: World) -> None:
    engine = world.engine()
    cancelled = Answer(engine, world.request("long", PROMPTS["long"]))
    kept = Answer(engine, request := world.request("three images", PROMPTS["three images"]))
    cancelled.read()
    engine.cancel("long")
    assert cancelled.wait().finish_reason == "cancelled"
    kept.wait()
    assert kept.tokens == world.expected(request)
    assert engine.counters.kv_blocks_in_use == 0
    engine.close()
