"""`eval` as it is run: against gateways behind sockets, and on recorded versions."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from gateway.evaluation import evaluate
from tests.gateway.evaluation.gateways import Version, serving

GOOD, BAD = "请长按电源键十秒，再充电半小时。", "我不知道。"
PNG = b"\x89PNG not read by anybody here"


def written(path: Path) -> Path:
    (path.parent / "media").mkdir()
    (path.parent / "media" / "a.png").write_bytes(PNG)
    picture = {"type": "image", "file": "media/a.png", "mime": "image/png"}
    rows = [
        {
            "id": f"case-{n}",
            "scene": "after_sales",
            "language": "zh",
            "messages": [{"role": "user", "content": [picture, {"type": "text", "text": f"问题{n}"}]}],
            "reference": GOOD,
            "key_phrases": ["长按电源键"],
            "citations": ["black-screen"],
            "rating": 5 if n < 4 else 2,
            "confidence": 0.8,
            "versions": {"model": "m1" if n < 4 else "m2"},
        }
        for n in range(6)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    return written(tmp_path / "set.jsonl")


def test_two_versions_are_compared(
    cases: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY_A", "sk-a")
    a = Version({f"问题{n}": GOOD for n in range(6)}, busy=1)
    b = Version({f"问题{n}": GOOD if n < 2 else BAD for n in range(6)})
    with serving(a), serving(b):
        code = evaluate.main([str(cases), "--a", a.url, "--b", b.url, "--concurrency", "3"])
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (result["a"]["right"], result["a"]["exact"], result["a"]["errors"]) == (1.0, 1.0, 0)
    assert result["b"]["right"] == pytest.approx(2 / 6, abs=1e-4)
    assert result["b"]["phrases"] == pytest.approx(2 / 6, abs=1e-4)
    assert result["b"]["citations"] == 1.0
    assert result["duel"] == {"better_a": 4, "better_b": 0, "equal": 2, "chance": 0.125}
    assert result["a"]["p95_s"] > 0
    assert "a better in 4 cases" in out
    assert len(a.asked) == 7  # one was refused and asked again
    assert (a.headers[0]["authorization"], "authorization" in b.headers[0]) == ("Bearer sk-a", False)
    sent = a.asked[0]
    uri = sent["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == PNG
    assert (sent["temperature"], sent["customer_service"]["scene"]) == (0.0, "after_sales")
    assert len({headers["x-request-id"] for headers in b.headers}) == 6


def test_one_version_is_compared_with_what_was_recorded(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = Version({f"问题{n}": BAD for n in range(6)})
    with serving(a):
        code = evaluate.main([str(cases), "--a", a.url, "--floor", "0.5"])
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert code == 1  # the floor
    assert (result["recorded"]["right"], result["a"]["right"]) == (1.0, 0.0)
    assert result["duel"]["better_b"] == 6
    assert "a is worse by" in out
    assert BAD not in out


def test_cases_that_are_not_answered_are_counted_and_fail(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = Version({"问题0": GOOD})
    with serving(a):
        assert evaluate.main([str(cases), "--a", a.url]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["a"]["errors"], result["a"]["cases"]) == (5, 6)
    assert evaluate.main([str(cases), "--a", a.url]) == 1  # nobody listens any more
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["a"]["errors"] == 6


def test_recorded_versions_are_told_apart(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(cases), "--versions"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["versions"]
    assert [
        (row["versions"]["model"], row["answers"], row["rating"], row["good"], row["bad"]) for row in rows
    ] == [
        ("m1", 4, 5, 4, 0),
        ("m2", 2, 2, 0, 2),
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["--versions", "--a", "http://x"], ["--versions", "--b", "http://x"]]
)
def test_it_wants_a_gateway_or_versions(cases: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([str(cases), *arguments])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"id": ""}, "line 7, id"),
        ({"id": "case-0"}, "line 7, id: got one that stands above"),
        ({"id": "x", "language": "fr"}, "line 7, language"),
        ({"id": "x", "messages": []}, "line 7, messages"),
        ({"id": "x", "colour": 1}, "line 7, colour"),
        ({"id": "x", "file": "../outside.png"}, "below the set's directory"),
        ({"id": "x", "file": "media/none.png"}, "files beside the set"),
    ],
)
def test_a_wrong_line_is_named(
    cases: Path, change: dict[str, object], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(cases.read_text(encoding="utf-8").splitlines()[0])
    if file := change.pop("file", None):
        row["messages"][0]["content"][0]["file"] = file
    with cases.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({**row, **change}) + "\n")
    assert evaluate.main([str(cases), "--a", "http://127.0.0.1:9"]) == 1
    assert what in capsys.readouterr().err
