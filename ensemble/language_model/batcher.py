"""One step of everything: schedule, pack, forward, sample, hand out. It knows no threads and no callbacks.

Faults stay where they belong: a sequence whose logits are not finite fails alone; a forward that raises fails
the sequences of that step. The blocks of a failed sequence leave the prefix cache, and those that nobody else
reads are cleared: a kernel that multiplies unused slots by zero would carry a NaN on (OpenVINO 2026.4's own
for AVX-512 were seen not to; nothing promises it of others).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.errors import EngineFailure, ServingError
from ensemble.language_model.batch import Packer
from ensemble.language_model.block_manager import BlockManager
from ensemble.language_model.forward import LanguageModel, Scores
from ensemble.language_model.request import Output, Request
from ensemble.language_model.sampler import NonFiniteLogitsError, sample
from ensemble.language_model.scheduler import Scheduler
from ensemble.language_model.sequence import Sequence

logger = logging.getLogger(__name__)

News = tuple[str, Output]
"""A request id, and what happened to that request."""


@dataclass(frozen=True)
class Counters:
    """The state of the batcher in numbers. The first five are now, the others since the start."""

    kv_blocks: int
    kv_blocks_in_use: int
    kv_blocks_cached: int
    active_sequences: int
    waiting_sequences: int
    reused_blocks: int
    preemptions: int
    steps: int
    computed_tokens: int
    generated_tokens: int
    failed_sequences: int


class Batcher:
    """In-flight batching over one LanguageModel."""

    def __init__(self, model: LanguageModel, manifest: Manifest, reuse: bool = True) -> None:
        self._model = model
        self._blocks = BlockManager(model.num_blocks, reuse)
        limits = manifest.limits
        most = min(model.max_num_tokens or limits.max_num_tokens, limits.max_num_tokens)
        self._scheduler = Scheduler(self._blocks, limits.max_batch_size, max(most, limits.max_batch_size))
        self._packer = Packer(manifest)
        self._sequences: dict[str, Sequence] = {}
        self._steps = self._computed = self._generated = self._failed = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._sequences

    @property
    def counters(self) -> Counters:
        """Numbers of this moment; may be read from any thread."""
        return Counters(
            kv_blocks=self._blocks.num_blocks,
            kv_blocks_in_use=self._blocks.num_in_use,
            kv_blocks_cached=self._blocks.num_cached,
            active_sequences=len(self._scheduler.running),
            waiting_sequences=len(self._scheduler.waiting),
            reused_blocks=self._scheduler.num_reused_blocks,
            preemptions=self._scheduler.num_preemptions,
            steps=self._steps,
            computed_tokens=self._computed,
            generated_tokens=self._generated,
            failed_sequences=self._failed,
        )

    def prepare(self, request: Request) -> Sequence:
        """The sequence of a request, its prompt hashed. Safe in any thread; raises PromptTooLong."""
        sequence = Sequence(request)
        self._scheduler.check_fits(sequence)
        if self._blocks.reuse:
            sequence.reusable_hashes()
        return sequence

    def submit(self, sequence: Sequence) -> None:
        """Queue a prepared sequence, whose request id must not be in flight."""
        self._sequences[sequence.request.request_id] = sequence
        self._scheduler.submit(sequence)

    def cancel(self, request_id: str) -> list[News]:
        """End a request at once; no news if there is none with this id."""
        if request_id not in self._sequences:
            return []
        sequence = self._remove(request_id)
        return [(request_id, _output(sequence, finished=True, finish_reason="cancelled"))]

    def step(self) -> list[News]:
        """Compute the next chunks of all that run, and return the tokens that came out."""
        chunks = self._scheduler.schedule()
        if not chunks:
            return []
        try:
            scores = self._model.forward(self._packer.pack(chunks))
        except Exception as error:  # whatever the engine throws, only this step's requests are lost
            logger.exception("step failed; requests %s", [c.sequence.request.request_id for c in chunks])
            return [self._fail(chunk.sequence, f"the step failed: {error}") for chunk in chunks]
        self._steps += 1
        self._computed += sum(chunk.stop - chunk.start for chunk in chunks)
        wanted = [chunk for chunk in chunks if chunk.wants_logits]
        for chunk in chunks:
            self._scheduler.advance(chunk)
        return [self._sample(chunk.sequence, scores, row) for row, chunk in enumerate(wanted)]

    def abandon(self, error: ServingError) -> list[News]:
        """The last news of every request: this error. The batcher must not be used afterwards."""
        return [(name, _output(s, finished=True, error=error)) for name, s in self._sequences.items()]

    def check(self) -> None:
        """Raise AssertionError when the blocks held are not those of the running sequences."""
        self._blocks.check()
        held = {block for sequence in self._scheduler.running for block in sequence.blocks}
        assert len(held) == self._blocks.num_in_use, "blocks are held by nobody"
        assert not any(sequence.num_blocks for sequence in self._scheduler.waiting), (
            "blocks held in the queue"
        )
        queued = len(self._scheduler.running) + len(self._scheduler.waiting)
        assert queued == len(self._sequences), "a sequence is lost"

    def _sample(self, sequence: Sequence, scores: Scores, row: int) -> News:
        token_id = _next_token(sequence, scores.logits[row])
        if token_id is None:
            return self._fail(sequence, "its logits are not finite")
        told = (scores.log_probability(row, token_id),) if sequence.request.return_log_probs else ()
        return self._append(sequence, token_id, told)

    def _append(self, sequence: Sequence, token_id: int, log_probs: tuple[float, ...]) -> News:
        reason = sequence.append(token_id)
        self._generated += 1
        request_id = sequence.request.request_id
        if reason:
            self._remove(request_id)
        return request_id, _output(
            sequence,
            token_ids=(token_id,),
            log_probs=log_probs,
            finished=bool(reason),
            finish_reason=reason,
        )

    def _fail(self, sequence: Sequence, why: str) -> News:
        request_id = sequence.request.request_id
        logger.error("request %s failed: %s", request_id, why)
        blocks = sequence.blocks
        self._blocks.withdraw(blocks)
        unread = self._blocks.held_once(blocks)
        self._remove(request_id)
        self._model.clear(unread)
        self._failed += 1
        return request_id, _output(
            sequence, finished=True, error=EngineFailure(f"request {request_id}: {why}; see the server log")
        )

    def _remove(self, request_id: str) -> Sequence:
        sequence = self._sequences.pop(request_id)
        self._scheduler.remove(sequence)
        return sequence


def _next_token(sequence: Sequence, logits: npt.NDArray[np.float32]) -> int | None:
    """None when the logits are not finite."""
    request = sequence.request
    try:
        return sample(logits, request.sampling, request.input_ids, sequence.generated)
    except NonFiniteLogitsError:
        return None


def _output(sequence: Sequence, **news: object) -> Output:
    return Output(**news, num_input_tokens=sequence.num_prompt, reused_blocks=sequence.num_reused)  # type: ignore[arg-type]
