"""Both clients against a server that plays scripts on a socket: faults, limits, retries, cancellation."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from qwen3vl_client import (
    AsyncClient,
    Cancelled,
    Chunk,
    Client,
    ClientError,
    Draining,
    Interrupted,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    Reply,
    ServerFault,
    TimedOut,
    Timeout,
    Unreachable,
)
from qwen3vl_client.retry import Retry

from tests.fake_triton import (
    ANSWER,
    LAST,
    Abort,
    Call,
    FakeTriton,
    Final,
    InBand,
    Pause,
    Piece,
    Raw,
    Script,
    Wire,
    respond,
)
from tests.waiting import until

SLOW: Script = [Piece("a"), *[Pause(0.05), Piece("b")] * 200, Piece("", (), "stop", True)]
SILENT: Script = [Pause(30)]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low / 20)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until = time.monotonic() + 20
    while (left := set(threading.enumerate()) - before) and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    # grpc.aio keeps one poller per process; it is started once, by whichever test comes first.
    assert not [thread for thread in left if "poller" not in repr(thread).lower()]


class Sync:
    """Drives `Client`."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url, self.settings = url, settings

    def chat(self, question: str = "Hi", **arguments: Any) -> Reply:
        with Client(self.url, **self.settings) as client:
            return client.chat(question, **arguments)

    def chunks(self, take: int | None = None, **arguments: Any) -> list[Chunk]:
        with Client(self.url, **self.settings) as client, client.stream("Hi", **arguments) as stream:
            return [chunk for _, chunk in zip(range(take or 10**6), stream, strict=False)]

    def ready(self) -> bool:
        with Client(self.url, **self.settings) as client:
            return client.ready()

    def wait_ready(self, timeout: float) -> None:
        with Client(self.url, **self.settings) as client:
            client.wait_ready(timeout)


