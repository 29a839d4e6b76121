"""Plays one stage of load with Locust in this process, and measures what the generator itself costs.

It knows Locust's runner and the stage's clock; not what a request is, nor what its figures mean.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count as count_from

from loadtests import greenlets  # isort: skip (before anything that does I/O)

import gevent
from locust.env import Environment

from loadtests.arrivals import Phase
from loadtests.knee import Kind
from loadtests.ladder import Timing
from loadtests.metrics import Window
from loadtests.scenarios import Cast
from loadtests.targets import Targets
from loadtests.trace import Trace, now
from loadtests.users import ArrivalUser, ChatUser, Load, reporter

__all__ = ["Generator", "Stage", "greenlets"]


@dataclass(frozen=True)
class Stage:
    """A stage that was played: its traces (of every request it began), its window, the generator's CPU in cores."""

    kind: Kind
    load: float
    window: Window
    traces: tuple[Trace, ...]
    generator_cpu: float


class Generator:
    """Plays stages one after the other.

    Args:
        cast: what users do.
        addresses: targets, see `targets.Targets`.
        think_s: pause of closed-loop users between requests.
    """

    def __init__(self, cast: Cast, addresses: list[str], think_s: float = 0.0) -> None:
        self._traces: list[Trace] = []
        self._environment = Environment(user_classes=[ChatUser, ArrivalUser])
        self._tell = reporter(self._environment.events)
        self._targets = Targets(addresses, self._record)
        self._cast, self._think_s = cast, think_s
        self._runner = self._environment.create_local_runner()
        self._stages = 0

    def play(
        self,
        kind: Kind,
        load: float,
        timing: Timing,
        progress: Callable[[str], None],
        phases: tuple[Phase, ...] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Stage:
        """One stage from warm-up to the last answer.

        `progress` gets a line a second. `phases` replace the constant rate of an open loop; `meanwhile` runs beside
        the load, and its exception is raised here.
        """
        self._traces = []
        self._stages += 1
        start = now()
        window = Window(start + timing.warm_up, start + timing.warm_up + timing.window)
        until = window.end_s + timing.cool_down
        arrivals = phases or (Phase(load),)
        shared = Load(self._cast, self._targets, self._think_s, arrivals, until)
        # Users of a later stage are other people: their pictures are new too.
        shared.numbers = count_from(10_000 * self._stages)
        ChatUser.load = ArrivalUser.load = shared
        self._environment.user_classes = [ChatUser if kind == "users" else ArrivalUser]
        count = int(load) if kind == "users" else 1
        self._runner.start(count, spawn_rate=count)
        beside = gevent.spawn(meanwhile) if meanwhile else None
        cpu = self._wait(window, until, timing.grace, progress, f"{kind}={load:g}")
        self._runner.stop()
        if beside:
            beside.get()
        return Stage(kind, load, window, tuple(self._traces), cpu)

    def close(self) -> None:
        """Ends users and connections."""
        self._runner.quit()
        self._targets.close()

    def _record(self, trace: Trace) -> None:
        self._traces.append(trace)
        self._tell(trace)

    def _wait(
        self, window: Window, until: float, grace: float, progress: Callable[[str], None], name: str
    ) -> float:
        cpu_at_start = cpu_at_end = None
        told = now()
        while now() < until or (self._runner.user_count and now() < until + grace):
            gevent.sleep(0.05)
            at = now()
            if cpu_at_start is None and at >= window.start_s:
                cpu_at_start = _cpu(), at
            if cpu_at_end is None and at >= window.end_s:
                cpu_at_end = _cpu(), at
            if at >= told + 1:
                told = at
                left = max(0.0, until - at)
                done = sum(trace.outcome == "complete" for trace in self._traces)
                progress(f"{name}: {done} answers, {len(self._traces) - done} others, {left:.0f} s left")
        if cpu_at_start is None or cpu_at_end is None:
            return 0.0
        return (cpu_at_end[0] - cpu_at_start[0]) / (cpu_at_end[1] - cpu_at_start[1])


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
