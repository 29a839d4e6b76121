"""Judging answers and comparing versions, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.evaluation.cases import Case, Turn, Words
from gateway.evaluation.compare import Score, duel, folded, judge, likeness, summarise
from gateway.evaluation.replay import Outcome

ASKED = (Turn(role="user", content=(Words(type="text", text="手机黑屏"),)),)


def case(**known: object) -> Case:
    return Case.model_validate(
        {"id": "c", "scene": "after_sales", "language": "zh", "messages": ASKED, **known}
    )


def scored(total: float) -> Score:
    return Score(None, None, None, None, False, total, total == 1.0)


def test_phrases_and_articles_must_all_be_there() -> None:
    known = case(key_phrases=("长按电源键", "充电"), citations=("black-screen",))
    whole = judge(known, Outcome("请长按电源键，然后充电。", ("black-screen", "other")))
    assert (whole.phrases, whole.citations, whole.total, whole.right) == (1.0, 1.0, 1.0, True)
    half = judge(known, Outcome("请长按电源键。"))
    assert (half.phrases, half.citations, half.total, half.right) == (0.5, 0.0, 0.25, False)


def test_width_case_and_space_make_no_difference() -> None:
    one = judge(
        case(reference="Hold  the KEY：１０ s", key_phrases=("the key",)), Outcome("hold the\nkey:10 s")
    )
    assert (one.exact, one.phrases, one.likeness, one.right) == (True, 1.0, 1.0, True)


def test_without_anything_else_the_reference_decides() -> None:
    assert judge(case(reference="长按电源键十秒强制重启"), Outcome("长按电源键十秒强制重启。")).right
    assert not judge(case(reference="长按电源键十秒强制重启"), Outcome("请联系售后更换屏幕")).right


def test_a_rejected_answer_and_no_answer_are_worth_nothing() -> None:
    again = judge(case(rejected="不知道"), Outcome("不知道 "))
    assert (again.rejected, again.total, again.right) == (True, 0.0, False)
    other = judge(case(rejected="不知道"), Outcome("长按电源键"))
    assert (other.rejected, other.total, other.right) == (False, 1.0, True)
    none = judge(case(rejected="不知道"), Outcome(error="HTTP 503"))
    assert (none.total, none.right) == (0.0, False)


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_and_one_only_for_like_texts(first: str, second: str) -> None:
    assert likeness(first, second) == likeness(second, first)
    assert 0.0 <= likeness(first, second) <= 1.0
    assert likeness(first, first) == 1.0
    if folded(first) and not folded(second):
        assert likeness(first, second) == 0.0


def test_a_summary_counts_errors_and_takes_times_of_answers_only() -> None:
    outcomes = [Outcome("a", confidence=0.5, latency_s=float(n)) for n in range(1, 20)]
    outcomes += [
        Outcome("a", confidence=0.5, latency_s=90.0, handoff="low_confidence"),
        Outcome(error="HTTP 503"),
    ]
    summary = summarise([scored(1.0)] * 20 + [scored(0.0)], outcomes)
    assert (summary.cases, summary.errors, summary.p50_s, summary.p95_s) == (21, 1, 10.0, 19.0)
    assert summary.right == pytest.approx(20 / 21)
    assert summary.handoffs == pytest.approx(1 / 20)
    assert summary.exact is None


def test_a_duel_counts_cases_and_luck() -> None:
    clear = duel([scored(1.0)] * 6, [scored(0.2)] * 6)
    assert (clear.better_a, clear.better_b, clear.equal) == (6, 0, 0)
    assert clear.chance == pytest.approx(2 / 64)
    even = duel([scored(1.0), scored(0.0), scored(0.5)], [scored(0.0), scored(1.0), scored(0.52)])
    assert (even.better_a, even.better_b, even.equal, even.chance) == (1, 1, 1, 1.0)
    assert duel([scored(1.0)], [scored(1.0)]).chance == 1.0
