"""The items of the hardware checklist that ask a running server.

They know the client library, the metrics of the entry model and transformers' judgement. They do not know which target
serves: the ordinary tests run them on the openvino server, so on a GPU only the engines are new.

Every check returns its figures and raises AssertionError, with what was seen, if the item fails.
"""

from __future__ import annotations

import signal
import statistics
import threading
import time
import urllib.request
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from qwen3vl_client import Client
from qwen3vl_client.errors import Draining, InvalidOption, Unreachable
from qwen3vl_client.reply import Reply

from build_engine.manifest import Manifest
from ensemble.gauges import IN_FLIGHT
from ensemble.vision_encoder.encoder import VisionEncoder
from tests.gpu.conversation import LONG, SHORT, Conversation, asked, drawing, lengthened, unequal
from tests.gpu.teacher import Judgement, Teacher
from tests.server.triton import Server

Figures = dict[str, Any]

LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "f32": (1e-3, 1e-2), "fp16": (0.05, 0.5), "bf16": (0.08, 0.8), "fp8": (0.25, 2.0), "int8": (0.15, 1.5),
    "int8_sq": (0.25, 2.0), "int4": (0.5, 4.0), "int4_awq": (0.5, 4.0), "w4a8_awq": (0.5, 4.0), "gptq": (0.5, 4.0),
}  # fmt: skip
"""By weights: the largest mean error of the log-probabilities, and the largest gap to transformers' best token, in nats.

Chosen before the first run on hardware: rounding to bf16 moves a log-probability by some hundredths, and a wrong row,
rotary position or adapter by whole nats.
"""
VISION_LIMITS: Final = {"FP32": 1e-4, "FP16": 0.02, "BF16": 0.05}
"""By type of the prompt table: the largest mean error of a level's rows, as a part of their standard deviation."""
GENERATED: Final = "qwen3vl_generated_tokens"
_PICTURES: Final = ((96, 128), (256, 160), (64, 320))


@dataclass(frozen=True)
class Subject:
    """What is checked: a server, the engines that it serves, and transformers on their checkpoint."""

    name: str
    server: Server
    manifest: Manifest
    client: Client
    teacher: Teacher

    def ask(self, conversation: Conversation, max_tokens: int, **options: Any) -> Reply:
        """The greedy answer, with log-probabilities."""
        return self.client.chat(
            list(conversation.messages),
            images=list(conversation.images),
            max_tokens=max_tokens,
            temperature=0.0,
            logprobs=True,
            **options,
        )

    def judge(self, conversation: Conversation, reply: Reply) -> Judgement:
        """The answer against transformers."""
        assert len(reply.token_logprobs) == len(reply.token_ids) > 0, (
            "an answer without tokens or log-probabilities"
        )
        assert any(reply.token_logprobs), (
            "every log-probability is 0: the backend normalises over the chosen tokens (normalize_log_probs must be off)"
        )
        return self.teacher.judge(conversation, reply.token_ids, reply.token_logprobs)

    def metric(self, name: str) -> float | None:
        """The sum of a metric over its labels; None if the server has no such metric."""
        with urllib.request.urlopen(f"{self.server.metrics_url}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        values = [
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))
        ]
        return sum(values) if values else None


def long_answer(subject: Subject, tokens: int = 256, least: int = 200) -> Figures:
    """An answer of 200 and more tokens about a picture: DeepStack, rotary positions and deltas hold far behind the prompt."""
    conversation = asked(LONG, drawing(384, 384, 1))
    reply = subject.ask(conversation, tokens)
    assert len(reply.token_ids) >= least, (
        f"the answer has {len(reply.token_ids)} tokens, {least} are needed: {reply.text!r}"
    )
    judgement = subject.judge(conversation, reply)
    quarter = len(judgement.errors) // 4
    figures = {
        "tokens": len(reply.token_ids),
        **_hold(subject, "the long answer", judgement),
        "mean error of the last quarter": float(judgement.errors[-quarter:].mean()),
    }
    assert figures["mean error of the last quarter"] <= LIMITS[subject.manifest.weights][0], (
        f"errors grow: {figures}"
    )
    return figures


def unequal_visual_counts(subject: Subject, tokens: int = 40) -> Figures:
    """Requests with 0 to 5 pictures, all at once: every answer is about its own pictures."""
    questions = unequal()
    with ThreadPoolExecutor(len(questions)) as pool:
        replies = dict(
            zip(questions, pool.map(lambda one: subject.ask(one, tokens), questions.values()), strict=True)
        )
    judgements = {name: subject.judge(questions[name], reply) for name, reply in replies.items()}
    figures = _hold_all(subject, judgements)
    # A judge that sees no difference between pictures would prove nothing: let it take one answer for another's.
    swapped = subject.judge(questions["one small picture"], replies["one large picture"])
    figures["mean error with another request's pictures"] = float(swapped.errors.mean())
    assert swapped.errors.mean() > LIMITS[subject.manifest.weights][0], (
        f"the answers do not depend on the pictures, so mixing them up would not be seen: {figures}"
    )
    return figures


