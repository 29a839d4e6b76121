"""How many users a deployment holds, and how many replicas a number of users needs. Arithmetic on a run's figures.

How it is computed. A stage *holds* if every limit of the service level is met over its window, and at least
`Slo.good_share` of its requests were complete. The deployment holds the highest load up to which all stages hold;
nothing is interpolated or extrapolated. At that stage X requests/s were answered in R seconds each, so (Little's law)
X * R of them were under way at once, and X * (R + Z) users keep it as busy if each thinks Z seconds between an answer
and the next question. With headroom h a replica is given (1 - h) of that. Replicas are taken to be alike, and the
balancer to be fair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from loadtests import metrics
from loadtests.run_file import RunFile, StageFile
from loadtests.slo import Slo

HEADROOM: Final = 0.2
"""Share of a replica that is kept free: for bursts, and while one restarts."""


@dataclass(frozen=True)
class Verdict:
    """Whether one stage holds, and what it missed."""

    name: str
    load: float
    misses: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was missed."""
        return not self.misses


@dataclass(frozen=True)
class Capacity:
    """What one deployment holds.

    Attributes:
        verdicts: of the ladder's stages.
        load: highest load that holds, None if not even the first stage does.
        requests_per_s: answered there.
        e2e_mean_s: mean time of an answer there, in seconds.
        limited: the next stage was tried and does not hold; otherwise the deployment may hold more.
    """

    verdicts: tuple[Verdict, ...]
    load: float | None
    requests_per_s: float
    e2e_mean_s: float
    limited: bool

    def users(self, think_s: float) -> int:
        """Users who think `think_s` seconds between an answer and the next question."""
        # A little more than exact arithmetic gives: 3 * (0.1 + 0.9) must not become 2.
        return math.floor(self.requests_per_s * (self.e2e_mean_s + think_s) + 1e-6)

    def replicas(self, users: int, think_s: float, headroom: float = HEADROOM) -> int | None:
        """Deployments like this one for `users`; None if one holds no user at all."""
        each = self.requests_per_s * (self.e2e_mean_s + think_s) * (1 - headroom)
        return math.ceil(users / each - 1e-9) if each > 0 else None


def judge(run: RunFile, slo: Slo) -> Capacity:
    """The capacity that a ladder showed. ValueError for a run of another plan."""
    if run.plan != "ladder":
        raise ValueError(f"run: got a run of the plan {run.plan!r}; allowed: a ladder")
    verdicts = tuple(verdict(stage, slo) for stage in run.stages)
    held = 0
    while held < len(verdicts) and verdicts[held].holds:
        held += 1
    if not held:
        return Capacity(verdicts, None, 0.0, 0.0, limited=True)
    figures = run.summaries(slo)[held - 1]
    return Capacity(
        verdicts,
        run.stages[held - 1].load,
        figures.requests_per_s,
        figures.e2e.mean or 0.0,
        limited=held < len(verdicts),
    )


def verdict(stage: StageFile, slo: Slo) -> Verdict:
    """Whether a stage holds. One without a complete answer does not."""
    misses = []
    for limit in slo.limits:
        values = metrics.values_of(stage.traces, stage.window, limit.metric)
        if values and (value := metrics.percentile(values, limit.percentile)) > limit.seconds:
            misses.append(f"{limit.name} {_ms(value)} > {_ms(limit.seconds)}")
    figures = metrics.summarise(stage.traces, stage.window, slo)
    if not figures.complete:
        misses.append("no complete answer in the window")
    elif figures.good_share < slo.good_share:
        misses.append(f"complete {100 * figures.good_share:.1f} % < {100 * slo.good_share:g} %")
    if figures.aborted:
        misses.append(f"{figures.aborted} requests never ended")
    return Verdict(stage.name, stage.load, tuple(misses))


def explain(run: RunFile, slo: Slo, think_s: float, users: int | None, headroom: float = HEADROOM) -> str:
    """The answer for people, with how it was computed."""
    capacity = judge(run, slo)
    lines = [f"service level   {slo}, and at least {100 * slo.good_share:g} % of the requests complete"]
    for one in capacity.verdicts:
        lines.append(
            f"  {one.name:<12} {'holds' if one.holds else 'does not hold: ' + '; '.join(one.misses)}"
        )
    if capacity.load is None:
        lines.append("this deployment does not hold even the first stage; start the ladder lower")
        return "\n".join(lines)
    more = "" if capacity.limited else " or more: the ladder ended before it failed, make it longer"
    lines += [
        f"holds           {run.kind}={capacity.load:g}{more}",
        f"there           X = {capacity.requests_per_s:.2f} answers/s, R = {capacity.e2e_mean_s:.3f} s each (mean E2E)",
        f"users           {capacity.users(think_s)} who think Z = {think_s:g} s between answer and question: X * (R + Z)",
    ]
    if users is not None:
        count = capacity.replicas(users, think_s, headroom)
        each = capacity.requests_per_s * (capacity.e2e_mean_s + think_s)
        lines.append(
            f"replicas        {count} for {users} users: {users} / ({each:.1f} * (1 - {headroom:g} headroom)), rounded up"
        )
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
