"""The serving benchmark runs against real servers; its assertions can fail; the tutorial's server answers the tutorial's form."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qwen3vl_client import Client, Reply

from loadtests.benchmarks import second_turn, serving, serving_alone, serving_crowd
from loadtests.benchmarks.questions import Question, questions
from loadtests.benchmarks.serving_crowd import Answered, crowd
from loadtests.benchmarks.tutorial_server import PATH, BadRequest, Predictor, server


@pytest.mark.server
def test_it_runs_and_its_last_line_is_json(demo_engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--requests", "4", "--users", "2", "--rounds", "2", "--per-round", "3", "--max-tokens", "8"]
    turn = ["--turn-engines", str(demo_engines), "--side", "192", "--turn-tokens", "8"]
    code = serving.main(["--engines", str(demo_engines), "--tutorial-dtype", "float32", *tiny, *turn])
    assert code == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    alone, crowd_, turn_ = figures["alone"], figures["crowd"], figures["turn"]
    assert alone["requests"] == alone["answers_equal_to_engines_alone"] == 2
    assert alone["outside_ms"]["median"] < alone["total_ms"]["median"]
    assert alone["budget_ms"] == pytest.approx(5 + 0.3 * 8)
    assert crowd_["asked"] == 6
    assert len(crowd_["answers_per_s"]["ours"]["values"]) == 2
    assert turn_["equal"] is True
    assert turn_["tokens_compared"] == 16
    assert turn_["cached_tokens"] >= 32


@pytest.mark.server
def test_a_second_turn_that_differs_ends_it(monkeypatch: pytest.MonkeyPatch, demo_engines: Path) -> None:
    """As if caches had changed the last token: the two servers then give different ones."""
    right, urls = second_turn._ask, []

    def ask(client: Client, *rest: Any) -> tuple[Reply, list[int]]:
        urls.append(client.url)
        reply, token_ids = right(client, *rest)
        return reply, token_ids if client.url == urls[0] else [*token_ids[:-1], -1]

    monkeypatch.setattr(second_turn, "_ask", ask)
    with pytest.raises(second_turn.Unequal, match="round 0"):
        second_turn.measure(demo_engines, 192, 1, 4, 0)


@pytest.mark.parametrize(("users", "least"), [(1, 0.12), (4, 0.03)])
def test_a_crowd_asks_every_question_once_with_so_many_at_a_time(users: int, least: float) -> None:
    now, highest, asked = 0, 0, []
    lock = threading.Lock()

    def ask(question: Question) -> Answered:
        nonlocal now, highest
        with lock:
            now, asked_now = now + 1, question
            highest = max(highest, now)
        time.sleep(0.03)
        with lock:
            now -= 1
            asked.append(asked_now.picture)
        return Answered(1.0, 2.0, right=True)

    four = questions(0, 4)
    found, seconds = crowd(ask, four, users)
    assert len(found) == 4
    assert sorted(asked) == sorted(question.picture for question in four)
    assert highest == users
    assert seconds >= least


def test_a_user_that_fails_ends_the_crowd() -> None:
    def ask(question: Question) -> Answered:
        raise ConnectionError(question.text)

    with pytest.raises(ConnectionError):
        crowd(ask, questions(0, 2), 2)


def test_questions_are_drawn_from_the_seed() -> None:
    first = questions(7, 3)
    assert [question.picture for question in first] == [question.picture for question in questions(7, 3)]
    assert len({question.picture for question in first}) == 3
    assert questions(8, 1)[0].picture != first[0].picture


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.05, 5.0), (0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_percentiles_are_nearest_ranks(share: float, wanted: float) -> None:
    values = [float(number) for number in range(1, 101)]
    assert serving_alone.percentile(values, share) == wanted
    assert serving_alone.percentile([7.0], share) == 7.0


@pytest.fixture(scope="module")
def predictor(demo_checkpoint: Path) -> Predictor:
    return Predictor(demo_checkpoint, "float32")


@pytest.fixture(scope="module")
def url(predictor: Predictor) -> Iterator[str]:
    with server(predictor, 0) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_tutorial_the_form_of_the_tutorial(url: str) -> None:
    """`data:[{image: data URI}, prompt, temperature, top_p, max_new_tokens]`, answered by `data[0]`."""
    question = questions(1, 1)[0]
    status, reply = post(url + PATH, question.predict(64))
    assert status == 200
    assert list(reply) == ["data"]
    assert question.case.is_right(reply["data"][0])


def test_tutorial_it_is_sampled_when_asked(url: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    picture = {"image": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}
    status, reply = post(url + PATH, json.dumps({"data": [picture, "Hello", 0.9, 0.95, 4]}).encode())
    assert status == 200
    assert isinstance(reply["data"][0], str)


def test_tutorial_without_a_picture(url: str) -> None:
    assert post(url + PATH, json.dumps({"data": [None, "Hello", 0, 1, 4]}).encode())[0] == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"data": 1}', b'{"data": ["x"]}', b'{"data": [{"image": "data:,!"}, "x", 0, 1, 4]}'],
)
def test_tutorial_anything_else_is_refused(url: str, body: bytes) -> None:
    status, reply = post(url + PATH, body)
    assert status == 400
    assert reply["error"]


def test_tutorial_another_path(url: str) -> None:
    assert post(f"{url}/api/other", b"{}")[0] == 404


def test_tutorial_one_at_a_time(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    now, highest = 0, 0

    def generate(*_: Any) -> str:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        time.sleep(0.02)
        now -= 1
        return ""

    monkeypatch.setattr(predictor, "_generate", generate)
    threads = [threading.Thread(target=predictor.predict, args=([None, "x", 0, 1, 4],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert highest == 1


def test_tutorial_a_request_of_another_form(predictor: Predictor) -> None:
    with pytest.raises(BadRequest, match="2 items"):
        predictor.predict([None, "x"])


def test_its_start_is_watched(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="did not start"),
        serving_crowd._tutorial_server(tmp_path, "float32"),
    ):
        pass
