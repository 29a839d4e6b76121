"""The rules of one answer, fed by hand on a clock of its own: no server, no waiting."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qwen3vl_client import errors
from qwen3vl_client.errors import (
    Cancelled,
    ClientError,
    Draining,
    Interrupted,
    InvalidImage,
    InvalidOption,
    InvalidRequest,
    Overloaded,
    ServerFault,
    TimedOut,
    Unavailable,
    Unreachable,
    classify,
)
from qwen3vl_client.retry import Retry
from qwen3vl_client.stream import Generation
from qwen3vl_client.timeout import Timeout
from tritonclient.grpc import service_pb2

from ensemble import errors as server_errors
from tests.fake_triton import LAST, Act, Final, InBand, Piece, respond


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def generation(timeout: Timeout | None = None, retries: int = 2) -> tuple[Generation, Clock]:
    clock = Clock()
    made = Generation("id-1", timeout or Timeout(), Retry(retries), clock)
    made.start_attempt()
    return made, clock


def said(act: Act) -> Any:
    return respond(act, "id-1")


@pytest.mark.parametrize("rides", [False, True])
def test_answer_is_whole_with_the_final_marker_alone_or_on_the_last_piece(rides: bool) -> None:
    made, _ = generation()
    chunks = [
        made.receive(said(Piece("我", (1, 2)))),
        made.receive(said(Piece("的", (3,), "stop", rides, LAST))),
    ]
    assert made.finished is rides
    if not rides:
        assert made.receive(said(Final())) is None
    assert made.finished
    assert [chunk.text for chunk in chunks if chunk] == ["我", "的"]
    reply = made.reply
    assert (reply.text, reply.finish_reason, reply.token_ids) == ("我的", "stop", (1, 2, 3))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens) == (7, 2, 4)
    assert reply.usage.total_tokens == 9
    assert reply.confidence == 0.5
    assert (reply.timings.time_to_first_token_ms, reply.timings.total_ms) == (12.5, 25.0)


def test_marker_that_comes_with_the_end_of_the_stream_is_not_needed() -> None:
    made, _ = generation()
    made.receive(said(Piece("Hi", finish_reason="length", more=LAST)))
    made.end()
    assert made.reply.finish_reason == "length"


def test_reply_is_not_there_before_the_end() -> None:
    made, _ = generation()
    made.receive(said(Piece("Hi")))
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = made.reply


def test_client_times_run_from_the_start_of_the_first_attempt() -> None:
    made, clock = generation()
    clock.now += 0.5
    made.start_attempt()
    clock.now += 1.0
    made.receive(said(Piece("a")))
    clock.now += 2.0
    made.receive(said(Piece("b", finish_reason="stop", rides=True)))
    timings = made.reply.timings
    assert timings.client_time_to_first_token_ms == pytest.approx(1500)
    assert timings.client_total_ms == pytest.approx(3500)
    assert timings.attempts == 2
    assert timings.total_ms is None


def test_log_probabilities_are_kept_per_token() -> None:
    made, _ = generation()
    more = {"token_logprobs": np.array([-0.5, -1.0], np.float32)}
    chunk = made.receive(said(Piece("ab", (1, 2), more=more)))
    assert chunk
    assert chunk.token_logprobs == (-0.5, -1.0)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), min_size=1, max_size=8))
def test_any_unicode_pieces_arrive_unchanged(pieces: list[str]) -> None:
    made, _ = generation()
    got = [made.receive(said(Piece(piece, (i,)))) for i, piece in enumerate(pieces)]
    made.receive(said(Piece("", (), "stop", True)))
    assert [chunk.text for chunk in got if chunk] == pieces
    assert made.reply.text == "".join(pieces)


@pytest.mark.parametrize("begun", [False, True])
def test_stream_that_just_ends_is_never_a_short_answer(begun: bool) -> None:
    made, _ = generation()
    if begun:
        made.receive(said(Piece("Hal", (1, 2))))
    with pytest.raises(Interrupted if begun else ServerFault, match="without a finish_reason") as caught:
        made.end()
    assert (caught.value.partial_text, caught.value.partial_tokens) == (("Hal", 2) if begun else ("", 0))


def test_final_marker_without_a_finish_reason_is_an_error() -> None:
    made, _ = generation()
    with pytest.raises(ServerFault):
        made.receive(said(Final()))


@pytest.mark.parametrize("raw", [b"\x02\x00\x00\x00\xff\xfe", b""])
def test_outputs_that_cannot_be_read_are_a_fault_of_the_server(raw: bytes) -> None:
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.id = "id-1"
    response.infer_response.outputs.add(name="text", datatype="BYTES", shape=[1])
    if raw:
        response.infer_response.raw_output_contents.append(raw)
    made, _ = generation()
    with pytest.raises(ServerFault, match="cannot be read"):
        made.receive(response)


def test_unknown_outputs_of_a_newer_server_do_no_harm() -> None:
    response = said(Piece("a"))
    response.infer_response.outputs.add(name="mood", datatype="BF16", shape=[1])
    response.infer_response.raw_output_contents.append(b"\x00\x00")
    made, _ = generation()
    chunk = made.receive(response)
    assert chunk
    assert chunk.text == "a"


# --- errors


@pytest.mark.parametrize("name", sorted(server_errors._BY_NAME))
def test_every_error_name_of_the_server_has_its_class(name: str) -> None:
    wrapped = f"in ensemble 'ensemble', Failed to process the request(s) for model 'x', message: {name}: why"
    error = classify(wrapped)
    expected = {"RequestError": InvalidRequest, "EngineFailure": ServerFault}.get(
        name, getattr(errors, name, None)
    )
    assert type(error) is expected
    assert str(error) == "why"
    assert type(classify(wrapped, "INTERNAL")) is expected


def test_request_error_of_the_server_keeps_field_got_and_allowed() -> None:
    error = classify(
        server_errors.InvalidOption("max_tokens", 0, "an integer from 1 to 8", "Ask for more.").wire
    )
    assert isinstance(error, InvalidOption)
    assert (error.field, error.got, error.allowed) == (
        "max_tokens",
        "0",
        "an integer from 1 to 8. Ask for more.",
    )


def test_name_in_the_callers_own_text_is_not_taken_for_the_error() -> None:
    error = classify(server_errors.InvalidImage("images[0]", "Overloaded: Draining: ", "a picture").wire)
    assert type(error) is InvalidImage


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("[request id: a] Exceeds maximum queue size", None, Overloaded),
        ("in ensemble 'ensemble', Exceeds maximum queue size", "UNAVAILABLE", Overloaded),
        ("Request timeout expired", "UNAVAILABLE", Overloaded),
        (
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
            None,
            Draining,
        ),
        ("Server exiting", "UNAVAILABLE", Draining),
        ("Request for unknown model: 'qwen3_vl' has no available versions", None, Unavailable),
        ("Request for unknown model: 'qwen3_vl' is not found", None, ServerFault),
        (
            "This protocol is restricted, expecting header 'triton-grpc-protocol-k'",
            "UNAVAILABLE",
            InvalidRequest,
        ),
        ("CLIENT: Sent message larger than max (5 vs. 4)", "RESOURCE_EXHAUSTED", InvalidRequest),
        ("too many requests", "RESOURCE_EXHAUSTED", Overloaded),
        ("unexpected shape for input 'messages'", "INVALID_ARGUMENT", InvalidRequest),
        ("Socket closed", "UNAVAILABLE", Unreachable),
        ("Deadline Exceeded", "DEADLINE_EXCEEDED", TimedOut),
        ("gone", "CANCELLED", Cancelled),
        ("no", "PERMISSION_DENIED", InvalidRequest),
        ("boom", "INTERNAL", ServerFault),
        ("boom", None, ServerFault),
    ],
)
def test_foreign_texts_and_codes_are_classified(text: str, code: str | None, kind: type[ClientError]) -> None:
    error = classify(text, code)
    assert type(error) is kind
    assert text in str(error)


def test_failure_after_the_first_piece_is_an_interruption_with_its_cause() -> None:
    made, _ = generation()
    made.receive(said(Piece("Hal", (1, 2))))
    with pytest.raises(Interrupted, match="after 2 tokens: kv blocks") as caught:
        made.receive(said(InBand("EngineFailure: kv blocks")))
    assert isinstance(caught.value.__cause__, ServerFault)
    assert caught.value.partial_text == "Hal"
    assert caught.value.request_id == "id-1"


def test_errors_survive_pickling_with_what_they_know() -> None:
    made, _ = generation(Timeout(idle=3))
    made.receive(said(Piece("Hal", (1, 2))))
    error = pickle.loads(pickle.dumps(made.late(made.message_limit())))
    assert (type(error), error.which, error.partial_text, error.partial_tokens) == (
        TimedOut,
        "idle",
        "Hal",
        2,
    )


# --- limits


def test_limits_follow_the_course_of_an_answer() -> None:
    made, clock = generation(Timeout(connect=2, first_token=10, idle=3, total=20))
    assert (made.connect_limit().which, made.connect_limit().seconds) == ("connect", 2)
    clock.now += 4
    assert (made.message_limit().which, made.message_limit().seconds) == ("first_token", 6)
    made.receive(said(Piece("a")))
    for _ in range(5):
        assert (made.message_limit().which, made.message_limit().seconds) == (
            "idle",
            3,
        )  # anew for each piece
        clock.now += 1
    clock.now += 9
    assert (made.message_limit().which, made.message_limit().seconds) == ("total", 2)


def test_without_limits_waiting_has_no_end() -> None:
    made, _ = generation(Timeout(None, None, None, None))
    assert made.connect_limit().seconds == made.message_limit().seconds == math.inf


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_limit_that_makes_no_sense_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"Timeout\.idle"):
        Timeout(idle=value)


# --- retries


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Overloaded(""), True),
        (Draining(""), True),
        (Unreachable(""), True),
        (TimedOut("", "connect"), True),
        (TimedOut("", "first_token"), False),
        (TimedOut("", "total"), False),
        (InvalidRequest(""), False),
        (ServerFault(""), False),
        (Cancelled(""), False),
        (Interrupted(""), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: ClientError, again: bool) -> None:
    made, _ = generation()
    assert (made.pause_s(error) is not None) is again


def test_nothing_is_tried_again_after_the_first_piece() -> None:
    made, _ = generation()
    made.receive(said(Piece("", ())))
    assert made.pause_s(Overloaded("")) is None


def test_pauses_double_and_are_spread_and_end() -> None:
    retry = Retry(retries=3, first_pause_s=1.0, longest_pause_s=3.0)
    for attempts, longest in ((1, 1.0), (2, 2.0), (3, 3.0)):
        pauses = [retry.pause_s(Overloaded(""), attempts) for _ in range(200)]
        assert all(pause is not None and longest / 2 <= pause <= longest for pause in pauses)
        assert len(set(pauses)) > 100
    assert retry.pause_s(Overloaded(""), 4) is None


def test_pause_that_would_outlast_the_total_limit_is_not_made() -> None:
    made, clock = generation(Timeout(total=10))
    clock.now += 9.99
    assert made.pause_s(Overloaded("")) is None


def test_negative_number_of_retries_is_refused() -> None:
    with pytest.raises(ValueError, match="retries"):
        Retry(-1)
