"""Builds an engine directory: checks everything first, works in a staging directory, publishes at the end."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from build_engine.checkpoint import Checkpoint, chat_template
from build_engine.manifest import Limits, Manifest, TextFacts, sha256
from build_engine.staging import check_disk, check_output, staged
from build_engine.target import Target


class LimitsError(ValueError):
    """Limits that contradict each other or the checkpoint."""


def build(
    checkpoint: Checkpoint,
    output: Path,
    target: Target,
    limits: dict[str, int],
    force: bool,
    before_publish: Callable[[], None] = lambda: None,
) -> Manifest:
    """Build the engines of a checkpoint into `output`.

    Args:
        checkpoint: what to build.
        output: does not exist, is empty, or (with `force`) holds engines that are replaced.
        target: what to build for, with its options.
        limits: chosen fields of `Limits`; the others get defaults from the checkpoint.
        force: replace existing engines.
        before_publish: called when all is written; what it raises keeps `output` as it was.

    Raises:
        CheckpointError, LimitsError, OptionsError, OutputError: before any work.
    """
    started = time.monotonic()
    check_output(output, force)
    chosen = choose_limits(checkpoint.text, limits)
    target.check(checkpoint, chosen)
    copied = sum(path.stat().st_size for path in checkpoint.served_files())
    check_disk(output, target.estimate_bytes(checkpoint) + copied)
    with staged(output) as (work, publish):
        _copy_served_files(checkpoint, work / "checkpoint")
        with _bar("vision encoder", checkpoint.vision.depth) as progress:
            target.write_vision_encoder(checkpoint, chosen, work, progress)
        with _bar("language model", checkpoint.text.num_hidden_layers) as progress:
            target.write_language_model(checkpoint, chosen, work, progress)
        manifest = _describe(checkpoint, target, chosen, work)
        manifest.write(work)
        before_publish()
        publish()
    _report(output, time.monotonic() - started)
    return manifest


def choose_limits(text: TextFacts, given: dict[str, int]) -> Limits:
    """Fill in the limits that were not given, and check them; LimitsError says which rule is broken."""
    longest = given.get("max_seq_len", min(text.max_position_embeddings, 8192))
    prompt = given.get("max_input_len", longest - min(1024, longest // 4))
    limits = Limits(
        max_batch_size=given.get("max_batch_size", 8),
        max_input_len=prompt,
        max_seq_len=longest,
        max_num_tokens=given.get("max_num_tokens", min(2048, prompt)),
        max_visual_tokens=given.get("max_visual_tokens", prompt),
    )
    rules = (
        (min(vars(limits).values()) > 0, "every limit must be above 0"),
        (limits.max_seq_len <= text.max_position_embeddings,
         f"--max-seq-len {limits.max_seq_len} is above the {text.max_position_embeddings} positions "
         "of the checkpoint"),
        (limits.max_input_len < limits.max_seq_len,
         f"--max-input-len {limits.max_input_len} must be below --max-seq-len {limits.max_seq_len}, "
         "or no answer fits"),
        (limits.max_num_tokens >= limits.max_batch_size,
         f"--max-num-tokens {limits.max_num_tokens} must be at least "
         f"--max-batch-size {limits.max_batch_size}"),
        (limits.max_visual_tokens <= limits.max_input_len,
         f"--max-visual-tokens {limits.max_visual_tokens} is above --max-input-len {limits.max_input_len}"),
    )  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise LimitsError(message)
    return limits


def _copy_served_files(checkpoint: Checkpoint, directory: Path) -> None:
    directory.mkdir()
    for path in checkpoint.served_files():
        shutil.copyfile(path, directory / path.name)
    template = directory / "chat_template.jinja"
    if not template.exists():  # older checkpoints keep it inside a JSON file
        template.write_text(chat_template(checkpoint.directory), encoding="utf-8")


def _describe(checkpoint: Checkpoint, target: Target, limits: Limits, directory: Path) -> Manifest:
    files = {
        str(path.relative_to(directory)): sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    engines = "".join(f"{name} {digest}\n" for name, digest in files.items())
    return Manifest(
        target=target.name,
        weights=target.weights,
        checkpoint_hash=checkpoint.content_hash(),
        engine_hash=hashlib.sha256(f"{engines}{limits}".encode()).hexdigest(),
        vision=checkpoint.vision,
        text=replace(checkpoint.text, inv_freq=_rotary_frequencies(checkpoint.text)),
        tokens=checkpoint.tokens,
        limits=limits,
        versions={
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("qwen3-vl-triton", *target.packages)},
            **target.machine(),
        },
        files=files,
        table_dtype=target.table_dtype,
        adapters=target.adapters,
    )


def _rotary_frequencies(text: TextFacts) -> tuple[float, ...]:
    """Computed by torch with the expression of transformers: numpy's power differs in the last bit."""
    import torch

    exponent = torch.arange(0, text.head_dim, 2, dtype=torch.float) / text.head_dim
    return tuple((1.0 / (text.rope_theta**exponent)).tolist())


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[], None]]:
    # One step more than layers: writing the file.
    with tqdm(total=total + 1, desc=f"{name:<14}", unit="layer", file=sys.stderr, leave=True) as bar:

        def advance() -> None:
            bar.update()

        yield advance
        advance()


def _report(output: Path, seconds: float) -> None:
    print(f"engines written to {output} in {seconds:.1f} s")
    for folder in sorted(path for path in output.iterdir() if path.is_dir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"  {folder.name:<14} {size / 1e6:10.1f} MB")
