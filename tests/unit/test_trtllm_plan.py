"""The memory plan against arithmetic done by hand, and what it says when something does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from build_engine.build import choose_limits
from build_engine.checkpoint import Checkpoint
from build_engine.trtllm.gpus import GPUS
from build_engine.trtllm.memory import plan, public_checkpoint, weight_bytes
from build_engine.trtllm.options import EngineOptions, OptionsError
from build_engine.trtllm.plan import main

GIB = 2**30
Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
        code = main([*arguments])
        printed = capsys.readouterr().out
        return code, json.loads(printed.splitlines()[-1]), printed

    return call


# docs/gpu.md does this sum in words; every figure below is its own, none is computed by the planner.
BY_HAND_4B_H100 = {
    "language_model": 8_044_936_192,  # 4,022,468,096 parameters x 2
    "prompt_table": 671_088_640,  # 8 slots x 4096 visual tokens x 20 KiB
    "live_requests": 671_088_640,  # the same once more
    "mrope_tables": 71_303_168,  # 17 x 8192 positions x 512 bytes
    "vision_encoder": 830_695_424,  # 415,347,712 parameters x 2
}


def test_4b_on_an_h100_is_within_a_tenth_of_the_sum_by_hand(run: Run) -> None:
    code, facts, printed = run("--model", "4b", "--gpu", "h100-80", "--max-visual-tokens", "4096")
    assert code == 0
    assert "144 KiB per token" in printed
    assert facts["kv_bytes_per_token"] == 147_456  # 2 x 36 layers x 8 heads x 128 x 2 bytes
    for name, by_hand in BY_HAND_4B_H100.items():
        assert facts["bytes"][name] == pytest.approx(by_hand, rel=0.001), name
    a_visual_token = facts["bytes"]["prompt_table"] / (8 * 4096)
    assert a_visual_token == 20 * 1024  # 4 rows x 2560 x 2 bytes
    # 85.5 GB of memory, 8.0 weights, 0.7 table, 0.1 MRoPE, about 1.0 activations and process: 75.7 free; 1.6 for the
    # vision encoder's weights and process; 0.7 of the rest is 51.9 GB, 352,000 tokens, 42 sequences of 8192.
    assert facts["kv_blocks"] * 32 == pytest.approx(352_000, rel=0.1)
    assert facts["sequences_of_max_seq_len"] == pytest.approx(42, rel=0.1)
    assert facts["sequences_of_typical_seq_len"] == pytest.approx(172, rel=0.1)


@pytest.mark.parametrize(
    ("size", "billions", "kv_kib"),
    [("2b", 2.13, 112), ("4b", 4.44, 144), ("8b", 8.77, 144), ("32b", 33.36, 256)],
)
def test_the_public_sizes_have_the_parameters_that_their_model_cards_name(
    size: str, billions: float, kv_kib: int
) -> None:
    checkpoint = public_checkpoint(size)
    shapes = checkpoint.text_tensors() | checkpoint.vision_tensors()
    assert sum(map(prod, shapes.values())) / 1e9 == pytest.approx(billions, abs=0.005)
    limits = choose_limits(checkpoint.text, {})
    assert plan(checkpoint, limits, EngineOptions(), 80 * GIB, 0.7).kv_bytes_per_token == kv_kib * 1024


def test_a_checkpoint_directory_is_counted_like_its_files(demo_checkpoint: Path, run: Run) -> None:
    code, facts, _ = run(str(demo_checkpoint), "--gpu", "l4")
    assert code == 0
    checkpoint = Checkpoint.read(demo_checkpoint)
    stored = sum(checkpoint.shards.stored(name).size for name in checkpoint.text_tensors())
    assert facts["bytes"]["language_model"] == 2 * stored


def test_weights_shrink_with_their_type_and_the_embedding_does_not() -> None:
    checkpoint = public_checkpoint("8b")
    size = {
        w: weight_bytes(checkpoint, EngineOptions(w)) for w in ("bf16", "fp8", "int4_awq", "int4", "gptq")
    }
    ends = 2 * 2 * 151936 * 4096
    matrices = size["bf16"] - ends
    assert size["fp8"] == pytest.approx(ends + matrices / 2, rel=1e-3)
    assert size["int4"] == pytest.approx(ends + matrices / 4, rel=1e-3)
    assert size["int4"] < size["int4_awq"] < size["gptq"] < size["fp8"]
    half = weight_bytes(checkpoint, EngineOptions(tp_size=2))
    assert half == pytest.approx((size["bf16"] + 2 * 151936 * 4096) / 2, rel=1e-3)  # the embedding is on both
    split = weight_bytes(checkpoint, EngineOptions("fp8", tp_size=2))
    assert split == pytest.approx(size["fp8"] / 2, rel=1e-3)  # ModelOpt's export splits it


def test_a_tied_head_costs_nothing_on_one_gpu_and_a_share_on_two() -> None:
    tied = public_checkpoint("4b")
    untied = replace(tied, architecture=replace(tied.architecture, tie_word_embeddings=False))
    embedding = 2 * 151936 * 2560
    assert weight_bytes(untied, EngineOptions()) - weight_bytes(tied, EngineOptions()) == embedding
    assert weight_bytes(untied, EngineOptions(tp_size=2)) == weight_bytes(tied, EngineOptions(tp_size=2))


def test_tensor_parallelism_and_an_fp8_cache_each_halve_the_bytes_of_a_token(run: Run) -> None:
    whole = run("--model", "8b", "--gpu", "h100-80", "--weights", "fp8")[1]
    fp8 = run("--model", "8b", "--gpu", "h100-80", "--weights", "fp8", "--kv-cache-dtype", "fp8")[1]
    split = run("--model", "8b", "--gpu", "h100-80", "--weights", "fp8", "--tp-size", "2")[1]
    assert whole["kv_bytes_per_token"] == 2 * fp8["kv_bytes_per_token"] == 2 * split["kv_bytes_per_token"]
    assert fp8["kv_blocks"] == pytest.approx(2 * whole["kv_blocks"], abs=1)


def test_what_does_not_fit_names_neighbours_that_do(run: Run) -> None:
    code, facts, printed = run("--model", "32b", "--gpu", "l40s")
    assert (code, facts["fits"], facts["sequences_of_max_seq_len"]) == (1, False, 0)
    assert "DOES NOT FIT: the engine alone needs" in printed
    assert facts["would_fit"] == [
        "--weights int4_awq", "--tp-size 2 --weights fp8", "--gpu h20-96",
    ]  # fmt: skip


def test_every_neighbour_that_is_named_does_fit(run: Run) -> None:
    given = ["--model", "8b", "--gpu", "l4", "--weights", "fp8", "--kv-cache-dtype", "fp8"]
    code, facts, printed = run(*given)
    assert code == 1
    assert "too little is left beside the KV cache" in printed
    assert len(facts["would_fit"]) >= 4
    for other in facts["would_fit"]:
        assert run(*given, *other.split())[0] == 0, other


def test_the_highest_fraction_is_the_highest(run: Run) -> None:
    given = ["--model", "8b", "--gpu", "l40s", "--kv-cache-free-gpu-mem-fraction"]
    highest = run(*given, "0.5")[1]["highest_kv_cache_free_gpu_mem_fraction"]
    assert run(*given, str(highest - 0.002))[0] == 0
    assert run(*given, str(highest + 0.002))[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "4b", "--gpu", "a100-80", "--weights", "fp8"], "SM80 has no FP8"),
        (["--model", "4b", "--gpu", "b200", "--weights", "int4_awq"], "refuses integer weights"),
        (["--model", "4b", "--gpu", "h100-80", "--kv-cache-dtype", "fp8"], "no KV reuse"),
        (["--model", "4b", "--gpu", "h100-80", "--tp-size", "3"], "does not divide"),
        (["--gpu", "h100-80"], "either a checkpoint directory or --model"),
        (["--model", "4b", "--gpu", "l4", "--kv-cache-free-gpu-mem-fraction", "1.5"], "between 0 and 1"),
    ],
)
def test_impossible_choices_are_refused_before_any_sum(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        main(arguments)


def test_max_seq_len_above_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="262144"):
        main(["--model", "4b", "--gpu", "h200", "--max-seq-len", "300000"])


def test_gpus_have_plausible_memory() -> None:
    for name, gpu in GPUS.items():
        marketed = {"a10": 24, "l4": 24, "l40s": 48, "h200": 141, "b200": 192}.get(name) or int(
            name.rsplit("-", 1)[1]
        )
        assert 0.85 * marketed * 1e9 < gpu.memory < 1.1 * marketed * 1e9, name
