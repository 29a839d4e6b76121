"""The command `qwen3vl`: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qwen3vl_client.arguments import parse
from qwen3vl_client.cli import main
from qwen3vl_client.request import Options
from qwen3vl_client.terminal import printable

from tests.fake_triton import LAST, FakeTriton, InBand, Pause, Piece

COMMAND = [sys.executable, "-m", "qwen3vl_client.cli"]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "screen.jpg"
    path.write_bytes(b"jpeg")
    return str(path)


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton() as server:
        yield server


def ask(server: FakeTriton, *words: str) -> int:
    return main(["ask", *words, "--server", server.url, "--retries", "0"])


def test_answer_goes_to_stdout_and_nothing_to_stderr(triton: FakeTriton, picture: str, capsys: Any) -> None:
    assert ask(triton, picture, picture, "What is wrong?") == 0
    assert capsys.readouterr() == ("Hello\n", "")
    (request,) = triton.requests
    assert request.images == [b"jpeg", b"jpeg"]
    assert [part["type"] for part in request.messages[0]["content"]] == ["image", "image", "text"]


def test_question_may_follow_options(triton: FakeTriton, picture: str) -> None:
    assert main(["ask", picture, "--seed", "1", "--server", triton.url, "why?"]) == 0
    assert triton.requests[0].messages[0]["content"][-1]["text"] == "why?"


def test_question_without_media_and_with_a_system_message(triton: FakeTriton) -> None:
    assert ask(triton, "Hi", "--system", "Be brief.") == 0
    assert triton.requests[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_question_is_read_from_stdin(triton: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert ask(triton, "-") == 0
    assert triton.requests[0].messages[0]["content"] == "from a pipe"


def test_video_is_sent_as_video(triton: FakeTriton, picture: str) -> None:
    assert ask(triton, "--video", picture, "When?") == 0
    assert (triton.requests[0].videos, triton.requests[0].images) == ([b"jpeg"], [])


def test_options_reach_the_server_by_their_names(triton: FakeTriton) -> None:
    words = "--max-tokens 5 --temperature 0 --top-p 0.5 --stop a --stop b --enhance auto --logprobs --fps 2"
    assert ask(triton, "Hi", *words.split()) == 0
    sent = triton.requests[0].parameters
    del sent["triton_enable_empty_final_response"], sent["cancel_key"]
    assert sent == {
        "max_tokens": 5, "temperature": 0.0, "top_p": 0.5, "stop": '["a", "b"]', "enhance": "auto",
        "logprobs": True, "fps": 2.0,
    }  # fmt: skip


def test_every_option_of_the_library_is_an_argument() -> None:
    assert Options.__annotations__.keys() <= vars(parse(["ask", "Hi"])).keys()


def test_json_is_one_object_with_everything(triton: FakeTriton, capsys: Any) -> None:
    assert ask(triton, "Hi", "--json") == 0
    out, err = capsys.readouterr()
    reply = json.loads(out)
    assert out.count("\n") == 1
    assert err == ""
    assert (reply["text"], reply["finish_reason"], reply["confidence"]) == ("Hello", "stop", 0.5)
    assert reply["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "cached_tokens": 4,
        "total_tokens": 9,
    }
    assert reply["timings"]["total_ms"] == 25.0
    assert reply["request_id"] == triton.requests[0].id


def test_stats_go_to_stderr(triton: FakeTriton, capsys: Any) -> None:
    assert ask(triton, "Hi", "--stats") == 0
    out, err = capsys.readouterr()
    assert out == "Hello\n"
    assert err.startswith("prompt 7 tokens (4 cached), answer 2 tokens, confidence 0.50, first token ")


def test_answer_that_was_cut_is_remarked(capsys: Any) -> None:
    with FakeTriton([Piece("Hal", finish_reason="length", rides=True)]) as triton:
        assert ask(triton, "Hi") == 0
    out, err = capsys.readouterr()
    assert out == "Hal\n"
    assert "cut" in err


@pytest.mark.parametrize(
    ("script", "code", "name"),
    [
        (
            [InBand("InvalidOption: field 'top_p': got 2;\n allowed: 0 to 1")],
            3,
            "InvalidOption: field 'top_p'",
        ),
        ([InBand("Overloaded: full")], 4, "Overloaded: full"),
        ([InBand("Draining: bye")], 4, "Draining: bye"),
        ([Pause(9)], 5, "TimedOut: "),
        (
            [Piece("Hal"), InBand("EngineFailure: x")],
            6,
            "Interrupted: the answer broke off after 1 tokens: x",
        ),
        ([InBand("EngineFailure: x")], 1, "ServerFault: x"),
    ],
)
def test_error_is_one_line_on_stderr_and_an_exit_code(script: Any, code: int, name: str, capsys: Any) -> None:
    limit = "0.3" if code == 5 else "30"
    with FakeTriton(script) as triton:
        assert ask(triton, "Hi", "--first-token-timeout", limit) == code
        out, err = capsys.readouterr()
        assert err.startswith(f"qwen3vl: {name}")
        assert err.count("\n") == 1
        assert out in ("", "Hal\n")
        assert ask(triton, "Hi", "--first-token-timeout", limit, "--json") == code
        out, _ = capsys.readouterr()
        error = json.loads(out)["error"]
        assert name.startswith(error["type"])
        assert error["partial_text"] == ("Hal" if code == 6 else "")


def test_unreachable_server_is_named(capsys: Any) -> None:
    with FakeTriton() as triton:
        url = triton.url
    assert main(["ask", "Hi", "--server", url, "--retries", "0"]) == 4
    assert f"(server: {url})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no.png", "Hi"], "qwen3vl: no.png: No such file"),
        (["Hi", "--header", "x"], "NAME=VALUE"),
        (["Hi", "--server", "http://localhost:8000"], "8001"),
        (["Hi", "--idle-timeout", "0"], "Timeout.idle"),
        (["Hi", "--ca", "no.pem"], "no.pem"),
    ],
)
def test_wrong_arguments_exit_with_2_and_say_why(words: list[str], told: str, capsys: Any) -> None:
    assert main(["ask", *words]) == 2
    assert told in capsys.readouterr().err


def test_picture_without_a_question_is_noticed(picture: str, capsys: Any) -> None:
    assert main(["ask", picture]) == 2
    assert "no question" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["ask"], ["ask", "Hi", "--colour", "red"], ["ready", "now"], ["sing"]])
def test_misuse_ends_with_2(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: qwen3vl" in capsys.readouterr().err


def test_help_teaches_by_examples(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for taught in ('qwen3vl ask screen.jpg "What is wrong?"', "qwen3vl chat", "QWEN3VL_SERVER", "exit codes"):
        assert taught in text


def test_server_comes_from_the_environment(triton: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3VL_SERVER", triton.url)
    assert main(["ask", "Hi"]) == 0


def test_ready_tells_by_exit_code(triton: FakeTriton, capsys: Any) -> None:
    assert main(["ready", "--server", triton.url]) == 0
    assert capsys.readouterr().out == "ready\n"
    triton.is_ready = False
    assert main(["ready", "--server", triton.url]) == 4
    assert main(["ready", "--server", triton.url, "--wait", "0.3"]) == 5


def test_nothing_that_commands_the_terminal_is_printed(capsys: Any) -> None:
    evil = "a\x1b[2Jb\r\x07c\x9bd\te\nf"
    assert printable(evil) == "a[2Jbcd\te\nf"
    with FakeTriton([Piece(evil, finish_reason="stop", rides=True)]) as triton:
        assert ask(triton, "Hi") == 0
    assert capsys.readouterr().out == "a[2Jbcd\te\nf\n"


# --- chat


def chat(server: FakeTriton, lines: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", *words, "--server", server.url, "--retries", "0"])


def test_chat_remembers_turns_and_pictures(
    triton: FakeTriton, picture: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines = f"/image {picture}\nWhat is it?\n\nAnd now?\n/reset\nHi\n/quit\nnever sent\n"
    assert chat(triton, lines, monkeypatch, "--system", "Be brief.") == 0
    assert capsys.readouterr().out == "Hello\n" * 3
    first, second, third = triton.requests
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
    assert second.messages[2]["content"] == "Hello"
    assert first.images == second.images == [b"jpeg"]
    assert [message["content"] for message in third.messages] == ["Be brief.", "Hi"]
    assert third.images == []


def test_chat_begins_with_the_pictures_and_videos_of_the_command_line(
    triton: FakeTriton, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(triton, "What?\n", monkeypatch, picture, "--video", picture) == 0
    assert [part["type"] for part in triton.requests[0].messages[0]["content"]] == ["image", "video", "text"]


def test_chat_takes_a_failed_question_back_and_keeps_its_picture(
    picture: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with FakeTriton(
        [Piece("Hal"), InBand("EngineFailure: x")], [Piece("ok", more=LAST, finish_reason="stop")]
    ) as t:
        assert chat(t, f"/video {picture}\nOne?\nTwo?\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == "Hal\nok\n"
    assert err == "qwen3vl: Interrupted: the answer broke off after 1 tokens: x\n"
    assert len(t.requests[1].messages) == 1
    assert t.requests[1].videos == [b"jpeg"]


def test_chat_explains_commands_it_does_not_know(
    triton: FakeTriton, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert chat(triton, "/imagine\n/image no.png\n/help\n", monkeypatch) == 0
    out, err = capsys.readouterr()
    assert "unknown command /imagine" in err
    assert "no.png" in err
    assert "/video PATH" in out
    assert not triton.requests


# --- processes


def start(*words: str) -> subprocess.Popen[str]:
    # A shell ignores SIGINT in its background jobs, and children inherit that; a terminal's user has it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_cancels_on_the_server_and_exits_with_130() -> None:
    with FakeTriton([Piece("Hal"), Pause(30)]) as triton:
        with start("ask", "Hi", "--server", triton.url) as process:
            assert process.stdout
            assert process.stdout.read(3) == "Hal"
            process.send_signal(signal.SIGINT)
            rest, err = process.communicate(timeout=60)
        assert (process.returncode, rest, err) == (130, "\n", "qwen3vl: cancelled\n")
        assert triton.wait_cancelled()


def test_reader_that_has_seen_enough_ends_the_command_quietly() -> None:
    with FakeTriton([*[Piece("line\n"), Pause(0.05)] * 200, Piece("", (), "stop", True)]) as triton:
        with start("ask", "Hi", "--server", triton.url) as process:
            assert process.stdout
            assert process.stdout.readline() == "line\n"
            process.stdout.close()
            assert process.stderr
            assert process.stderr.read() == ""
        assert process.returncode == 0
        assert triton.wait_cancelled()


def test_answer_streams_piece_by_piece() -> None:
    script = [Piece("我"), Pause(1.0), Piece("的", finish_reason="stop", rides=True)]
    with FakeTriton(script) as triton, start("ask", "Hi", "--server", triton.url) as process:
        assert process.stdout
        assert process.stdout.read(1) == "我"
        first = time.monotonic()
        assert process.stdout.read() == "的\n"
        assert time.monotonic() - first > 0.5
        process.communicate()


def test_importing_the_client_brings_in_neither_engines_nor_server_nor_pil() -> None:
    source = """
import sys, qwen3vl_client, qwen3vl_client.cli
from qwen3vl_client.request import build
build("Hi", images=b"png", options={"seed": 1})
roots = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(*sorted(root for root in roots if not root.startswith("_")))
"""
    clean = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_START"}
    listed = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, env=clean
    )
    roots = set(listed.stdout.split())
    heavy = {
        "torch",
        "openvino",
        "ensemble",
        "build_engine",
        "gateway",
        "transformers",
        "PIL",
        "pydantic",
        "tokenizers",
    }
    assert not roots & heavy
    # Everything but the two dependencies comes with tritonclient[grpc].
    own = {"qwen3vl_client", "tritonclient", "numpy"}
    assert roots - own <= {
        "grpc",
        "google",
        "ml_dtypes",
        "rapidjson",
        "packaging",
        "typing_extensions",
        "cython_runtime",
    }
