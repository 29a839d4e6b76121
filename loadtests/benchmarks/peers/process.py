"""Starts a peer in its own interpreter and asks it over a pipe: a Decoder that runs in another process.

It knows processes, and which peers there are. How a runtime is driven is told in its own module.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).parents[3]
_LAST_WORDS: Final = 2000


class PeerFailed(RuntimeError):
    """A peer did not start, ended, or answered with an error."""


@dataclass(frozen=True)
class Kind:
    """A peer that can be named.

    Attributes:
        module: of this package, run in the peer's interpreter.
        scheme: its second argument.
        equal: our weights of the same precision.
        bits: of a weight of the layers, scales included.
        head_bits: the same of the output head.
        kv_bytes: of one number in the KV cache.
    """

    module: str
    scheme: str
    equal: str
    bits: float
    head_bits: float
    kv_bytes: float


KINDS: Final[Mapping[str, Kind]] = {
    "genai-bf16": Kind("genai", "bf16", "bf16", 16, 16, 2),
    "genai-int8": Kind("genai", "int8", "int8", 8, 8, 1),
    "genai-int4": Kind("genai", "int4", "int4", 4 + 16 / 128, 8, 1),
    "vllm-bf16": Kind("vllm", "bf16", "bf16", 16, 16, 2),
    "vllm-int8": Kind("vllm", "int8", "int8", 8, 16, 2),
    "vllm-int4": Kind("vllm", "int4", "int4", 4 + 16 / 128, 16, 2),
    "llamacpp-q8": Kind("llama_cpp", "q8", "int8", 8.5, 8.5, 2),
    "llamacpp-q4": Kind("llama_cpp", "q4", "int4", 4.5, 8.5, 2),
}


class Peer:
    """A model in another interpreter, stopped (SIGSTOP) whenever it is not asked: it cannot disturb other cases."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start `command`, which speaks as `answers` tells, and wait until its model is loaded.

        Raises PeerFailed when it ends before that.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the peer)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": str(_ROOT)}, start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.versions: dict[str, str] = self._read()["ready"]
        self._stop()

    def decode(self, sequences: int, steps: int) -> float:
        """See Decoder."""
        return sequences * steps / self._ask({"decode": sequences, "steps": steps})

    def prefill(self, lengths: Sequence[int]) -> float:
        """See Decoder."""
        return sum(lengths) / self._ask({"prefill": list(lengths)})

    def close(self) -> None:
        """End the process and what it started."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe:
                pipe.close()

    def _ask(self, question: Mapping[str, Any]) -> float:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are told below
        answer = self._read()
        self._stop()
        if "error" in answer:
            raise PeerFailed(f"the peer answered {question} with {answer['error']}")
        return float(answer["seconds"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._log.seek(0)
        words = self._log.read().decode(errors="replace")[-_LAST_WORDS:]
        self.close()
        raise PeerFailed(f"the peer ended with exit code {code}: {words}")

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # it takes a moment

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)


def command(kind: Kind, python: str, checkpoint: Path) -> list[str]:
    """How `kind` is started on the Qwen3ForCausalLM in `checkpoint`."""
    module = f"loadtests.benchmarks.peers.{kind.module}"
    return [python, "-m", module, str(checkpoint), kind.scheme]
