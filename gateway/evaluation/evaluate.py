"""`python -m gateway eval SET`: put an evaluation set to one or two running gateways and compare their answers.

With --a alone, that gateway is compared with the answers the set recorded. With --versions nothing is asked: the recorded
answers are told apart by model, prompt and knowledge version. Keys come from GATEWAY_KEY_A and GATEWAY_KEY_B; use a tenant made
for this, since unsure answers open hand-offs as they always do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from gateway.errors import GatewayError
from gateway.evaluation.cases import Case, read
from gateway.evaluation.compare import Score, Summary, duel, judge, summarise
from gateway.evaluation.replay import Outcome, Target, replay


def main(arguments: list[str]) -> int:
    """Run the command; its last line of output is JSON. 1 when a case was not answered, or a floor was not reached."""
    options = _options(arguments)
    try:
        cases = read(options.set)
    except (GatewayError, OSError) as error:
        print(f"eval: {error}", file=sys.stderr)
        return 1
    if options.versions:
        print(json.dumps({"versions": _by_version(cases)}, ensure_ascii=False))
        return 0
    targets = {"a": Target(options.a, os.environ.get("GATEWAY_KEY_A", ""))}
    if options.b:
        targets["b"] = Target(options.b, os.environ.get("GATEWAY_KEY_B", ""))
    outcomes = {
        name: asyncio.run(
            replay(cases, options.set, target, options.concurrency, options.timeout_s, options.temperature)
        )
        for name, target in targets.items()
    }
    if not options.b:
        outcomes["recorded"] = [_recorded(case) for case in cases]
    scores = {
        name: [judge(*pair) for pair in zip(cases, came, strict=True)] for name, came in outcomes.items()
    }
    summaries = {name: summarise(scores[name], outcomes[name]) for name in outcomes}
    _table(summaries)
    first, second = scores
    compared = duel(scores[first], scores[second])
    print(
        f"\n{first} better in {compared.better_a} cases, {second} in {compared.better_b}, equal in {compared.equal}; "
        f"by luck alone with p = {compared.chance:.3f}"
    )
    _worse(cases, scores, first, second, options.show)
    result = {name: _rounded(asdict(summary)) for name, summary in summaries.items()}
    print(json.dumps({"cases": len(cases), **result, "duel": _rounded(asdict(compared))}, ensure_ascii=False))
    failed = any(summaries[name].errors for name in targets) or summaries["a"].right < options.floor
    return 1 if failed else 0


def _recorded(case: Case) -> Outcome:
    text = case.reference or case.rejected
    return Outcome(
        text=text,
        citations=case.citations,
        confidence=case.confidence or 0.0,
        handoff=case.handoff,
        error="" if text else "not recorded",
    )


def _table(summaries: Mapping[str, Summary]) -> None:
    print(f"{'':<12}" + "".join(f"{name:>12}" for name in summaries))
    for field in asdict(next(iter(summaries.values()))):
        cells = [getattr(summary, field) for summary in summaries.values()]
        print(f"{field:<12}" + "".join(f"{_cell(cell):>12}" for cell in cells))


def _cell(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _worse(
    cases: Sequence[Case], scores: Mapping[str, Sequence[Score]], first: str, second: str, most: int
) -> None:
    """Names cases, not their texts: these may be looked up in the set."""
    gaps = sorted(
        (one.total - other.total, case.id)
        for case, one, other in zip(cases, scores[first], scores[second], strict=True)
        if one.total != other.total
    )
    for gap, name in gaps[:most]:
        if gap < 0:
            print(f"  {first} is worse by {-gap:.2f}: case {name}")


def _by_version(cases: Sequence[Case]) -> list[dict[str, object]]:
    groups: dict[tuple[tuple[str, str], ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(tuple(sorted(case.versions.items())), []).append(case)
    rows: list[dict[str, object]] = []
    print(f"{'answers':>8} {'rating':>7} {'good':>6} {'bad':>6} {'sure':>6} {'handed':>7}  versions")
    for version, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        ratings = [case.rating for case in group if case.rating is not None]
        row: dict[str, object] = {
            "versions": dict(version),
            "answers": len(group),
            "rating": round(mean(ratings), 3) if ratings else None,
            "good": sum(rating >= 4 for rating in ratings),
            "bad": sum(rating <= 2 for rating in ratings),
            "confidence": round(mean(case.confidence or 0.0 for case in group), 3),
            "handoffs": sum(bool(case.handoff) for case in group),
        }
        rows.append(row)
        told = " ".join(f"{name}={value[:12]}" for name, value in version) or "not recorded"
        rating = "-" if row["rating"] is None else f"{row['rating']:.2f}"
        print(
            f"{len(group):8d} {rating:>7} {row['good']!s:>6} {row['bad']!s:>6} {row['confidence']!s:>6} "
            f"{row['handoffs']!s:>7}  {told}"
        )
    return rows


def _rounded(values: Mapping[str, object]) -> dict[str, object]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway eval", description=__doc__)
    parser.add_argument("set", type=Path, help="JSON lines; `python -m gateway export` makes them")
    parser.add_argument("--a", help="URL of a running gateway, http://127.0.0.1:7860")
    parser.add_argument("--b", help="URL of the one to compare it with (default: the recorded answers)")
    parser.add_argument("--versions", action="store_true", help="compare the recorded answers by version")
    parser.add_argument("--concurrency", type=int, default=2, help="questions at once (default 2)")
    parser.add_argument("--timeout-s", type=float, default=180.0, help="for one answer (default 180)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 (the default) makes runs repeatable"
    )
    parser.add_argument(
        "--floor", type=float, default=0.0, help="exit with 1 if fewer of A's answers are right"
    )
    parser.add_argument("--show", type=int, default=10, help="cases to name in which A is worse (default 10)")
    options = parser.parse_args(arguments)
    if bool(options.a) == options.versions or (options.versions and options.b):
        parser.error("give --a (and maybe --b), or --versions")
    return options
