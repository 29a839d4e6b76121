"""From a question to an answer. The order of the steps is here, and nothing else:

cache -> what do the pictures show -> articles -> grounded answer, streamed through the policy -> citations ->
confidence -> hand-off or not -> cache.

It does not know HTTP, queues or tables, and never sees a picture that was not masked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from gateway.assistant import history, notices, prompt
from gateway.assistant.markers import Markers
from gateway.assistant.model import Generation, Model
from gateway.cache import AnswerCache
from gateway.confidence import Calibration
from gateway.errors import InvalidInput
from gateway.knowledge.citations import check
from gateway.knowledge.library import Library
from gateway.policy import Filter, Policy
from gateway.records import Answer, Citation, Delta, Event, Media, Passage, Question, Signals, Versions
from gateway.scene import Scene

_log = logging.getLogger(__name__)


class Assistant:
    """Answers questions; safe to use from many tasks at once.

    Args:
        model: the model server.
        library: the company's articles.
        policy: what may be said.
        calibration: signals to confidence.
        cache: answers given before.
        scenes: by name.
        attended: whether an agent looks after a tenant's conversation, given both.
        passages: put before the model.
        min_score: below it a passage is not shown.
    """

    def __init__(
        self,
        model: Model,
        library: Library,
        policy: Policy,
        calibration: Calibration,
        cache: AnswerCache,
        scenes: Mapping[str, Scene],
        attended: Callable[[str, str], bool] = lambda tenant, conversation: False,
        passages: int = 3,
        min_score: float = 0.0,
    ) -> None:
        self._model = model
        self._library = library
        self._policy = policy
        self._calibration = calibration
        self._cache = cache
        self._scenes = scenes
        self._attended = attended
        self._passages = passages
        self._min_score = min_score

    async def answer(self, question: Question[Media]) -> AsyncGenerator[Event]:
        """Deltas as they are written, then the Answer, whose text starts with all of them.

        Raises InvalidInput for an unknown scene or a prompt that cannot be answered, Unavailable when the model is away.
        Closing the iterator cancels the model's work.
        """
        scene = self._scene(question)
        if (reason := await self._person(question)) is not None:
            # Without the model, so also while it is away.
            answer = _by_person(
                question, reason, Versions("", "", scene.prompt_version, self._library.version)
            )
            yield Delta(answer.text)
            yield answer
            return
        versions = await self.versions(question)
        key = await self._cache.key(question, versions) if scene.cacheable else None
        if key is None:
            async with aclosing(self._compose(question, scene, versions)) as events:
                async for event in events:
                    yield event
            return
        found = await self._cache.get_or_lead(key)
        if isinstance(found, Answer):
            yield Delta(found.text)
            yield replace(found, request_id=question.request_id, cached=True)
            return
        async with found as lead, aclosing(self._compose(question, scene, versions)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    sound = not event.handoff and event.finish_reason == "stop"
                    await (lead.keep(event) if sound else lead.decline())
                yield event

    async def versions(self, question: Question[Media]) -> Versions:
        """What the answer to this question depends on; Unavailable when the model is away."""
        return Versions(
            model=await self._model.version(),
            adapter=question.adapter,
            prompt=self._scene(question).prompt_version,
            knowledge=self._library.version,
        )

    async def _person(self, question: Question[Media]) -> str | None:
        """Why a person answers this, and not the model."""
        if question.conversation_id:
            attended = await asyncio.to_thread(self._attended, question.tenant, question.conversation_id)
            if attended:
                return "attended"
        return "asked_for_person" if notices.asks_for_person(question.text) else None

    def _scene(self, question: Question[Media]) -> Scene:
        scene = self._scenes.get(question.scene)
        if scene is None or not scene.enabled:
            allowed = ", ".join(sorted(name for name, scene in self._scenes.items() if scene.enabled))
            raise InvalidInput("scene", repr(question.scene), allowed)
        return scene

    async def _compose(
        self, question: Question[Media], scene: Scene, versions: Versions
    ) -> AsyncGenerator[Event]:
        language = question.language
        passages = await self._found(question, scene)
        disclaimers = (self._policy.disclaimer("zh"), self._policy.disclaimer("en"))
        shown_before = replace(question, messages=history.spoken(question.messages, disclaimers))
        generation, filtered = Generation(), self._policy.filter(language, question.text)
        shown: list[str] = []
        asked = self._model.generate(
            prompt.grounded(scene, shown_before, passages), question.request_id, generation
        )
        async with aclosing(_said(asked, filtered, len(passages))) as pieces:
            async for piece in pieces:
                shown.append(piece)
                yield Delta(piece)
        text = "".join(shown)
        checked = check(text, passages)
        signals = Signals(
            generation.token_probability,
            _margin(passages) if question.grounded else 1.0,
            min((item.quality for item in question.media), default=1.0),
            checked.support if question.grounded else 1.0,
        )
        confidence = self._calibration.confidence(signals)
        verdict = filtered.verdict
        blocked = verdict.level == "block"
        handoff = _reason(
            verdict.level, confidence < scene.threshold, bool(passages) or not question.grounded
        )
        tail = "" if blocked else _below(question, text, checked.citations, bool(handoff))
        whole = self._policy.finish(text, language, tail)
        if more := whole[len(text) :]:
            yield Delta(more)
        yield Answer(
            request_id=question.request_id,
            text=whole,
            language=language,
            scene=scene.name,
            citations=() if blocked else checked.citations,
            confidence=confidence,
            signals=signals,
            versions=versions,
            finish_reason="content_filter" if blocked else generation.finish_reason or "stop",
            handoff=handoff,
            usage=generation.usage,
        )

    async def _found(self, question: Question[Media], scene: Scene) -> list[Passage]:
        """Articles for what is asked and what the pictures show."""
        if not question.grounded:
            return []
        words = question.text
        if question.messages[-1].media:
            generation = Generation()
            async for _ in self._model.generate(
                prompt.draft(scene, question), f"{question.request_id}-draft", generation
            ):
                pass
            words = f"{words}\n{''.join(generation.text)}"
        search = partial(
            self._library.search,
            words,
            language=question.language,
            tenant=question.tenant,
            scope=scene.scope,
            limit=self._passages,
        )
        found = await asyncio.to_thread(search)
        return [passage for passage in found if passage.score >= self._min_score]


async def _said(pieces: AsyncGenerator[str], filtered: Filter, passages: int) -> AsyncGenerator[str]:
    """What may be shown of the model's pieces. A block ends the model's work."""
    markers = Markers(passages)
    async with aclosing(pieces) as source:
        async for piece in source:
            # The marks first: a word that one of them parts is whole when the filter sees it.
            if out := filtered.push(markers.push(piece)):
                yield out
            if filtered.verdict.level == "block":
                break
    if out := filtered.push(markers.end()) + filtered.end():
        yield out


def _margin(passages: Sequence[Passage]) -> float:
    """How far the best passage is ahead: 0 without one, 1 when it stands alone."""
    if not passages:
        return 0.0
    best = passages[0].score
    others = [passage.score for passage in passages if passage.article_id != passages[0].article_id]
    return 1.0 if not others else max(0.0, min(1.0, (best - others[0]) / best)) if best > 0 else 0.0


def _reason(level: str, unsure: bool, knows: bool) -> str:
    if level == "handoff":
        return "blocked_words"
    if unsure and level != "block":
        return "low_confidence" if knows else "no_knowledge"
    return ""


def _below(question: Question[Media], text: str, citations: Sequence[Citation], handed_over: bool) -> str:
    """What follows the model's words: the articles it rests on, and that a person comes."""
    lines = []
    if citations and text:
        named = "  ".join(f"[{citation.number}] {citation.title}" for citation in citations)
        lines.append(f"{notices.REFERENCES[question.language]}{named}")
    if handed_over:
        lines.append(notices.HANDED_OVER[question.language])
    return "".join(f"\n\n{line}" for line in lines)


def _by_person(question: Question[Media], reason: str, versions: Versions) -> Answer:
    notice = notices.PASSED_ON if reason == "attended" else notices.PERSON_COMES
    return Answer(
        request_id=question.request_id,
        text=notice[question.language],
        language=question.language,
        scene=question.scene,
        citations=(),
        confidence=1.0,
        signals=Signals(1.0, 1.0, 1.0, 1.0),
        versions=versions,
        handoff=reason,
    )
