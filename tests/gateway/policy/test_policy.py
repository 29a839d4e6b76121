"""The disclaimer: once, in the customer's language, never inside code; and profiles that are not as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidInput, NotFound
from gateway.policy import Policy
from gateway.policy.fences import closing, outside
from gateway.records import Language

POLICY = Policy.load("default")
DRAWIO = """<mxfile host="app.diagrams.net"><diagram name="步骤"><mxGraphModel><root><mxCell id="0"/>
<mxCell id="2" value="长按电源键&#10;10 秒" vertex="1" parent="0"><mxGeometry x="40" y="40" as="geometry"/></mxCell>
</root></mxGraphModel></diagram></mxfile>"""
PAGE = """<!doctype html><style>p::after{content:"\\7c"}</style><script>const a=[1,2].map(x=>`${x}|${x}`);</script>
\t<p>好\u200b的</p>"""


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_disclaimer_stands_below_once(language: Language) -> None:
    whole = POLICY.finish("Answer.", language)
    assert whole == f"Answer.\n\n{POLICY.disclaimer(language)}"
    assert POLICY.finish(whole, language) == whole
    assert POLICY.disclaimer("zh") != POLICY.disclaimer("en")


def test_a_model_that_repeats_it_from_an_earlier_turn_does_not_double_it() -> None:
    text = f"好的。\n\n{POLICY.disclaimer('zh')}\n"
    assert POLICY.finish(text, "zh").count(POLICY.disclaimer("zh")) == 1


@pytest.mark.parametrize("code", [DRAWIO, PAGE, "a\r\n\tb  \n\n"])
@pytest.mark.parametrize("fence", ["```", "````", "~~~"])
def test_code_passes_byte_for_byte_and_the_disclaimer_stays_outside(code: str, fence: str) -> None:
    text = f"看：\n{fence}xml\n{code}\n{fence}\n"
    filtered = POLICY.filter("zh")
    passed = "".join(filtered.push(text[i : i + 3]) for i in range(0, len(text), 3)) + filtered.end()
    assert passed == text
    assert POLICY.finish(text, "zh") == f"{text}\n\n{POLICY.disclaimer('zh')}"
    cut = text[: text.rindex(fence)]  # the model reached its limit inside the block
    whole = POLICY.finish(cut, "zh", "\n\n参考资料：[1] 黑屏")
    assert whole.startswith(cut)
    assert outside(whole).endswith(f"参考资料：[1] 黑屏\n\n{POLICY.disclaimer('zh')}")


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("plain", ""),
        ("```\ncode\n```", ""),
        ("```\ncode", "\n```"),
        ("```\ncode\n", "```"),
        ("1. do\n   ```js\n   x", "\n```"),
        ("````\n```\n", "````"),
        ("```\n~~~\n", "```"),
        ("~~~ a`b`\ncode\n", "~~~"),
        ("say ```code``` inline\n", ""),
        ("```code``` inline\n", ""),
        ("```\ncode\n``` no end\n", "```"),
    ],
)
def test_open_blocks_are_seen(text: str, tail: str) -> None:
    assert closing(text) == tail
    assert closing(text + closing(text)) == ""


@given(st.text(alphabet="`~ab \n", max_size=40))
def test_what_is_finished_never_ends_in_code(text: str) -> None:
    whole = POLICY.finish(text, "en")
    assert whole.startswith(text)
    assert not text.strip() or outside(whole).endswith(POLICY.disclaimer("en"))


def test_calls_of_tools_and_empty_answers_stay_as_they_are() -> None:
    call = '<tool_call>\n{"name": "warranty", "arguments": {"serial": "A1"}}\n</tool_call>'
    assert POLICY.finish(call, "en") == call
    assert POLICY.finish("", "zh") == ""


def test_a_company_writes_only_what_differs(tmp_path: Path) -> None:
    profile = tmp_path / "shop.yaml"
    profile.write_text("extends: default\ndisclaimer: {zh: 仅供参考, en: No liability.}\n", encoding="utf-8")
    policy = Policy.load(str(profile))
    assert policy.finish("Yes.", "en") == "Yes.\n\nNo liability."
    assert policy.judge("病毒", "zh").words == ("病毒",)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("extends: default\nblockd: {}\n", "blockd"),
        ("extends: default\ndisclaimer: {zh: x}\n", "disclaimer.en"),
        ("- a list\n", "YAML mapping"),
        ("extends: default\nblocked: {replacement: {zh: a, en: b}, words: [{word: '!'}]}\n", "letters"),
        (
            "extends: default\nblocked: {replacement: {zh: a, en: b}, words: [{word: x, level: ban}]}\n",
            "level",
        ),
    ],
)
def test_a_wrong_profile_is_refused_with_what_is_wrong(tmp_path: Path, content: str, what: str) -> None:
    profile = tmp_path / "wrong.yaml"
    profile.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInput, match=what):
        Policy.load(str(profile))


def test_unknown_profiles_and_circles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="default, demo"):
        Policy.load("defualt")
    circle = tmp_path / "circle.yaml"
    circle.write_text(f"extends: {circle}\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="extends itself"):
        Policy.load(str(circle))