def chunked_context(subject: Subject, tokens: int = 32) -> Figures:
    """A prompt longer than max_num_tokens, pictures at both ends: it is prefilled in chunks."""
    limits = subject.manifest.limits
    if limits.max_num_tokens + 256 > limits.max_input_len:
        pytest.skip(
            f"no prompt is longer than a chunk: max_num_tokens {limits.max_num_tokens}, max_input_len {limits.max_input_len}"
        )
    conversation, length = _longer_than(subject, limits.max_num_tokens + 128)
    reply = subject.ask(conversation, min(tokens, limits.max_seq_len - length))
    assert reply.usage.prompt_tokens == length, (
        f"the prompt has {length} tokens, the server says {reply.usage.prompt_tokens}"
    )
    return {
        "prompt tokens": length,
        **_hold(subject, "the answer to the long prompt", subject.judge(conversation, reply)),
    }


def prefix_reuse(subject: Subject, tokens: int = 40) -> Figures:
    """The same picture again is reused, another picture of the same size is not, and neither answer is the other's."""
    # New in every run, so that nothing of it is in the cache; long enough for whole blocks.
    system = (
        f"Case {uuid.uuid4()}. "
        + "You answer customers about the pictures that they send, in short sentences. " * 20
    )
    mine, other = (asked(SHORT, drawing(320, 320, seed), system=system) for seed in (61, 62))
    before = subject.teacher.first_visual_token(mine)
    first, again, different, back = (subject.ask(one, tokens) for one in (mine, mine, other, mine))
    cached = [reply.usage.cached_tokens for reply in (first, again, different, back)]
    assert cached[0] == 0, f"a prompt never seen before was reused: {cached[0]} tokens"
    assert cached[1] > before, (
        f"{cached[1]} tokens reused, but the picture begins behind {before}: it was not reused"
    )
    assert 0 < cached[2] <= before, f"{cached[2]} tokens reused for another picture; {before} are equal"
    assert cached[3] > before, (
        f"{cached[3]} tokens reused when the first picture came back, behind {before} it begins"
    )
    replies = {
        "first": (mine, first),
        "again": (mine, again),
        "other": (other, different),
        "back": (mine, back),
    }
    judgements = {name: subject.judge(conversation, reply) for name, (conversation, reply) in replies.items()}
    return {
        "tokens before the picture": before,
        "reused (first, again, other, back)": str(cached),
        "again says the same": again.token_ids == first.token_ids,
        **_hold_all(subject, judgements),
    }


def stop_and_cancel(subject: Subject, seconds: float | None = 0.5) -> Figures:
    """A stop string ends the answer; a caller who leaves ends it on the server within a few tokens.

    A caller who left is noticed by polling, so what is allowed are the tokens of so many seconds; None: all but the whole answer.
    """
    conversation = asked(LONG, drawing(256, 256, 5))
    whole = subject.ask(conversation, 96)
    assert len(whole.text) > 24, f"too short an answer to stop: {whole.text!r}"
    stop = whole.text[12:16]
    stopped = subject.ask(conversation, 96, stop=[stop])
    assert stopped.finish_reason == "stop", (
        f"finish_reason {stopped.finish_reason} although the answer holds {stop!r}"
    )
    assert stop not in stopped.text, f"{stop!r} is in {stopped.text!r}"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    return {"stopped after": len(stopped.token_ids), **_cancel(subject, conversation, seconds)}


def unknown_adapter(subject: Subject) -> Figures:
    """A name that no adapter has is refused."""
    with pytest.raises(InvalidOption):
        subject.ask(asked("Hello"), 4, lora_name="no-such-adapter")
    return {"unknown name": "refused"}


