"""An assistant that says what a test wants, at the pace that it wants. Everything else in these tests is the real thing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from gateway.errors import GatewayError
from gateway.records import (
    Answer,
    Citation,
    Delta,
    Event,
    FinishReason,
    Media,
    Question,
    Signals,
    Usage,
    Versions,
)


@dataclass
class Scripted:
    """`pieces` are said one by one with `pause_s` before each; `fault` ends it after `fault_after` pieces."""

    pieces: tuple[str, ...] = ("请长按", "电源键 10 秒", "[1]。")
    pause_s: float = 0.0
    handoff: str = ""
    finish_reason: FinishReason = "stop"
    fault: Exception | None = None
    fault_after: int = 0
    citations: tuple[Citation, ...] = (Citation(1, "black-screen-zh", 1, "手机黑屏", 0.9),)
    asked: list[Question[Media]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    cancelled: int = 0
    said: int = 0

    async def answer(self, question: Question[Media]) -> AsyncGenerator[Event]:
        self.asked.append(question)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        done = False
        try:
            for number, piece in enumerate(self.pieces):
                if self.fault is not None and number == self.fault_after:
                    raise self.fault
                await asyncio.sleep(self.pause_s)
                self.said += 1
                yield Delta(piece)
            yield Answer(
                request_id=question.request_id,
                text="".join(self.pieces),
                language=question.language,
                scene=question.scene,
                citations=self.citations,
                confidence=0.87,
                signals=Signals(0.9, 0.8, 1.0, 0.9),
                versions=Versions("m1", question.adapter, "p1", "k1"),
                finish_reason=self.finish_reason,
                handoff=self.handoff,
                usage=Usage(40, 7, 3),
            )
            done = True
        except GatewayError:
            done = True
            raise
        finally:
            self.running -= 1
            self.cancelled += not done
