"""Blocked words in streams: however they are spelled and wherever the stream is cut, nothing of one gets out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidInput
from gateway.policy import Filter, Policy, Verdict
from gateway.policy.lexicon import Lexicon, Word

HONEST = (Path(__file__).parent / "honest.txt").read_text(encoding="utf-8").splitlines()
POLICY = Policy.load("default")
REFUSAL = POLICY.filter("zh")._replacement

SPELLINGS = [
    "病毒", "病 毒", "病　毒", "病\u200b毒", "病\u2060\ufeff毒", "病-毒", "病*毒", "病**毒", "病_毒", "病.毒", "病。毒", "病，毒",
    "病\n毒", "病\u0301毒", "病😀毒", "病|毒", "病/毒", "病~ ~毒", "病\ufe0f毒", "病\u00ad毒", "【病】【毒】", "病\u3164毒",
    "破解", "破 解", "破·解", "破`解", "破<b></b>解"[:1] + "</解", "破⋯解", "破\u202e解", "破-解", "破｜解",
    "越狱", "越獄", "越 獄", "越\u200d獄", "越…狱", "越\t狱",
    "jailbreak", "JAILBREAK", "JailBreak", "ｊａｉｌｂｒｅａｋ", "j a i l b r e a k", "j.a.i.l.b.r.e.a.k", "jail-break",
    "jail break", "jаilbrеаk", "𝓳𝓪𝓲𝓵𝓫𝓻𝓮𝓪𝓴", "ⓙⓐⓘⓛⓑⓡⓔⓐⓚ", "jáilbréak", "jail\u200bbreak", "jailbreaking",
    "Jailbroken", "ϳailbreak",
]  # fmt: skip


def sent(filtered: Filter, text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    pieces = [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]
    return [*(filtered.push(piece) for piece in pieces), filtered.end()]


CUTS = st.lists(st.integers(0, 300), max_size=12)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_caught_by_itself_and_in_a_sentence(spelling: str) -> None:
    for before, after in [("", ""), ("教您写", "的方法如下"), ("Use a ", " now")]:
        filtered = POLICY.filter("zh")
        out = "".join(sent(filtered, before + spelling + after, list(range(300))))
        assert filtered.verdict.level == "block", (before, spelling)
        assert out.endswith(REFUSAL)
        assert after == "" or after not in out


@given(st.sampled_from(SPELLINGS), CUTS, st.sampled_from(["", "好的，", "Sure: ", "第一步 ", "```\n"]))
def test_cuts_never_let_a_part_of_a_word_out(spelling: str, cuts: list[int], before: str) -> None:
    text = f"{before}{spelling}，其余的话"
    whole = POLICY.filter("zh")
    expected = "".join(sent(whole, text, []))
    filtered = POLICY.filter("zh")
    out = sent(filtered, text, cuts)
    assert "".join(out) == expected
    assert filtered.verdict == whole.verdict
    shown = "".join(out).removesuffix(REFUSAL)
    assert shown.rstrip("`\n") in (before.rstrip("`\n"), (before + "【").rstrip("\n"))


@given(st.text(alphabet="病毒破解越狱杀中防请不要jailbrek -，。\n\u200b<>`", max_size=60), CUTS)
def test_cuts_change_nothing_and_only_blocked_texts_change(text: str, cuts: list[int]) -> None:
    whole, cut = POLICY.filter("zh"), POLICY.filter("zh")
    expected = "".join(sent(whole, text, []))
    assert "".join(sent(cut, text, cuts)) == expected
    assert cut.verdict == whole.verdict
    if whole.verdict.level != "block":
        assert expected == text
        return
    shown = expected.removesuffix(REFUSAL).rstrip("\n")
    assert text.startswith(shown.removesuffix("\n```").rstrip("\n")) or "```" in shown


@given(st.text(max_size=80), CUTS)
def test_any_other_text_passes_byte_for_byte(text: str, cuts: list[int]) -> None:
    filtered = POLICY.filter("en")
    out = "".join(sent(filtered, text, cuts))
    assert filtered.verdict.level == "block" or out == text


def test_there_are_200_honest_sentences_in_both_languages() -> None:
    chinese = [line for line in HONEST if sum("\u4e00" <= letter <= "\u9fff" for letter in line) > 3]
    assert len(set(HONEST)) >= 200
    assert len(chinese) >= 90
    assert len(HONEST) - len(chinese) >= 90


@pytest.mark.parametrize("sentence", HONEST)
def test_honest_sentences_pass(sentence: str) -> None:
    filtered = POLICY.filter("zh")
    assert "".join(sent(filtered, sentence, list(range(300)))) == sentence
    assert filtered.verdict == Verdict()


@pytest.mark.parametrize(
    "text",
    [
        "我教您制作病毒。",
        "下面是病毒代码：",
        "先查杀病毒，再写病毒。",
        "破解步骤如下",
        "这是破解决斗游戏的补丁",
        "越狱教程：第一步",
        "Here is how to jailbreak it.",
        "Jailbreaking is easy.",
    ],
)
def test_an_exception_elsewhere_excuses_nothing(text: str) -> None:
    assert POLICY.judge(text, "zh").level == "block"


def test_an_answer_to_an_honest_question_may_say_the_word() -> None:
    answer = "这类病毒通常来自不明链接。"
    assert POLICY.judge(answer, "zh").level == "block"
    filtered = POLICY.filter("zh", "我的手机中病毒了怎么办？")
    assert "".join(sent(filtered, answer, [3])) == answer
    assert filtered.verdict == Verdict("warn", ("病毒",))
    for asked in ("教我写病毒", "我的手机中病毒了，帮我写一个病毒报复", "怎么破解？"):
        filtered = POLICY.filter("zh", asked)
        sent(filtered, answer, [])
        assert filtered.verdict.level == "block", asked


def test_the_word_that_lowers_is_the_only_one_lowered() -> None:
    filtered = POLICY.filter("zh", "手机中病毒了")
    sent(filtered, "病毒可以破解密码", [])
    assert filtered.verdict.words == ("病毒", "破解")
    assert filtered.verdict.level == "block"


def test_nothing_is_kept_back_without_need() -> None:
    filtered = POLICY.filter("zh")
    assert filtered.push("请长按电源键") == "请长按电源键"
    assert filtered.push("，看病") == "，看"
    assert filtered.push(" ") == ""
    assert filtered.push("历") == "病 历"
    assert filtered.push("a j") == "a "
    assert filtered.push("ust") == "just"
    assert filtered.end() == ""


def test_a_wide_gap_is_not_read_over_and_holds_nothing_back() -> None:
    filtered = POLICY.filter("zh")
    assert filtered.push("看病") == "看"
    out = "".join(filtered.push("-") for _ in range(20))
    assert out == "病" + "-" * 20
    assert filtered.push("毒性") + filtered.end() == "毒性"
    assert filtered.verdict.level == ""


def test_invisible_characters_are_no_gap_however_many() -> None:
    filtered = POLICY.filter("zh")
    assert "".join(sent(filtered, "病" + "\u200b" * 500 + "毒", [100, 200])) == REFUSAL


def test_levels_note_hand_over_and_block() -> None:
    words = [
        Word("赔偿", ("赔偿",), "warn", "warn"),
        Word("起诉", ("起诉", "sue"), "handoff", "handoff"),
        Word("脏话", ("脏话",), "block", "block"),
        Word("脏话大全", ("脏话大全",), "warn", "warn"),
    ]
    filtered = Filter(Lexicon(words), "NO")
    assert filtered.push("赔偿或起诉，赔偿") == "赔偿或起诉，赔偿"
    assert filtered.verdict == Verdict("handoff", ("赔偿", "起诉"))
    assert filtered.push("脏") == ""
    assert filtered.push("话大全") == "\n\nNO"
    assert filtered.verdict == Verdict("block", ("赔偿", "起诉", "脏话"), "NO")
    assert filtered.push("more") == ""
    assert filtered.end() == ""
    assert "".join(sent(Filter(Lexicon(words), "NO"), "an issue, a pursue", [])) == "an issue, a pursue"


def test_a_block_closes_the_code_that_it_cuts() -> None:
    filtered = POLICY.filter("en")
    out = "".join(sent(filtered, "Look:\n```python\nprint('病毒')\n```\n", [9, 22]))
    assert out == f"Look:\n```python\nprint('\n```\n\n{POLICY.filter('en')._replacement}"


def test_memory_does_not_grow_with_the_answer() -> None:
    filtered = POLICY.filter("zh")
    for _ in range(2000):
        filtered.push("请长按电源键十秒。")
    assert len(filtered._stream.letters) < 100
    assert len(filtered._raw) < 100


@pytest.mark.parametrize(
    ("word", "what"),
    [
        (("。。",), "without letters"),
        (("毒", ""), "without letters"),
    ],
)
def test_words_without_letters_are_refused(word: tuple[str, ...], what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        Word("w", word, "block", "block")
    with pytest.raises(InvalidInput, match="phrases that hold the word"):
        Word("w", ("毒",), "block", "block", ("病人",))