def adapters(subject: Subject, tokens: int = 40) -> Figures:
    """Adapters change the answer, in turns and at once, and the base model comes back."""
    names = subject.manifest.adapters
    if not names:
        return {"switching": "not tried, for these engines have no adapters"}
    conversation = asked(SHORT, drawing(256, 256, 7))
    base = subject.ask(conversation, tokens)
    _hold(subject, "the answer without adapter", subject.judge(conversation, base))
    alone = {name: subject.ask(conversation, tokens, lora_name=name) for name in names}
    for name, reply in alone.items():
        assert _differ(reply, base, subject), f"adapter {name} changes nothing"
    with ThreadPoolExecutor(2 * len(names)) as pool:
        together = dict(
            zip(
                names,
                pool.map(lambda name: subject.ask(conversation, tokens, lora_name=name), names),
                strict=True,
            )
        )
        _hold(
            subject,
            "the base answer after adapters",
            subject.judge(conversation, subject.ask(conversation, tokens)),
        )
    for name in names:
        assert not _differ(together[name], alone[name], subject), (
            f"adapter {name} answers otherwise in company"
        )
    return {"adapters": ", ".join(names)}


def throughput(
    subject: Subject, levels: tuple[int, ...] = (1, 4, 8, 16), rounds: int = 4, tokens: int = 128
) -> Figures:
    """Tokens per second and time to first token by concurrency. Every request has a picture of its own."""
    for number in range(2):
        subject.ask(asked(LONG, drawing(384, 384, 700 + number)), tokens)
    rows = []
    for level in levels:
        number = iter(range(1000 * level, 1000 * (level + 1)))
        conversations = [asked(LONG, drawing(384, 384, next(number))) for _ in range(level * rounds)]
        started = time.monotonic()
        with ThreadPoolExecutor(level) as pool:
            replies = list(pool.map(lambda one: subject.ask(one, tokens), conversations))
        seconds = time.monotonic() - started
        assert all(reply.token_ids for reply in replies), f"an empty answer at {level} at once"
        first = sorted(reply.timings.client_time_to_first_token_ms for reply in replies)
        total = sum(len(reply.token_ids) for reply in replies)
        each = [
            (reply.timings.client_total_ms - reply.timings.client_time_to_first_token_ms)
            / (len(reply.token_ids) - 1)
            for reply in replies
            if len(reply.token_ids) > 1
        ]
        rows.append(
            {
                "at once": level,
                "requests": len(replies),
                "prompt tokens": replies[0].usage.prompt_tokens,
                "tokens/s": total / seconds,
                "TTFT median ms": statistics.median(first),
                "TTFT p95 ms": first[int(0.95 * (len(first) - 1))],
                "ms per later token": statistics.median(each),
            }
        )
    return {"best tokens/s": max(row["tokens/s"] for row in rows), "table": rows}


def drain(subject: Subject, streams: int = 4, tokens: int = 400, seconds: float = 90.0) -> Figures:
    """After SIGTERM running answers are finished, new ones refused, and the server is gone. The subject's last check."""
    # Every stream is under way before the signal.
    started = threading.Barrier(streams + 1)

    def read(number: int) -> tuple[int, str]:
        conversation = asked(LONG, drawing(256, 256, 800 + number))
        count = 0
        with subject.client.stream(
            list(conversation.messages), images=list(conversation.images), max_tokens=tokens, temperature=0.0
        ) as stream:
            for at, chunk in enumerate(stream):
                count += len(chunk.token_ids)
                if at == 0:
                    started.wait(timeout=seconds)
        return count, stream.reply.finish_reason

    with ThreadPoolExecutor(streams) as pool, Client(subject.server.grpc_url, retries=0) as late:
        reading = [pool.submit(read, number) for number in range(streams)]
        assert late.ready()
        started.wait(timeout=seconds)
        subject.server.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        time.sleep(0.3)
        # Unreachable only when the streams were so quick that the server is already gone.
        with pytest.raises((Draining, Unreachable)):
            late.chat("Hello", max_tokens=4)
        ended = [future.result(timeout=seconds) for future in reading]
    answered = time.monotonic()
    assert all(reason in ("stop", "length") and count > 0 for count, reason in ended), f"cut: {ended}"
    code = subject.server.process.wait(timeout=seconds)
    assert code == 0, f"exit code {code}\n{subject.server.log()}"
    return {
        "tokens of the streams": str([count for count, _ in ended]),
        "seconds to the last token": answered - signalled,
        "seconds from there to the exit": time.monotonic() - answered,
    }


def _hold(subject: Subject, what: str, judgement: Judgement) -> Figures:
    """The figures of one answer; AssertionError if they are above what the weights explain."""
    mean, gap = LIMITS[subject.manifest.weights]
    figures = {"mean error": float(judgement.errors.mean()), "largest gap": float(judgement.gaps.max())}
    assert np.isfinite(judgement.errors).all(), f"{what}: log-probabilities that are no numbers"
    assert figures["mean error"] <= mean, (
        f"{what}: {figures}, allowed for {subject.manifest.weights}: mean error {mean}"
    )
    assert figures["largest gap"] <= gap, (
        f"{what}: {figures}, allowed for {subject.manifest.weights}: gap {gap}"
    )
    return figures


