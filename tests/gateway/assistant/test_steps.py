"""The order of the steps, with a scripted model: real policy, scenes, calibration, articles and cache behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gateway.assistant import notices
from gateway.assistant.assistant import Assistant
from gateway.assistant.model import Generation, Prompt
from gateway.cache import AnswerCache
from gateway.confidence import Calibration
from gateway.errors import InvalidInput, Unavailable
from gateway.knowledge.article import Article
from gateway.knowledge.library import Library
from gateway.policy import Policy
from gateway.records import Answer, Delta, Event, Message, Question, Sampling, Usage
from gateway.scene import scenes
from tests.gateway.conftest import picture, question

BLACK = "黑屏可能是电量耗尽。请长按电源键十秒强制重启，充电半小时，仍不亮请联系售后。"


class Script:
    """A model that says what it is told to, and remembers what it was shown."""

    def __init__(self, pieces: Sequence[str], probability: float = 0.99, draft: str = "黑屏") -> None:
        self.pieces, self.probability, self.draft = list(pieces), probability, draft
        self.prompts: list[Prompt] = []
        self.away = False
        self.closed = 0

    async def version(self) -> str:
        if self.away:
            raise Unavailable("the model server does not answer")
        return "model-1"

    async def generate(self, prompt: Prompt, request_id: str, into: Generation) -> AsyncGenerator[str]:
        self.prompts.append(prompt)
        pieces = [self.draft] if request_id.endswith("-draft") else self.pieces
        try:
            for piece in pieces:
                await asyncio.sleep(0)
                into.text.append(piece)
                yield piece
            into.finish_reason, into.token_probability = "stop", self.probability
            into.usage = Usage(10, len(pieces), 0)
        finally:
            self.closed += 1


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path / "knowledge.db")
    made.put(
        [
            Article("black", "手机黑屏怎么办", BLACK, "zh"),
            Article("network", "连不上网络", "请打开无线网络，重启路由器，检查飞行模式是否打开。", "zh"),
            Article("secret", "内部黑屏手册", "黑屏请走内部绿色通道，工单优先级最高。", "zh", tenant="bank"),
        ]
    )
    yield made
    made.close()


@pytest.fixture
def ask(library: Library, valkey_url: str) -> Callable[..., list[Event]]:
    """All events of a question; `cached=True` uses Valkey."""

    def run(
        model: Script, asked: Question[Any], cached: bool = False, profile: str = "default"
    ) -> list[Event]:
        async def inside() -> list[Event]:
            cache = AnswerCache(valkey_url if cached else "", 60, 5)
            assistant = Assistant(
                model,  # type: ignore[arg-type]
                library,
                Policy.load(profile),
                Calibration.load(profile),
                cache,
                scenes(profile),
            )
            try:
                async with aclosing(assistant.answer(asked)) as events:
                    return [event async for event in events]
            finally:
                await cache.close()

        return asyncio.run(inside())

    return run


def whole(events: list[Event]) -> Answer:
    *deltas, answer = events
    assert isinstance(answer, Answer)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert answer.text == "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    return answer


def test_an_answer_cites_the_article_it_rests_on(ask: Callable[..., list[Event]]) -> None:
    model = Script(["黑屏可能是电量耗尽。", "请长按电源键十秒", "强制重启，充电半小时[1]。"])
    answer = whole(ask(model, question("屏幕不亮了", picture())))
    assert [citation.article_id for citation in answer.citations] == ["black"]
    assert "[1] 手机黑屏怎么办" in answer.text
    assert answer.handoff == ""
    assert answer.confidence > 0.5
    assert answer.usage == Usage(10, 3, 0)


def test_the_draft_of_the_picture_finds_the_article_that_the_words_do_not(
    ask: Callable[..., list[Event]],
) -> None:
    model = Script(["请长按电源键十秒强制重启，充电半小时。"], draft="屏幕黑屏，没有任何显示")
    answer = whole(ask(model, question("怎么办？", picture())))
    assert [citation.article_id for citation in answer.citations] == ["black"]
    draft, grounded = model.prompts
    assert draft.messages[-1].media
    assert "手机黑屏怎么办" in grounded.messages[0].text
    assert grounded.messages[-1].media


def test_a_person_is_reached_while_the_model_is_away(ask: Callable[..., list[Event]]) -> None:
    model = Script([])
    model.away = True
    assert whole(ask(model, question("请转人工"))).handoff == "asked_for_person"
    with pytest.raises(Unavailable):
        ask(model, question("屏幕不亮了"))


def test_without_a_picture_there_is_no_draft(ask: Callable[..., list[Event]]) -> None:
    model = Script(["请长按电源键十秒。"])
    ask(model, question("手机黑屏怎么办"))
    assert len(model.prompts) == 1


def test_another_tenants_article_is_never_shown(ask: Callable[..., list[Event]]) -> None:
    for tenant, seen in (("shop", False), ("bank", True)):
        model = Script(["请长按电源键十秒。"])
        ask(model, question("手机黑屏怎么办", tenant=tenant))
        assert ("绿色通道" in model.prompts[0].messages[0].text) is seen


def test_an_unsure_answer_goes_to_a_person_and_the_customer_is_told(ask: Callable[..., list[Event]]) -> None:
    answer = whole(
        ask(Script(["也许是主板坏了。"], probability=0.2), question("手机黑屏怎么办", picture(quality=0.1)))
    )
    assert answer.handoff == "low_confidence"
    assert notices.HANDED_OVER["zh"] in answer.text


def test_a_question_that_no_article_answers_says_so_in_the_reason(ask: Callable[..., list[Event]]) -> None:
    answer = whole(ask(Script(["也许。"], probability=0.2), question("zzqq xxyy", language="en")))
    assert answer.handoff == "no_knowledge"
    assert notices.HANDED_OVER["en"] in answer.text


def test_who_asks_for_a_person_gets_one_and_the_model_is_not_asked(ask: Callable[..., list[Event]]) -> None:
    model = Script(["nothing"])
    answer = whole(ask(model, question("转人工")))
    assert answer.handoff == "asked_for_person"
    assert model.prompts == []


def test_a_blocked_word_in_pieces_never_gets_out_and_ends_the_model(ask: Callable[..., list[Event]]) -> None:
    model = Script(["您可以", "越", "狱", "之后安装", "更多"])
    answer = whole(ask(model, question("怎么装软件")))
    assert "越狱" not in answer.text
    assert "之后安装" not in answer.text
    assert answer.finish_reason == "content_filter"
    assert answer.citations == ()
    assert model.closed == 1


def test_a_blocked_word_parted_by_a_made_up_mark_never_gets_out(ask: Callable[..., list[Event]]) -> None:
    for pieces in (["您可以越[7]狱安装"], ["您可以越[", "7", "]狱安装"]):
        answer = whole(ask(Script(pieces), question("手机黑屏怎么办")))
        assert "越狱" not in answer.text
        assert answer.finish_reason == "content_filter"


def test_marks_of_articles_that_were_not_shown_are_dropped(ask: Callable[..., list[Event]]) -> None:
    model = Script(["请长按电源键十秒[", "7]，充电半小时[1]。"])
    answer = whole(ask(model, question("手机黑屏怎么办")))
    assert "[7]" not in answer.text
    assert "[1]" in answer.text


def test_code_arrives_byte_for_byte(ask: Callable[..., list[Event]]) -> None:
    code = "```html\n<div class=\"a[9]\">\n  <script>x[12] = '越 界';</script>\n</div>\n```"
    model = Script([code[i : i + 5] for i in range(0, len(code), 5)])
    answer = whole(ask(model, question("画一个页面", grounded=False)))
    assert answer.text.startswith(code)


def test_the_same_question_is_answered_from_the_cache(ask: Callable[..., list[Event]]) -> None:
    model = Script(["请长按电源键十秒强制重启，充电半小时[1]。"])
    first = whole(ask(model, question("缓存：手机黑屏怎么办"), cached=True))
    second = whole(ask(model, question("缓存：手机黑屏怎么办？", request_id="request-2"), cached=True))
    assert len(model.prompts) == 1
    assert (second.cached, second.request_id, second.text) == (True, "request-2", first.text)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "bank"},
        {"personal": True},
        {"tools": '[{"name": "f"}]'},
        {"sampling": Sampling(temperature=0.1)},
        {"language": "en"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_must_not_share_an_answer_does_not(
    ask: Callable[..., list[Event]], other: dict[str, Any]
) -> None:
    text = f"分开：手机黑屏怎么办 {sorted(other)}"
    model = Script(["请长按电源键十秒强制重启，充电半小时[1]。"])
    ask(model, question(text), cached=True)
    ask(model, question(text, **other), cached=True)
    assert len(model.prompts) == 2


def test_a_change_of_the_articles_makes_old_answers_stale(
    ask: Callable[..., list[Event]], library: Library
) -> None:
    model = Script(["请长按电源键十秒强制重启，充电半小时[1]。"])
    ask(model, question("变更：手机黑屏怎么办"), cached=True)
    library.put([Article("black", "手机黑屏怎么办", BLACK + "请勿拆机。", "zh")])
    ask(model, question("变更：手机黑屏怎么办"), cached=True)
    assert len(model.prompts) == 2


def test_an_unsure_answer_is_not_kept(ask: Callable[..., list[Event]]) -> None:
    model = Script(["也许。"], probability=0.1)
    for _ in range(2):
        assert whole(ask(model, question("不确定：zzqq"), cached=True)).handoff
    assert len(model.prompts) == 2


def test_a_model_that_is_away_is_unavailable(ask: Callable[..., list[Event]]) -> None:
    model = Script([])
    model.away = True
    with pytest.raises(Unavailable):
        ask(model, question("手机黑屏怎么办"))


def test_an_unknown_scene_names_those_there_are(ask: Callable[..., list[Event]]) -> None:
    with pytest.raises(InvalidInput, match="after_sales"):
        ask(Script([]), question("手机黑屏怎么办", scene="nowhere"))


def test_leaving_early_ends_the_model(library: Library) -> None:
    model = Script(["一。"] * 1000)

    async def leave() -> None:
        assistant = Assistant(
            model,
            library,
            Policy.load("default"),
            Calibration.load("default"),
            AnswerCache("", 1, 1),
            scenes(),  # type: ignore[arg-type]
        )
        async with aclosing(assistant.answer(question("手机黑屏怎么办"))) as events:
            async for _ in events:
                break

    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    run(leave())
    assert model.closed == 1


def test_a_customers_own_system_message_and_tools_stand_behind_the_scenes(
    ask: Callable[..., list[Event]],
) -> None:
    model = Script(["好的。"])
    asked = question("手机黑屏怎么办", tools='{"type": "function"}')
    asked = Question(**(vars(asked) | {"messages": (Message("system", ("只说一句。",)), *asked.messages)}))
    ask(model, asked)
    system = model.prompts[0].messages[0].text
    assert [message.role for message in model.prompts[0].messages] == ["system", "user"]
    assert system.index("[1]") < system.index("<tools>") < system.index("只说一句。")


def test_an_earlier_answer_is_shown_to_the_model_as_it_said_it(ask: Callable[..., list[Event]]) -> None:
    model = Script(["请长按电源键十秒强制重启，充电半小时[1]。"], probability=0.2)
    first = whole(ask(model, question("手机黑屏怎么办", picture(quality=0.1))))
    assert first.text.count("\n\n") >= 2
    again = question(
        "还是不行",
        messages=(
            Message("user", ("手机黑屏怎么办",)),
            Message("assistant", (first.text,)),
            Message("user", ("还是不行",)),
        ),
    )
    ask(model, again)
    assert model.prompts[-1].messages[2].text == "请长按电源键十秒强制重启，充电半小时[1]。"
