"""A fake of the classes of `tensorrt_llm` that ensemble/language_model/llm_api.py uses; not TensorRT-LLM.

An answer is made of the pictures' sizes and the prompt's length, so a test can tell which request got it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__version__ = "1.2.1"
STEP_S = 0.002


class SamplingParams:
    """Keeps what it is given; an unknown name is an error."""

    NAMES = frozenset(
        {
            "max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty", "presence_penalty",
            "frequency_penalty", "end_id", "pad_id", "logprobs",
        }
    )  # fmt: skip

    def __init__(self, **values: Any) -> None:
        assert set(values) <= self.NAMES, sorted(set(values) - self.NAMES)
        self.__dict__.update(values)


@dataclass
class Logprob:
    logprob: float
    rank: int = 1


@dataclass
class CompletionOutput:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None


class RequestOutput:
    """The handle of one request: iterated, it grows by one token a step."""

    def __init__(self, inputs: dict[str, Any], params: Any) -> None:
        self.prompt_token_ids = list(range(len(inputs["prompt"])))
        self.outputs = [CompletionOutput()]
        self._params = params
        self._aborted = threading.Event()
        pictures = inputs.get("multi_modal_data", {}).get("image", [])
        sizes = [value for picture in pictures for value in picture.size]
        self._answer = [*sizes, len(inputs["prompt"]), params.end_id]

    def abort(self) -> None:
        self._aborted.set()

    def __iter__(self) -> Iterator[RequestOutput]:
        output, step = self.outputs[0], 0
        while output.finish_reason is None:
            if self._aborted.wait(STEP_S):
                output.finish_reason = "cancelled"
            else:
                # Asked for more than the answer has, it says the last token but the end again.
                endless = self._params.max_tokens > 100
                token = self._answer[min(step, len(self._answer) - (2 if endless else 1))]
                output.token_ids.append(token)
                output.logprobs.append({token: Logprob(-0.25 * (step + 1)), token + 1: Logprob(-9.0)})
                step += 1
                if token == self._params.end_id:
                    output.finish_reason = "stop"
                elif step == self._params.max_tokens:
                    output.finish_reason = "length"
            yield self


class LLM:
    """Answers without a model; remembers what it was asked."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.inputs: list[dict[str, Any]] = []
        self.is_shut_down = False

    def generate_async(self, inputs: dict[str, Any], params: Any, streaming: bool) -> RequestOutput:
        assert streaming
        if "fail" in inputs["prompt"]:
            raise RuntimeError("out of memory")
        self.inputs.append(inputs)
        return RequestOutput(inputs, params)

    def shutdown(self) -> None:
        time.sleep(STEP_S)
        self.is_shut_down = True
