"""A run as text for the terminal, and as one HTML page that needs nothing else: no script, no font, no address.

It knows how figures are shown. What they are is in `metrics`, `knee` and `capacity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from loadtests import knee as knees
from loadtests.metrics import DEFINITIONS, Summary
from loadtests.plot import Line, draw
from loadtests.run_file import RunFile

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1380px;padding:0 1rem;color:#111827;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e5e7eb}th:first-child,td:first-child{text-align:left}
.scroll{overflow-x:auto}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem}
figure{margin:0}svg{width:100%;height:auto;font:12px system-ui,sans-serif}.title{font-weight:600;font-size:14px}
.middle{text-anchor:middle}.end{text-anchor:end}.start{text-anchor:start}.grid{stroke:#e5e7eb}.line{fill:none;stroke-width:2}
.limit{stroke:#9ca3af;stroke-dasharray:5 4}text.limit{stroke:none;fill:#6b7280}.mark{stroke:#111827;stroke-dasharray:2 3}
figcaption span{margin-right:1rem}figcaption i{display:inline-block;width:.8rem;height:.2rem;margin-right:.35rem}
.yes{color:#047857}.no{color:#b91c1c;font-weight:600}dt{font-weight:600}dd{margin:0 0 .4rem 0}code{font-size:.9em}
"""

LATE_S: Final = 0.1
"""A generator later than this is named in the report."""

_COLUMNS: Final = (
    "stage",
    "arrivals/s",
    "answers/s",
    "tokens/s",
    "goodput/s",
    "TTFT p50",
    "p95",
    "ITL p50",
    "p95",
    "max gap p95",
    "E2E p50",
    "p95",
    "complete",
    "cancelled",
    "rejected",
    "failed",
    "aborted",
    "send lag p99",
    "generator CPU",
)


def text(run: RunFile) -> str:
    """For the terminal: the table, the knee, the checks and every definition."""
    rows = [_COLUMNS, *_rows(run)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += ["", *_statements(run)]
    lines += ["", *(f"{name}: {meaning}" for name, meaning in DEFINITIONS.items())]
    return "\n".join(lines)


def html(run: RunFile) -> str:
    """The page."""
    title = f"Load test: {run.plan}, {run.scenario}"
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in _rows(run)
    )
    checks = "".join(
        f'<li class="{"yes" if passed else "no"}">{"passed" if passed else "FAILED"}: {escape(name)} ({escape(seen)})</li>'
        for name, (passed, seen) in run.checks.items()
    )
    definitions = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in _definitions(run).items()
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"/><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(run.date)}, targets {escape(', '.join(run.targets))}, seed {run.seed}, think time {run.think_s:g} s, "
        f"service level {escape(str(run.slo))}</p><p><code>{escape(run.command)}</code></p>"
        + "".join(f"<p>{escape(line)}</p>" for line in [*_knee_lines(run), *_late_lines(run)])
        + (f"<ul>{checks}</ul>" if checks else "")
        + f'<div class="plots">{"".join(_plots(run))}</div>'
        f'<h2>Figures</h2><div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"<h2>Definitions</h2><dl>{definitions}</dl></body></html>\n"
    )


def row(name: str, figures: Summary) -> tuple[str, ...]:
    """The cells of one stage, in the order of the columns."""
    return (
        name,
        f"{figures.arrivals_per_s:.2f}",
        f"{figures.requests_per_s:.2f}",
        f"{figures.tokens_per_s:.0f}",
        f"{figures.goodput_per_s:.2f}",
        _ms(figures.ttft.p50),
        _ms(figures.ttft.p95),
        _ms(figures.itl.p50),
        _ms(figures.itl.p95),
        _ms(figures.max_gap.p95),
        _ms(figures.e2e.p50),
        _ms(figures.e2e.p95),
        str(figures.complete),
        str(figures.cancelled),
        _causes(figures.rejected),
        _causes(figures.failed),
        str(figures.aborted),
        _ms(figures.send_lag_p99_s),
        "" if figures.generator_cpu is None else f"{figures.generator_cpu:.2f}",
    )


def _rows(run: RunFile) -> list[tuple[str, ...]]:
    return [row(stage.name, figures) for stage, figures in zip(run.stages, run.summaries(), strict=True)]


def _statements(run: RunFile) -> list[str]:
    checks = [
        f"{'passed' if passed else 'FAILED'}  {name}: {seen}" for name, (passed, seen) in run.checks.items()
    ]
    return [*_knee_lines(run), *_late_lines(run), *checks]