def _hold_all(subject: Subject, judgements: Mapping[str, Judgement]) -> Figures:
    worst = [_hold(subject, name, judgement) for name, judgement in judgements.items()]
    return {name: max(figures[name] for figures in worst) for name in worst[0]}


def _differ(one: Reply, two: Reply, subject: Subject) -> bool:
    """Whether two answers are those of different models, beyond rounding."""
    common = min(len(one.token_ids), len(two.token_ids))
    same = next((at for at in range(common) if one.token_ids[at] != two.token_ids[at]), common)
    if same == 0:
        return True
    errors = np.abs(np.subtract(one.token_logprobs[:same], two.token_logprobs[:same]))
    return bool(errors.mean() > LIMITS[subject.manifest.weights][0])


def _longer_than(subject: Subject, least: int) -> tuple[Conversation, int]:
    """A conversation of at least that many prompt tokens, and its length."""
    short = asked(SHORT, drawing(192, 256, 31))
    lengths = [subject.teacher.prompt(lengthened(short, count)).input_ids.shape[1] for count in (0, 10)]
    sentences = 1 + (least - lengths[0]) * 10 // (lengths[1] - lengths[0])
    conversation = lengthened(short, sentences)
    return conversation, subject.teacher.prompt(conversation).input_ids.shape[1]


def _cancel(subject: Subject, conversation: Conversation, seconds: float | None) -> Figures:
    """How much the server still did after a caller left: tokens where it counts them, else the time of so many tokens."""
    room = subject.manifest.limits.max_seq_len - subject.teacher.prompt(conversation).input_ids.shape[1]
    before, received, times = _settled(subject), 0, []
    with subject.client.stream(
        list(conversation.messages), images=list(conversation.images), max_tokens=room, temperature=0.0
    ) as stream:
        for chunk in stream:
            received += len(chunk.token_ids)
            times.append(time.monotonic())
            # Metrics are a tenth of a second late: only a request that was seen in flight can be seen to end.
            if len(times) % 16 == 0 and subject.metric(IN_FLIGHT):
                break
        else:
            raise AssertionError(f"the answer ended before it could be cancelled: {len(times)} pieces")
    left = time.monotonic()
    while (running := subject.metric(IN_FLIGHT)) and time.monotonic() < left + 30:
        time.sleep(0.02)
    took = time.monotonic() - left
    assert running == 0, f"{running} requests in flight {took:.1f} s after the caller left"
    token_s, after = (times[-1] - times[0]) / (len(times) - 1), _settled(subject)
    if before is not None and after is not None:
        late, how = after - before - received, "tokens generated after the cancel"
    else:
        late, how = took / token_s, "the cancel took the time of so many tokens"
    allowed = room - received - 1 if seconds is None else seconds / token_s
    assert late <= allowed, f"{how}: {late:.0f}, allowed {allowed:.0f} of {room}"
    return {how: late, "cancel seconds": took}


def _settled(subject: Subject) -> float | None:
    """The count of generated tokens once it stands still: metrics follow a little later."""
    value = subject.metric(GENERATED)
    while value is not None:
        time.sleep(0.5)
        now = subject.metric(GENERATED)
        if now == value:
            break
        value = now
    return value


def vision_rows(encoder: VisionEncoder, teacher: Teacher) -> Figures:
    """Pictures of unequal size in one packed call: merged features and every DeepStack level against transformers."""
    pictures = [drawing(height, width, 20 + at) for at, (height, width) in enumerate(_PICTURES)]
    prompt = teacher.prompt(asked(SHORT, *pictures))
    patches, grids = prompt.pixel_patches[0], prompt.grid_thw[0]
    got = _host(encoder.encode(patches, grids))
    expected = teacher.rows(patches, grids)
    assert got.shape == expected.shape, f"rows {got.shape}, transformers {expected.shape}"
    allowed = VISION_LIMITS[teacher.manifest.table_dtype]
    figures = {}
    for level in range(got.shape[1]):
        spread = float(expected[:, level].std())
        error = float(np.abs(got[:, level] - expected[:, level]).mean()) / spread
        figures[f"level {level - 1}" if level else "merged"] = error
    assert max(figures.values()) <= allowed, f"mean errors over spread {figures}, allowed {allowed}"
    return {"visual tokens": len(got), **figures}


def _host(rows: Any) -> npt.NDArray[np.float32]:
    """Rows of any encoder (numpy, or torch on the GPU) as float32."""
    host: npt.NDArray[np.float32] = (
        rows if isinstance(rows, np.ndarray) else rows.detach().float().cpu().numpy()
    )
    return host
