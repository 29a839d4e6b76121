"""When a deployment keeps the second form of the weights, and which steps that form computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from build_engine import openvino_ir
from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.language_model import tiles
from ensemble.language_model.tiles import wants_fused, wants_tiles

AMX, PLAIN = "avx512_vnni amx_bf16 amx_int8", "avx512_vnni"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: Callable[[str], None]) -> Any:
    """Makes a machine with these flags and gigabytes, and engines of so many megabytes; gives the answer."""

    def ask(
        weights: str,
        flags: str = AMX,
        memory_gb: float = 24,
        stored_mb: int = 1700,
        wants: Callable[[DeploymentConfig, Manifest], bool] = wants_tiles,
        most: int = 2048,
        **config: str,
    ) -> bool:
        processor(flags)
        monkeypatch.setattr(tiles, "memory_limit", lambda: int(memory_gb * (1 << 30)))
        stored = (tmp_path / openvino_ir.LANGUAGE_MODEL).with_suffix(".bin")
        stored.parent.mkdir(exist_ok=True)
        with stored.open("wb") as file:
            file.truncate(stored_mb << 20)
        limits, text = SimpleNamespace(max_num_tokens=most), SimpleNamespace(hidden_size=2048)
        manifest = cast(Manifest, SimpleNamespace(weights=weights, limits=limits, text=text))
        return wants(DeploymentConfig(engines=tmp_path, **cast(Any, config)), manifest)

    return ask


def test_auto_is_integer_weights_on_a_processor_with_tiles(machine: Any) -> None:
    assert machine("int8")
    assert machine("int4", stored_mb=1000)
    assert machine("int8", kv_cache_dtype="u8")
    assert not machine("int8", flags=PLAIN)
    assert not machine("int8", flags="amx_bf16")
    assert not machine("f32")
    assert not any(machine("int8", kv_cache_dtype=kind) for kind in ("f32", "f16", "bf16"))


def test_auto_takes_a_sixth_of_the_memory_at_most_and_leaves_small_models_alone(machine: Any) -> None:
    assert machine("int8", memory_gb=15, stored_mb=2048)
    assert not machine("int8", memory_gb=14.9, stored_mb=2048)
    assert machine("int4", memory_gb=18, stored_mb=1024)
    assert not machine("int4", memory_gb=17.9, stored_mb=1024)
    assert machine("int8", stored_mb=64)
    assert not machine("int8", stored_mb=63)


def test_auto_takes_a_quarter_of_the_memory_at_most_for_bf16_weights_and_steps_that_are_worth_it(
    machine: Any,
) -> None:
    assert all(machine("bf16", kv_cache_dtype=kind) for kind in ("auto", "u8", "bf16"))
    assert not any(machine("bf16", kv_cache_dtype=kind) for kind in ("f32", "f16"))
    assert machine("bf16", memory_gb=16, stored_mb=2560)
    assert not machine("bf16", memory_gb=15.9, stored_mb=2560)
    assert not machine("bf16", stored_mb=63)
    assert not machine("bf16", flags=PLAIN)
    assert machine("bf16", most=64)
    assert not machine("bf16", most=63)


def test_on_and_off_are_taken_at_their_word(machine: Any) -> None:
    assert not machine("int8", matrix_tiles="off")
    assert all(
        machine(weights, flags=PLAIN, memory_gb=1, matrix_tiles="on") for weights in ("bf16", "int8", "int4")
    )


def test_bf16_weights_are_fused_on_a_processor_with_tiles(machine: Any) -> None:
    machine = partial(machine, wants=wants_fused)
    assert machine("bf16")
    assert all(machine("bf16", kv_cache_dtype=kind) for kind in ("u8", "bf16"))
    assert not any(machine("bf16", kv_cache_dtype=kind) for kind in ("f32", "f16"))
    assert not any(machine(weights, matrix_tiles="on") for weights in ("f32", "int8", "int4"))
    assert not machine("bf16", matrix_tiles="off")
    assert machine("bf16", matrix_tiles="on", memory_gb=1)
    assert not machine("bf16", matrix_tiles="on", flags=PLAIN)
    assert machine("bf16", stored_mb=3000, memory_gb=16)
    assert not machine("bf16", stored_mb=3100, memory_gb=16)
    assert not machine("bf16", stored_mb=63)


def test_another_word_is_refused_with_those_that_are_known(machine: Any) -> None:
    with pytest.raises(ValueError, match="matrix_tiles 'yes'; allowed: auto, on, off"):
        machine("int8", matrix_tiles="yes")
