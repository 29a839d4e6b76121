"""Citation marks in a stream: those of passages that were not shown are dropped, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.assistant.markers import Markers


def passed(text: str, known: int, cuts: list[int] | None = None) -> str:
    places = sorted({cut % (len(text) + 1) for cut in cuts or []})
    pieces = [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]
    markers = Markers(known)
    return "".join(markers.push(piece) for piece in pieces) + markers.end()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("长按电源键十秒[1]。", "长按电源键十秒[1]。"),
        ("Hold it [3] for ten seconds [4].", "Hold it [3] for ten seconds ."),
        ("[0][1][2][3][17][999]", "[1][2][3]"),
        ("no mark, [a], [], [1, 2], [1234]", "no mark, [a], [], [1, 2], [1234]"),
        ("```js\nx = a[7]\n``` then [7]", "```js\nx = a[7]\n``` then "),
        ("`a[7]` and [7]", "`a[7]` and "),
        ("ends with [", "ends with ["),
        ("ends with [12", "ends with [12"),
        ("ends with ``", "ends with ``"),
    ],
)
def test_only_marks_of_shown_passages_stay(text: str, kept: str) -> None:
    assert passed(text, 3) == kept


@given(
    st.lists(
        st.sampled_from(["[1]", "[2]", "[7]", "[12]", "`", "```", "文", "a", "[", "]", " ", "\n"]),
        max_size=30,
    ),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_cuts_change_nothing(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    assert passed(text, 2, cuts) == passed(text, 2)


def test_without_passages_nothing_is_touched() -> None:
    assert passed("matrix[7] [8]", 0, [2, 7, 9]) == "matrix[7] [8]"


def test_a_mark_waits_for_its_end_and_nothing_else_does() -> None:
    markers = Markers(1)
    assert markers.push("长按[") == "长按"
    assert markers.push("9") == ""
    assert markers.push("]十秒") == "十秒"
