"""Locust users: those who wait for an answer before they ask again (closed loop), and sources of arrivals (open loop).

They draw from `scenarios`, send through `targets`, and tell Locust what happened; the traces go to `Load.record`.
Import `greenlets` first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any, ClassVar

import gevent
from gevent.pool import Group
from locust import User, task
from locust.exception import StopUser

from loadtests.arrivals import Phase, poisson
from loadtests.scenarios import Cast, Player
from loadtests.targets import Targets
from loadtests.trace import Trace, now


@dataclass
class Load:
    """What the users of a process share.

    Attributes:
        cast: what users do.
        targets: where requests go.
        think_s: pause of a closed-loop user between two conversations' turns.
        phases: arrival rates of each open-loop source.
        until_s: no request is begun after this moment (`trace.now`).
    """

    cast: Cast
    targets: Targets
    think_s: float = 0.0
    phases: tuple[Phase, ...] = (Phase(1.0),)
    until_s: float = inf
    numbers: count[int] = field(default_factory=count)

    def converse(self, player: Player, intended_s: float) -> None:
        """One scenario from its first turn to its last, or until a turn is not answered whole."""
        answers: list[str] = []
        scenario = player.choose()
        for question in player.questions(scenario, answers):
            answer = self.targets.ask(question, intended_s)
            if answer is None or now() >= self.until_s:
                return
            answers.append(answer)
            if len(answers) < len(scenario.questions) and self.think_s:
                gevent.sleep(self.think_s)
            intended_s = now()


class ChatUser(User):
    """Closed loop: asks, reads, thinks, asks again."""

    load: ClassVar[Load]

    def on_start(self) -> None:
        """Become the next user number; the questions follow from it."""
        self.player = self.load.cast.player(next(self.load.numbers))

    @task
    def converse(self) -> None:
        """One scenario."""
        if now() >= self.load.until_s:
            raise StopUser
        self.load.converse(self.player, now())
        if self.load.think_s:
            gevent.sleep(self.load.think_s)


class ArrivalUser(User):
    """Open loop: a source of Poisson arrivals, each played by a user of its own who waits for nobody."""

    load: ClassVar[Load]

    def on_start(self) -> None:
        """Nothing has arrived yet."""
        self.arrived = Group()

    @task
    def arrive(self) -> None:
        """Arrivals until the load ends, then wait for the answers."""
        load, source = self.load, next(self.load.numbers)
        start = now()
        for number, after in enumerate(poisson(load.phases, f"{load.cast.seed} source {source}")):
            intended = start + after
            if intended >= load.until_s:
                break
            gevent.sleep(max(0.0, intended - now()))
            self.arrived.spawn(load.converse, load.cast.player(1_000_000 * (source + 1) + number), intended)
        self.arrived.join()
        raise StopUser

    def on_stop(self) -> None:
        """Cut what is left; it is recorded as aborted."""
        self.arrived.kill()


def reporter(events: Any) -> Callable[[Trace], None]:
    """A function that tells Locust's own statistics of a trace: TTFT, the longest gap, and E2E or the failure."""

    def tell(trace: Trace) -> None:
        if trace.outcome == "aborted":
            return
        for name, seconds in (("TTFT", trace.ttft_s), ("max gap", trace.max_gap_s)):
            if seconds is not None:
                events.request.fire(
                    request_type=name,
                    name=trace.scenario,
                    response_time=1000 * seconds,
                    response_length=0,
                    exception=None,
                    context={},
                )
        events.request.fire(
            request_type="E2E",
            name=trace.scenario,
            response_time=1000 * trace.e2e_s,
            response_length=trace.tokens,
            exception=RuntimeError(trace.cause) if trace.outcome in ("rejected", "failed") else None,
            context={},
        )

    return tell
