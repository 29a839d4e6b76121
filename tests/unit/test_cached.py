"""`cached`: what counts as engines that fit, what is refused, who waits, what is kept."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_engine.__main__ import main
from build_engine.manifest import FILE_NAME, Manifest
from build_engine.volume import ABSENT, FAILED, FINE, WRONG_USE, fit
from build_engine.volume import cache as cache_module
from build_engine.volume.cache import LAST_USED
from build_engine.volume.lock import SharedLock
from tests.trtllm.engine_json import tp2, write

BUILD = ("--target", "openvino", "--weights", "int8", "--max-batch-size", "4")
KEY = "demo-int8"
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def built(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that `cached` has filled; not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    assert main(["cached", str(demo_checkpoint), *BUILD, "--cache", str(cache), "--key", KEY]) == FINE
    return cache


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(built, tmp_path / "cache"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; (exit code, what it printed)."""

    def call(*arguments: object) -> tuple[int, str]:
        code = main(["cached", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture
def on_checkpoint(run: Run, demo_checkpoint: Path) -> Run:
    """The same, for the demo checkpoint with the options it was built with."""
    return lambda cache, *more, key=KEY: run(demo_checkpoint, *BUILD, "--cache", cache, "--key", key, *more)


def state(directory: Path) -> dict[str, int]:
    """Every path below with its time: also what was created and removed again shows, in the directory's time."""
    return {str(path): path.stat().st_mtime_ns for path in [directory, *directory.rglob("*")]}


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def test_what_is_not_there_is_told_and_nothing_is_written(on_checkpoint: Run, tmp_path: Path) -> None:
    code, printed = on_checkpoint(tmp_path / "cache", "--check-only")
    assert code == ABSENT
    assert f"{tmp_path / 'cache' / KEY} holds no engines; nobody builds them" in printed
    assert list(tmp_path.iterdir()) == []


def test_whole_engines_are_left_alone_and_a_check_writes_nothing(
    on_checkpoint: Run, run: Run, cache: Path
) -> None:
    before = state(cache)
    assert on_checkpoint(cache, "--check-only")[0] == FINE
    assert run(*BUILD, "--cache", cache, "--key", KEY, "--check-only")[0] == FINE, (
        "a checkpoint is not needed to check"
    )
    assert state(cache) == before
    code, printed = on_checkpoint(cache)
    assert code == FINE
    assert "fits" in printed
    assert {path for path, at in state(cache).items() if before.get(path) != at} == {
        str(cache / KEY / LAST_USED)
    }


@pytest.mark.parametrize(
    ("options", "say"),
    [
        (("--weights", "int4"), "weights int8, not int4"),
        (("--max-batch-size", "5"), "max_batch_size 4, not 5"),
        (("--max-seq-len", "512"), "max_seq_len"),
    ],
)
def test_engines_of_other_options_are_refused_and_kept(
    options: tuple[str, ...], say: str, on_checkpoint: Run, cache: Path
) -> None:
    before = state(cache)
    for mode in ((), ("--check-only",), ("--check-only", "--wait-s", "60")):
        code, printed = on_checkpoint(cache, *options, *mode)
        assert code == ABSENT
        assert say in printed
        assert "Give another --key" in printed
    assert state(cache) == before


def test_engines_of_another_checkpoint_are_refused_and_kept(
    run: Run, cache: Path, demo_checkpoint: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(demo_checkpoint, tmp_path / "changed"))
    edit(changed / "generation_config.json", lambda plain: plain.update(note="another"))
    before = state(cache)
    for mode in ((), ("--check-only",)):
        code, printed = run(changed, *BUILD, "--cache", cache, "--key", KEY, *mode)
        assert code == ABSENT
        assert f"built from another checkpoint than {changed}" in printed
    assert state(cache) == before
    assert run(tmp_path / "none", *BUILD, "--cache", cache, "--key", KEY)[0] == ABSENT


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "manifest", "emptied manifest"])
def test_damaged_engines_are_refused_by_a_check_and_built_again_by_others(
    damage: str, on_checkpoint: Run, cache: Path
) -> None:
    file = cache / KEY / "language_model" / "model.bin"
    whole = file.read_bytes()
    if damage == "changed":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(whole[:-1])
    elif damage == "gone":
        file.unlink()
    else:
        (cache / KEY / FILE_NAME).write_text(
            "{}" if damage == "emptied manifest" else '{"schema": 1, "vision": 3'
        )
    before = state(cache)
    code, printed = on_checkpoint(cache, "--check-only")
    assert code == ABSENT
    assert "nobody builds them" in printed
    assert state(cache) == before
    assert on_checkpoint(cache, "--check-only", "--quick")[0] == (
        FINE if damage in ("changed", "cut") else ABSENT
    )
    code, printed = on_checkpoint(cache)
    assert code == FINE, printed
    assert "is built" in printed
    Manifest.read(cache / KEY, check_files=True)
    assert file.read_bytes() == whole
    assert on_checkpoint(cache, "--check-only")[0] == FINE


