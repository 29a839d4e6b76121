"""OpenVINO GenAI as a peer: `python -m loadtests.benchmarks.peers.genai CHECKPOINT SCHEME`, in GenAI's interpreter.

It knows how optimum-intel exports a model and how GenAI's continuous batching is driven. Everything is left as GenAI
chooses it, but that prompts are not reused and that a prompt of 512 tokens is one step. GENAI_PROPERTIES in the
environment (JSON, as '{"DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}') sets more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from loadtests.benchmarks.peers.answers import SteppedModel, serve

_EXPORTS: Final = {
    "bf16": ("--weight-format", "fp16"),  # computed in bfloat16 all the same, where the processor has it
    "int8": ("--weight-format", "int8"),
    "int4": ("--weight-format", "int4", "--group-size", "128", "--ratio", "1.0", "--sym"),
}


class GenAi(SteppedModel):
    """GenAI's ContinuousBatchingPipeline on the CPU."""

    packages = ("openvino-genai", "openvino", "optimum-intel", "nncf")

    def __init__(self, directory: Path) -> None:
        self._genai: Any = import_module("openvino_genai")
        self._tensor: Any = import_module("openvino").Tensor
        self._numpy: Any = import_module("numpy")
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_batched_tokens = 1024
        scheduler.max_num_seqs = 16
        scheduler.enable_prefix_caching = False
        properties = json.loads(os.environ.get("GENAI_PROPERTIES", "{}"))
        self._pipeline = self._genai.ContinuousBatchingPipeline(str(directory), scheduler, "CPU", properties)
        self._submitted = 0
        self._handles: list[Any] = []
        self._counts: list[int] = []

    def submit(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """See SteppedModel."""
        config = self._genai.GenerationConfig(
            max_new_tokens=new_tokens, ignore_eos=True, do_sample=False, apply_chat_template=False
        )
        self._handles, self._counts = [], [0] * len(prompts)
        for prompt in prompts:
            self._submitted += 1
            ids = self._tensor(self._numpy.array([prompt], self._numpy.int64))
            self._handles.append(self._pipeline.add_request(self._submitted, ids, config))

    def step(self) -> list[int]:
        """See SteppedModel."""
        self._pipeline.step()
        for index, handle in enumerate(self._handles):
            while handle.can_read():
                self._counts[index] += sum(len(output.generated_ids) for output in handle.read().values())
        return self._counts


def exported(checkpoint: Path, scheme: str) -> Path:
    """The model as optimum-intel exports it, made on first use beside `checkpoint`."""
    directory = checkpoint.with_name(f"{checkpoint.name}-genai-{scheme}")
    if not directory.is_dir():
        unfinished = directory.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
        command += ["--model", str(checkpoint), "--task", "text-generation-with-past", *_EXPORTS[scheme]]
        subprocess.run([*command, str(unfinished)], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        unfinished.rename(directory)
    return directory


if __name__ == "__main__":
    source, weights = Path(sys.argv[1]), sys.argv[2]
    text = json.loads((source / "config.json").read_text(encoding="utf-8"))
    serve(lambda: GenAi(exported(source, weights)), text["vocab_size"])