def _knee_lines(run: RunFile) -> list[str]:
    if run.plan != "ladder":
        return []
    knee = run.knee()
    if knee is None:
        return ["knee: none; even the first stage is beyond it. Start the ladder lower."]
    figures = run.summaries()[knee.index]
    more = "" if knee.passed else " It is the last stage: the knee may lie higher, make the ladder longer."
    return [
        f"knee: {run.kind}={knee.load:g}, {figures.requests_per_s:.2f} answers/s, {figures.tokens_per_s:.0f} tokens/s, "
        f"TTFT p95 {_ms(figures.ttft.p95)}, E2E p95 {_ms(figures.e2e.p95)}.{more}"
    ]


def _late_lines(run: RunFile) -> list[str]:
    """Names the stages in which the generator itself was late."""
    return [
        f"{stage.name}: the generator was late (send lag p99 {_ms(figures.send_lag_p99_s)}); part of the latency is its "
        "own. Give it a machine of its own, or several workers."
        for stage, figures in zip(run.stages, run.summaries(), strict=True)
        if figures.send_lag_p99_s > LATE_S
    ]


def _definitions(run: RunFile) -> Mapping[str, str]:
    return (
        {**DEFINITIONS, "knee": (knees.__doc__ or "").split("\n\n", 1)[1]}
        if run.plan == "ladder"
        else DEFINITIONS
    )


def _plots(run: RunFile) -> list[str]:
    return _soak_plots(run.extra) if run.plan == "soak" else _load_plots(run)


def _load_plots(run: RunFile) -> list[str]:
    figures = run.summaries()
    loads = [stage.load for stage in run.stages]
    knee = run.knee()
    mark = (knee.load, f"knee {knee.load:g}") if knee else None
    x_name = "users" if run.kind == "users" else "arrivals/s"
    limits: dict[str, list[tuple[float, str]]] = {}
    for limit in run.slo.limits:
        limits.setdefault(limit.metric, []).append((1000 * limit.seconds, limit.name))

    def plot(title: str, y_name: str, lines: Mapping[str, Sequence[float | None]], metric: str = "") -> str:
        series = [Line(name, list(zip(loads, values, strict=True))) for name, values in lines.items()]
        return draw(title, x_name, y_name, series, mark, limits.get(metric, ()), log_x=True)

    def spread(metric: str) -> dict[str, list[float | None]]:
        found: dict[str, list[float | None]] = {}
        for p in ("p50", "p95", "p99"):
            values = [getattr(getattr(one, metric), p) for one in figures]
            found[p] = [None if value is None else 1000 * value for value in values]
        return found

    if run.plan != "ladder":
        return [_timeline(run)]
    return [
        plot("Time to first text", "ms", spread("ttft"), "ttft"),
        plot("Time between chunks", "ms", spread("itl"), "itl"),
        plot("Whole answer", "ms", spread("e2e"), "e2e"),
        plot(
            "Answers and goodput",
            "per second",
            {
                "arrivals": [one.arrivals_per_s for one in figures],
                "answers": [one.requests_per_s for one in figures],
                "goodput": [one.goodput_per_s for one in figures],
            },
        ),
        plot("Output tokens", "tokens/s", {"tokens/s": [one.tokens_per_s for one in figures]}),
        plot("Generator CPU", "cores", {"cores": [one.generator_cpu for one in figures]}),
    ]


def _timeline(run: RunFile) -> str:
    """Requests per second over the run, by what became of them."""
    traces = [trace for stage in run.stages for trace in stage.traces]
    if not traces:
        return ""
    start = min(trace.intended_s for trace in traces)
    length = int(max(trace.intended_s for trace in traces) - start) + 1
    counts: dict[str, list[int]] = {}
    for trace in traces:
        counts.setdefault(trace.outcome, [0] * length)[int(trace.intended_s - start)] += 1
    lines = [Line(name, list(enumerate(values))) for name, values in sorted(counts.items())]
    return draw("Requests by intended start", "seconds", "per second", lines)


def _soak_plots(extra: Mapping[str, Any]) -> list[str]:
    times, series = extra["seconds"], extra["series"]
    groups = {
        "Resident memory (shared pages left out)": [name for name in series if name.startswith("resident")],
        "Threads": ["threads"],
        "Shared memory": ["shared memory MB"],
        **{name: [name] for name in series if name.startswith("qwen3vl_")},
    }
    return [
        draw(
            title, "seconds", "", [Line(name, list(zip(times, series[name], strict=True))) for name in names]
        )
        for title, names in groups.items()
    ]


def _causes(causes: Mapping[str, int]) -> str:
    return " ".join(f"{count} {cause}" for cause, count in causes.items()) or "0"


def _ms(seconds: float | None) -> str:
    return (
        "-"
        if seconds is None
        else f"{1000 * seconds:.1f} ms"
        if seconds < 0.1
        else f"{1000 * seconds:.0f} ms"
    )
