"""An assistant that does what the question says, so that a test decides it per ticket; everything else is the real thing.

Words in the question: "slow" takes a while, "down" is never available, "flaky" not the first two times, "broken" has a bug,
"refused" is invalid, "unsure" is handed over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from gateway.errors import InvalidInput, Unavailable
from gateway.records import Answer, Delta, Event, Media, Question, Signals, Versions


@dataclass
class Scripted:
    pause_s: float = 0.0
    asked: list[Question[Media]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most_running: int = 0
    cancelled: int = 0

    async def answer(self, question: Question[Media]) -> AsyncGenerator[Event]:
        self.asked.append(question)
        self.attempts[question.request_id] += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.pause_s)
            yield Delta("answer to ")
            yield await self._whole(question)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _whole(self, question: Question[Media]) -> Answer:
        text = question.text
        if "slow" in text:
            await asyncio.sleep(1.5)
        if "down" in text or ("flaky" in text and self.attempts[question.request_id] < 3):
            raise Unavailable("the model is away")
        if "broken" in text:
            raise ZeroDivisionError(text)
        if "refused" in text:
            raise InvalidInput("messages", "a long prompt", "less")
        return Answer(
            request_id=question.request_id,
            text=f"answer to {text}",
            language=question.language,
            scene=question.scene,
            citations=(),
            confidence=0.2 if "unsure" in text else 0.9,
            signals=Signals(0.9, 0.8, 1.0, 0.9),
            versions=Versions("m1", "", "p1", "k1"),
            handoff="low_confidence" if "unsure" in text else "",
        )