class Async:
    """Drives `AsyncClient`."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url, self.settings = url, settings

    def chat(self, question: str = "Hi", **arguments: Any) -> Reply:
        return asyncio.run(self._with(lambda client: client.chat(question, **arguments)))

    def chunks(self, take: int | None = None, **arguments: Any) -> list[Chunk]:
        async def read(client: AsyncClient) -> list[Chunk]:
            chunks: list[Chunk] = []
            async with client.stream("Hi", **arguments) as stream:
                async for chunk in stream:
                    chunks.append(chunk)
                    if len(chunks) == take:
                        break
            return chunks

        return asyncio.run(self._with(read))

    def ready(self) -> bool:
        return asyncio.run(self._with(lambda client: client.ready()))

    def wait_ready(self, timeout: float) -> None:
        asyncio.run(self._with(lambda client: client.wait_ready(timeout)))

    async def _with(self, act: Callable[[AsyncClient], Any]) -> Any:
        async with AsyncClient(self.url, **self.settings) as client:
            return await act(client)


Driver = type[Sync] | type[Async]
both = pytest.mark.parametrize("kind", [Sync, Async])


@both
def test_chat_gives_the_whole_answer(kind: Driver) -> None:
    with FakeTriton() as triton:
        reply = kind(triton.url).chat(images=b"png", max_tokens=5, request_id="abc")
        assert triton.wait_completed()  # neither cancelled nor cut: the end was read
    assert (reply.text, str(reply), reply.finish_reason, reply.token_ids) == (
        "Hello",
        "Hello",
        "stop",
        (1, 2),
    )
    assert reply.usage.prompt_tokens == 7
    assert reply.request_id == "abc"
    assert reply.timings.attempts == 1
    (request,) = triton.requests
    assert (request.id, request.model, request.images) == ("abc", "qwen3_vl", [b"png"])
    assert request.parameters["max_tokens"] == 5
    assert "triton_grpc_error" not in request.metadata, "Triton 2.51 dies of it"
    assert triton.completed == ["abc"]


@both
@pytest.mark.parametrize(
    "end", [[Piece("终", (3,), "stop", True, LAST)], [Piece("终", (3,), "stop"), Pause(0.2), Final()]]
)
def test_pieces_arrive_as_they_are_written(kind: Driver, end: Script) -> None:
    with FakeTriton([Piece("长按"), Pause(0.1), Piece("🔋 10"), *end]) as triton:
        chunks = kind(triton.url).chunks()
    assert [chunk.text for chunk in chunks] == ["长按", "🔋 10", "终"]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]


@both
def test_headers_of_the_caller_are_sent_in_lower_case(kind: Driver) -> None:
    with FakeTriton() as triton:
        kind(triton.url, metadata={"Triton-Grpc-Protocol-Key": "v"}).chat()
    assert triton.requests[0].metadata["triton-grpc-protocol-key"] == "v"


@both
def test_large_media_pass(kind: Driver) -> None:
    with FakeTriton() as triton:
        kind(triton.url).chat(images=[b"x" * 6_000_000, b"y" * 6_000_000])
    assert [len(image) for image in triton.requests[0].images] == [6_000_000, 6_000_000]


@both
def test_large_answer_passes(kind: Driver) -> None:
    with FakeTriton([Piece("x" * 6_000_000, finish_reason="stop", rides=True)]) as triton:
        assert len(kind(triton.url).chat().text) == 6_000_000


def test_several_addresses_are_asked_in_turn() -> None:
    with FakeTriton() as one, FakeTriton() as other:
        url = f"ipv4:{one.url},{other.url}"
        with Client(url) as client:
            until = time.monotonic() + 20
            while not (one.requests and other.requests):  # it begins with the address that answers first
                client.chat("Hi")
                assert time.monotonic() < until
            before = len(one.requests), len(other.requests)
            for _ in range(8):
                client.chat("Hi")
        assert (len(one.requests) - before[0], len(other.requests) - before[1]) == (4, 4)

        async def ask() -> None:
            async with AsyncClient(url) as several:
                until = time.monotonic() + 20
                while not (one.requests and other.requests):
                    await several.chat("Hi")
                    assert time.monotonic() < until

        one.requests.clear()
        other.requests.clear()
        asyncio.run(ask())


# --- errors


@both
@pytest.mark.parametrize("act", [InBand, lambda text: Abort(grpc.StatusCode.INVALID_ARGUMENT, text)])
def test_in_band_and_coded_error_are_the_same_exception(kind: Driver, act: Callable[[str], Any]) -> None:
    text = "in ensemble 'x', InvalidImage: field 'images[0]': got 12 bytes; allowed: a picture"
    with FakeTriton([act(text)]) as triton, pytest.raises(InvalidImage) as caught:
        kind(triton.url).chat(request_id="q")
    assert (caught.value.field, caught.value.request_id, caught.value.attempts) == ("images[0]", "q", 1)
    assert len(triton.requests) == 1


@both
def test_fault_of_the_server_is_not_tried_again(kind: Driver) -> None:
    with (
        FakeTriton([InBand("EngineFailure: request 7")]) as triton,
        pytest.raises(ServerFault, match="request 7"),
    ):
        kind(triton.url).chat()
    assert len(triton.requests) == 1


@both
def test_refused_connection_is_unreachable_after_the_retries(kind: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(Unreachable, match="refused") as caught:
        kind(f"127.0.0.1:{port}", retries=1).chat()
    assert caught.value.attempts == 2
    assert time.monotonic() - began < 20


@both
def test_server_that_dies_in_the_middle_interrupts_with_the_partial_text_at_once(kind: Driver) -> None:
    script = [Piece("Hal", (1, 2)), Pause(0.3), Call(lambda: wire.cut()), Pause(30)]
    with FakeTriton(script) as triton, Wire(triton.port) as wire:
        began = time.monotonic()
        with pytest.raises(Interrupted) as caught:
            kind(wire.url).chat()
        assert time.monotonic() - began < 20
    assert (caught.value.partial_text, caught.value.partial_tokens, caught.value.attempts) == ("Hal", 2, 1)
    assert isinstance(caught.value.__cause__, Unreachable)
    assert len(triton.requests) == 1


@both
def test_server_that_dies_before_the_first_token_is_tried_again(kind: Driver) -> None:
    with FakeTriton([Call(lambda: wire.drop()), Pause(30)], ANSWER) as triton, Wire(triton.port) as wire:
        reply = kind(wire.url).chat()
    assert (reply.text, reply.timings.attempts) == ("Hello", 2)
    assert len(triton.requests) == 2


@both
def test_stream_that_ends_early_but_well_is_no_answer(kind: Driver) -> None:
    with FakeTriton([Piece("Hal")]) as triton, pytest.raises(Interrupted) as caught:
        kind(triton.url).chat()
    assert caught.value.partial_text == "Hal"


@both
def test_error_of_the_server_in_the_middle_interrupts(kind: Driver) -> None:
    script = [Piece("Hal"), InBand("EngineFailure: stub died")]
    with FakeTriton(script) as triton, pytest.raises(Interrupted, match="stub died") as caught:
        kind(triton.url).chat()
    assert isinstance(caught.value.__cause__, ServerFault)


# --- retries


@both
@pytest.mark.parametrize(
    "refusal",
    [
        InBand("Overloaded: 8 requests in flight"),
        InBand("in ensemble 'ensemble', Exceeds maximum queue size"),
        Abort(
            grpc.StatusCode.UNAVAILABLE,
            "Server is stopping, scheduler has stopped accepting new inference requests",
        ),
        Abort(grpc.StatusCode.UNAVAILABLE, "Draining: the server is shutting down"),
    ],
)
def test_refused_request_is_sent_again_and_answered(kind: Driver, refusal: Any) -> None:
    with FakeTriton([refusal], [refusal], ANSWER) as triton:
        reply = kind(triton.url).chat()
    assert reply.text == "Hello"
    assert reply.timings.attempts == 3
    assert len({request.id for request in triton.requests}) == 1
    assert len(triton.requests) == 3


@both
@pytest.mark.parametrize(("retries", "expected"), [(0, 1), (1, 2)])
def test_last_refusal_is_raised_when_the_retries_are_used_up(
    kind: Driver, retries: int, expected: int
) -> None:
    with (
        FakeTriton([InBand("Overloaded: full")]) as triton,
        pytest.raises(Overloaded, match="full") as caught,
    ):
        kind(triton.url).chat(retries=retries)
    assert caught.value.attempts == expected == len(triton.requests)


@both
def test_nothing_is_sent_to_a_server_that_says_it_is_exiting(kind: Driver) -> None:
    with FakeTriton() as triton:
        triton.live_error = grpc.StatusCode.UNAVAILABLE
        with pytest.raises(Draining):
            kind(triton.url, retries=0).chat()
    assert not triton.requests


@both
def test_liveness_question_that_is_forbidden_does_not_forbid_the_request(kind: Driver) -> None:
    with FakeTriton() as triton:
        triton.live_error = grpc.StatusCode.PERMISSION_DENIED
        assert kind(triton.url).chat().text == "Hello"


@both
def test_refusal_after_the_first_token_is_not_tried_again(kind: Driver) -> None:
    with FakeTriton([Piece("Hal"), InBand("Overloaded: preempted")]) as triton, pytest.raises(Interrupted):
        kind(triton.url).chat()
    assert len(triton.requests) == 1


# --- limits


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def expect_timeout(which: str, seconds: float, act: Callable[[], object]) -> TimedOut:
    began = time.monotonic()
    with pytest.raises(TimedOut, match=which) as caught:
        act()
    assert caught.value.which == which
    assert seconds * 0.9 <= time.monotonic() - began < seconds + 15  # far below the 30 s of the scripts
    return caught.value


@both
def test_connect_limit_ends_waiting_for_a_silent_host(kind: Driver, black_hole: str) -> None:
    client = kind(black_hole, timeout=Timeout(connect=0.3), retries=0)
    expect_timeout("connect", 0.3, client.chat)


@both
def test_connect_limit_counts_per_attempt(kind: Driver, black_hole: str) -> None:
    client = kind(black_hole, timeout=Timeout(connect=0.3), retries=1)
    assert expect_timeout("connect", 0.6, client.chat).attempts == 2


@both
def test_first_token_limit_cancels_on_the_server(kind: Driver) -> None:
    with FakeTriton(SILENT) as triton:
        expect_timeout("first_token", 0.3, lambda: kind(triton.url, timeout=Timeout(first_token=0.3)).chat())
        assert triton.wait_cancelled()
        assert len(triton.requests) == 1


@both
def test_idle_limit_keeps_the_partial_text_and_cancels(kind: Driver) -> None:
    with FakeTriton([Piece("Hal", (1, 2)), Pause(30)]) as triton:
        timeout = Timeout(first_token=5, idle=0.3)
        error = expect_timeout("idle", 0.3, lambda: kind(triton.url, timeout=timeout).chat())
        assert (error.partial_text, error.partial_tokens) == ("Hal", 2)
        assert triton.wait_cancelled()


@both
def test_total_limit_ends_an_answer_that_keeps_coming(kind: Driver) -> None:
    with FakeTriton(SLOW) as triton:
        error = expect_timeout("total", 1.0, lambda: kind(triton.url).chat(timeout=1.0))
        assert error.partial_text.startswith("a")
        assert triton.wait_cancelled()


def test_pause_of_the_caller_is_not_silence_of_the_server() -> None:
    with (
        FakeTriton() as triton,
        Client(triton.url, timeout=Timeout(idle=1.0)) as client,
        client.stream("Hi") as stream,
    ):
        next(stream)
        time.sleep(1.3)
        stream.read()
        assert stream.reply.text == "Hello"


# --- cancellation


def test_leaving_the_stream_early_cancels_on_the_server() -> None:
    with FakeTriton(SLOW) as triton, Client(triton.url) as client:
        with client.stream("Hi") as stream:
            assert [next(stream).text for _ in range(3)] == ["a", "b", "b"]
        assert triton.wait_cancelled()  # while the client is still open
        assert not triton.completed


def test_leaving_the_async_stream_early_cancels_on_the_server() -> None:
    async def main(triton: FakeTriton) -> None:
        async with AsyncClient(triton.url) as client:
            async with client.stream("Hi") as stream:
                assert [(await anext(stream)).text for _ in range(3)] == ["a", "b", "b"]
            assert await asyncio.to_thread(triton.wait_cancelled)
            assert not triton.completed

    with FakeTriton(SLOW) as triton:
        asyncio.run(main(triton))


def test_error_in_the_block_that_reads_cancels_on_the_server() -> None:
    with FakeTriton(SLOW) as triton, Client(triton.url) as client:
        with pytest.raises(ZeroDivisionError), client.stream("Hi") as stream:
            _ = len(next(stream).text) / 0
        assert triton.wait_cancelled()


def test_closing_the_client_cancels_what_is_being_read() -> None:
    with FakeTriton(
        [Piece("a"), Call(lambda: threading.Thread(target=client.close).start()), Pause(30)]
    ) as triton:
        client = Client(triton.url)
        with pytest.raises(Cancelled):
            client.chat("Hi")
        assert triton.wait_cancelled()
        with pytest.raises(RuntimeError, match="closed"):
            client.chat("Hi")


def test_closing_the_async_client_cancels_what_is_being_read() -> None:
    async def main(url: str) -> None:
        client = AsyncClient(url)
        stream = client.stream("Hi")
        await anext(stream)
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(Cancelled):
            await reading
        with pytest.raises(RuntimeError, match="closed"):
            await client.chat("Hi")

    with FakeTriton([Piece("a"), Pause(30)]) as triton:
        asyncio.run(main(triton.url))
        assert triton.wait_cancelled()


def test_timeout_of_the_caller_around_a_chat_stays_the_callers() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.chat("Hi"), 0.3)

    with FakeTriton([Piece("a"), Pause(30)]) as triton:
        asyncio.run(main(triton.url))
        assert triton.wait_cancelled()


def test_cancel_from_another_thread_ends_a_waiting_reader() -> None:
    with FakeTriton([Piece("a"), Pause(30)]) as triton, Client(triton.url) as client:
        with client.stream("Hi") as stream:
            timer = threading.Timer(0.2, stream.cancel)
            timer.start()
            with pytest.raises(Cancelled) as caught:
                stream.read()
            timer.join()
            assert caught.value.partial_text == "a"
            with pytest.raises(Cancelled):
                next(stream)
        assert triton.wait_cancelled()


def test_cancel_from_another_task_ends_a_waiting_reader() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as client, client.stream("Hi") as stream:
            asyncio.get_running_loop().call_later(0.2, stream.cancel)
            with pytest.raises(Cancelled):
                await stream.read()

    with FakeTriton([Piece("a"), Pause(30)]) as triton:
        asyncio.run(main(triton.url))
        assert triton.wait_cancelled()


def test_cancelled_task_stays_cancelled_and_cancels_on_the_server() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            stream = client.stream("Hi")
            await anext(stream)
            task = asyncio.create_task(stream.read())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    with FakeTriton([Piece("a"), Pause(30)]) as triton:
        asyncio.run(main(triton.url))
        assert triton.wait_cancelled()


def test_stream_that_was_left_cannot_be_read_on() -> None:
    async def main(url: str) -> None:
        async with AsyncClient(url) as client:
            async with client.stream("Hi") as stream:
                await anext(stream)
            with pytest.raises(Cancelled):
                await anext(stream)

    with FakeTriton(SLOW) as triton:
        with Client(triton.url) as client:
            with client.stream("Hi") as stream:
                next(stream)
            with pytest.raises(Cancelled):
                next(stream)
        asyncio.run(main(triton.url))
        assert triton.wait_cancelled(2)


@both
def test_server_that_does_not_hear_the_goodbye_is_cut_off(kind: Driver) -> None:
    with FakeTriton([Piece("a"), Pause(30)]) as triton:
        triton.deaf = True
        began = time.monotonic()
        assert len(kind(triton.url).chunks(take=1)) == 1
        assert 0.9 < time.monotonic() - began < 20
        assert triton.wait_cut()
        assert (triton.cancelled, triton.completed) == ([], [])


def test_an_answer_is_told_before_its_call_has_ended() -> None:
    with held_open() as (triton, release), Client(triton.url) as client:
        assert client.chat("Hi").text == "Hello"
        assert client._lines, "the call lives on"
        release.set()
        assert triton.wait_completed()  # while the client is still open


def test_an_async_answer_is_told_before_its_call_has_ended() -> None:
    async def main(triton: FakeTriton, release: threading.Event) -> None:
        async with AsyncClient(triton.url) as client:
            assert (await client.chat("Hi")).text == "Hello"
            assert client._connected().lines, "the call lives on"
            release.set()
            assert await asyncio.to_thread(triton.wait_completed)

    with held_open() as (triton, release):
        asyncio.run(main(triton, release))


@both
def test_closing_waits_for_a_call_whose_answer_was_told(kind: Driver) -> None:
    with held_open() as (triton, release):
        threading.Timer(0.3, release.set).start()
        assert kind(triton.url).chat().text == "Hello"
        assert triton.wait_completed()
        assert not triton.cut


def test_a_call_that_does_not_end_after_its_answer_is_cut_off() -> None:
    with held_open() as (triton, _), Client(triton.url) as client:
        client.chat("Hi")
        assert triton.wait_cut()  # while the client is still open
        until(lambda: not client._lines and not client._watchdog._watches, 20.0)


def test_an_async_call_that_does_not_end_after_its_answer_is_cut_off() -> None:
    async def main(triton: FakeTriton) -> None:
        async with AsyncClient(triton.url) as client:
            await client.chat("Hi")
            assert await asyncio.to_thread(triton.wait_cut)

    with held_open() as (triton, _):
        asyncio.run(main(triton))


@contextmanager
def held_open() -> Iterator[tuple[FakeTriton, threading.Event]]:
    """A server that says its last word and does not end the call before the event is set."""
    release = threading.Event()
    with FakeTriton([*ANSWER, Call(lambda: release.wait(20))]) as triton:
        try:
            yield triton, release
        finally:
            release.set()


@both
def test_a_piece_of_another_answer_is_never_shown(kind: Driver) -> None:
    foreign = respond(Piece("somebody else's"), "another")
    with FakeTriton([Piece("a"), Raw(foreign), Pause(30)]) as triton:
        with pytest.raises(Interrupted, match="another answer") as caught:
            kind(triton.url).chat()
        assert caught.value.partial_text == "a"


@both
def test_every_attempt_has_a_key_of_its_own(kind: Driver) -> None:
    with FakeTriton([InBand("Overloaded: full")], ANSWER) as triton:
        kind(triton.url).chat()
    keys = {request.parameters["cancel_key"] for request in triton.requests}
    assert len(keys) == 2
    assert all(len(key) == 32 for key in keys)


def test_cancel_during_a_pause_between_attempts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retry, "pause_s", lambda *_: 30.0)
    with FakeTriton([InBand("Overloaded: full")]) as triton, Client(triton.url) as client:
        stream = client.stream("Hi")
        timer = threading.Timer(0.2, stream.cancel)
        timer.start()
        with pytest.raises(Cancelled):
            stream.read()
        timer.join()


# --- connections and many at once


def test_hundred_async_streams_share_one_connection() -> None:
    async def main(url: str) -> list[Reply]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*(client.chat(f"{i}") for i in range(100)))

    def script(request: Any) -> Script:
        question = request.messages[0]["content"]
        return [Piece(question), Pause(0.2), Piece("!", (2,), "stop", more=LAST), Final()]

    with FakeTriton(script) as triton:
        began = time.monotonic()
        replies = asyncio.run(main(triton.url))
        assert [reply.text for reply in replies] == [f"{i}!" for i in range(100)]
        assert len({request.peer for request in triton.requests}) == 1
        assert time.monotonic() - began < 15  # side by side: one after the other takes 20 s
        assert triton.wait_completed(100)


def test_threads_share_a_client() -> None:
    texts: list[str] = []
    with FakeTriton() as triton, Client(triton.url) as client:
        threads = [threading.Thread(target=lambda: texts.append(client.chat("Hi").text)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == ["Hello"] * 16
        assert len({request.peer for request in triton.requests}) == 1


def test_many_calls_leave_no_thread_and_no_file_behind() -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        ours = [thread for thread in threading.enumerate() if "ThreadPool" not in thread.name]
        return len(list(Path("/proc/self/fd").iterdir())), len(ours)

    with FakeTriton() as triton, Client(triton.url) as client:
        client.chat("warm")
        files, threads = held()
        for _ in range(100):
            client.chat("Hi")
        # Calls end in the background, here and at the server, whose threads and files are among these.
        until(lambda: not client._watchdog._watches and not client._lines, 20.0)
        until(lambda: held()[0] <= files + 2 and held()[1] <= threads + 1, 20.0)


@both
def test_server_that_came_back_is_found_again(kind: Driver) -> None:
    with FakeTriton() as triton:
        port = triton.port
    if kind is Sync:
        with Client(f"127.0.0.1:{port}", retries=0) as client:
            with pytest.raises(Unreachable):
                client.chat("Hi")
            with FakeTriton(port=port):
                client.wait_ready(30)
                assert client.chat("Hi").text == "Hello"
        return

    async def main() -> None:
        async with AsyncClient(f"127.0.0.1:{port}", retries=0) as client:
            with pytest.raises(Unreachable):
                await client.chat("Hi")
            with FakeTriton(port=port):
                await client.wait_ready(30)
                assert (await client.chat("Hi")).text == "Hello"

    asyncio.run(main())


@both
def test_ready_says_whether_server_and_model_are(kind: Driver) -> None:
    with FakeTriton() as triton:
        assert kind(triton.url).ready()
        triton.is_ready = False
        assert not kind(triton.url).ready()
        with pytest.raises(TimedOut, match="not ready within"):
            kind(triton.url).wait_ready(0.3)
    assert not kind(triton.url).ready()


@both
def test_wait_ready_returns_once_the_server_is(kind: Driver) -> None:
    with FakeTriton(ready=False) as triton:
        timer = threading.Timer(0.4, lambda: setattr(triton, "is_ready", True))
        timer.start()
        kind(triton.url).wait_ready(30)
        timer.join()


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_http_address_is_refused_with_the_right_port(make: Any) -> None:
    with pytest.raises(ValueError, match="8001"):
        make("http://localhost:8000")


def test_every_error_is_one_family() -> None:
    kinds = (Cancelled, Draining, Interrupted, InvalidRequest, Overloaded, ServerFault, TimedOut, Unreachable)
    assert all(issubclass(kind, ClientError) for kind in kinds)
