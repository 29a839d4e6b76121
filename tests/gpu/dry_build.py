"""``python -m tests.gpu.dry_build CHECKPOINT``: everything of a language model build but the compilation.

TensorRT-LLM constructs the network and checks every shape and data type, which takes seconds; compiling takes minutes. A program
of its own, because TensorRT-LLM starts MPI, and a server started by a process with MPI inherits its variables. Not yet run on
hardware.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

from build_engine.build import choose_limits
from build_engine.checkpoint import Checkpoint
from build_engine.trtllm.build import write_language_model
from build_engine.trtllm.options import EngineOptions


class _Constructed(Exception):
    """The network is there; there is no engine to save."""


def main(directory: str) -> int:
    """Construct the network of a checkpoint; returns the exit code."""
    from tensorrt_llm import builder

    def save(*_: Any, **__: Any) -> None:
        raise _Constructed

    builder.BuildConfig = functools.partial(builder.BuildConfig, dry_run=True)
    builder.Engine.save = save
    checkpoint = Checkpoint.read(Path(directory))
    limits = choose_limits(checkpoint.text, {"max_batch_size": 4, "max_seq_len": 2048})
    with tempfile.TemporaryDirectory() as scratch:
        try:
            write_language_model(checkpoint, EngineOptions(), limits, Path(scratch), lambda: None)
        except _Constructed:
            print("network constructed")
            return 0
    print("an engine was saved although nothing was to be compiled", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