def test_damaged_engines_are_read_once_however_long_a_check_waits_for_others(
    on_checkpoint: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / KEY / "language_model" / "model.bin").unlink()
    looks: list[Path] = []
    check = fit.check

    def counted(engines: Path, *rest: Any) -> Manifest:
        looks.append(engines)
        return check(engines, *rest)

    monkeypatch.setattr(fit, "check", counted)
    monkeypatch.setattr(cache_module, "POLL_S", 0.02)
    assert on_checkpoint(cache, "--check-only", "--wait-s", "0.3")[0] == ABSENT
    assert len(looks) == 1


def test_engines_of_other_versions_are_refused(on_checkpoint: Run, cache: Path) -> None:
    edit(cache / KEY / FILE_NAME, lambda plain: plain["versions"].update(openvino="2025.1.0"))
    code, printed = on_checkpoint(cache)
    assert code == ABSENT
    assert "openvino 2025.1.0, here is 20" in printed


@pytest.fixture
def gpu_engines(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manifest and the configuration of TensorRT-LLM engines, as an H100 would have built them."""
    write(cache / KEY, tp2("4B"))
    versions = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1"}

    def to_gpu(plain: dict[str, Any]) -> None:
        plain |= {"target": "tensorrt-llm", "weights": "bf16", "table_dtype": "BF16"}
        plain["versions"] |= {**versions, "compute_capability": "9.0"}

    edit(cache / KEY / FILE_NAME, to_gpu)
    monkeypatch.setattr(fit, "_installed", versions.get)
    return cache


def smi(directory: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """An `nvidia-smi` as the driver brings it."""
    directory.mkdir(exist_ok=True)
    program = directory / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = "--query-gpu=compute_cap" ] && printf "{line}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_gpu_engines_fit_their_gpu_versions_and_options(
    gpu_engines: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*options: str) -> tuple[int, str]:
        asked = ("--target", "tensorrt-llm", "--max-batch-size", "4")
        return run(*asked, *options, "--cache", gpu_engines, "--key", KEY, "--check-only", "--quick")

    fine = ("--tp-size", "2")
    code, printed = check(*fine)
    assert code == FINE, printed
    smi(tmp_path / "bin", monkeypatch, "9.0\\n9.0\\n")
    assert check(*fine)[0] == FINE
    for options, say in (
        (("--tp-size", "1"), "tp_size 2, not 1"),
        ((*fine, "--kv-cache-dtype", "fp8"), "kv_cache_dtype auto, not fp8"),
        ((*fine, "--weights", "fp8"), "weights bf16, not fp8"),
        ((*fine, "--lora", "sales=adapters/sales"), "adapters [], not ['sales']"),
    ):
        code, printed = check(*options)
        assert code == ABSENT
        assert say in printed
    smi(tmp_path / "bin", monkeypatch, "8.9\\n")
    code, printed = check(*fine)
    assert code == ABSENT
    assert "compute capability 9.0, this GPU has 8.9" in printed
    smi(tmp_path / "bin", monkeypatch, "9.0\\n")
    monkeypatch.setattr(fit, "_installed", {"tensorrt_llm": "1.2.2", "tensorrt": "10.14.1"}.get)
    code, printed = check(*fine)
    assert code == ABSENT
    assert "tensorrt_llm 1.2.1, here is 1.2.2" in printed


def test_a_check_waits_for_engines_and_for_the_checkpoint_they_are_built_from(
    built: Path, run: Run, demo_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "POLL_S", 0.05)
    monkeypatch.setattr(cache_module, "LINE_EVERY_S", 0.3)
    cache, checkpoint = tmp_path / "cache", tmp_path / "checkpoint"
    lock = SharedLock(cache / f".{KEY}.lock")

    def bring() -> None:
        time.sleep(0.4)
        cache.mkdir()
        assert lock.acquire(0, lambda owner: None)
        time.sleep(0.8)
        shutil.copytree(built / KEY, cache / "on its way")
        (cache / "on its way").rename(cache / KEY)
        time.sleep(0.4)
        shutil.copytree(demo_checkpoint, checkpoint)

    bringing = threading.Thread(target=bring)
    bringing.start()
    code, printed = run(checkpoint, *BUILD, "--cache", cache, "--key", KEY, "--check-only", "--wait-s", 60)
    bringing.join()
    lock.release()
    assert code == FINE, printed
    lines = printed.splitlines()
    assert "holds no engines; nobody builds them; waiting, 60 s left" in lines[0]
    assert any(f"(process {os.getpid()}, since" in line for line in lines), "it does not say who builds"
    assert "is not a directory" in printed
    assert len(lines) < 12, "more lines than one in LINE_EVERY_S"

    code, printed = run(
        checkpoint, *BUILD, "--cache", cache, "--key", "other", "--check-only", "--wait-s", "0.2"
    )
    assert code == ABSENT
    assert "waiting" in printed


def test_a_build_that_waits_too_long_for_another_gives_up(
    on_checkpoint: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_engine.volume.lock.POLL_S", 0.05)
    other = SharedLock(tmp_path / f".{KEY}.lock")
    assert other.acquire(0, lambda owner: None)
    code, printed = on_checkpoint(tmp_path, "--wait-s", "0.2")
    other.release()
    assert code == FAILED
    assert f"process {os.getpid()}" in printed
    assert not (tmp_path / KEY).exists()


def test_the_engines_used_last_are_kept(on_checkpoint: Run, built: Path, tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "older", "oldest", "busy")):
        shutil.copytree(built / KEY, tmp_path / name)
        at = time.time() - 100 * (age + 1)
        os.utime(tmp_path / name / LAST_USED, (at, at))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    busy = SharedLock(tmp_path / ".busy.lock")
    assert busy.acquire(0, lambda owner: None)
    code, printed = on_checkpoint(tmp_path, "--keep", "2")
    busy.release()
    assert code == FINE
    assert "removed" in printed
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {KEY, "newest", "busy", "photos"}
    assert on_checkpoint(tmp_path, "--keep", "1")[0] == FINE
    assert (tmp_path / "newest").exists(), "only a build removes others"


@pytest.mark.parametrize(
    ("arguments", "say"),
    [
        (("--key", "../x"), "--key '../x': up to 128"),
        (("--key", ".x"), "--key '.x'"),
        (("--key", "x", "--tp-size", "2"), "--tp-size is an option of --target tensorrt-llm"),
        (("--key", "x", "--weights", "fp8"), "--target openvino takes"),
        (("--key", "x", "--keep", "-1"), "--keep -1"),
        (("--key", "x", "--max-seq-len", "999999"), "--max-seq-len 999999 is above"),
    ],
)
def test_wrong_use(
    arguments: tuple[str, ...], say: str, run: Run, demo_checkpoint: Path, tmp_path: Path
) -> None:
    code, printed = run(demo_checkpoint, "--target", "openvino", "--cache", tmp_path / "cache", *arguments)
    assert code == WRONG_USE
    assert say in printed
    assert not (tmp_path / "cache" / "x").exists()
    code, printed = run("--target", "openvino", "--cache", tmp_path, "--key", "x")
    assert code == WRONG_USE
    assert "CHECKPOINT is missing" in printed
