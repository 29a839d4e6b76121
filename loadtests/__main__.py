"""`python -m loadtests run|overload|soak|restart|report|capacity`: how much a deployment holds.

It knows the command line. Locust, gevent and gRPC are loaded only by the commands that send requests.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests import capacity, overload, report, restart, run_file, slo, soak
from loadtests.ladder import Timing, parse, seconds
from loadtests.run_file import RunFile, StageFile
from loadtests.scenarios import MIXES, SCENARIOS, Cast, shares

if TYPE_CHECKING:
    from loadtests.generator import Generator, Stage
    from loadtests.trace import Trace

_EXIT_CODES = """exit codes: 0 done; 1 a check failed, or nothing was answered; 2 a wrong command line, file or server"""

_EXAMPLES = f"""examples:
  python -m ensemble serve --engines engines/demo-int8 --free-ports --ready-file ready.json &
      a server; ready.json names its ports
  python -m loadtests run --target 127.0.0.1:8001 --scenario one-image --ladder users=1,2,4,8,16 --duration 10s --out out
      closed loop: each user asks again when answered. Finds the knee; writes out/run.json and out/report.html
  python -m loadtests run --target 127.0.0.1:8001 --scenario mixed --ladder rate=1,2,4,8 --duration 20s --out out
      open loop: requests arrive at random moments whatever the server does, as a crowd's do; only this shows queueing
  python -m loadtests capacity out/run.json --slo ttft_p95=2s,itl_p95=200ms --think 20s --users 500
      how many users one deployment holds, and how many replicas 500 users need
  python -m loadtests overload --target 127.0.0.1:8001 --knee out/run.json --out overload
  python -m loadtests soak --target 127.0.0.1:8001 --load users=2 --duration 10m --ready-file ready.json --out soak
  python -m loadtests restart --engines engines/demo-int8 --rate 4 --out restart

{_EXIT_CODES}"""


def main(arguments: list[str]) -> int:
    """Runs one command. Returns its exit code, see `--help`."""
    options = _parser().parse_args(arguments)
    options.words = f"python -m loadtests {shlex.join(arguments)}"
    try:
        code: int = options.command(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return 2
    return code


def _run(options: argparse.Namespace) -> int:
    ladder = parse(options.ladder)
    timing = Timing.of(seconds(options.duration), _or_none(options.warm_up), _or_none(options.cool_down))
    generator = _generator(options)
    stages = []
    try:
        for load in ladder.loads:
            stage = generator.play(ladder.kind, load, timing, _progress)
            stages.append(_file(stage, f"{ladder.kind}={load:g}"))
    finally:
        generator.close()
    run = _new_run(options, "ladder", ladder.kind, stages)
    return _finish(run, options.out, need_answers=True)


def _overload(options: argparse.Namespace) -> int:
    plan = overload.Overload(
        _knee(options.knee), seconds(options.calm), seconds(options.duration), seconds(options.after)
    )
    length = plan.calm_s + plan.full_s + plan.after_s
    generator = _generator(options)
    try:
        timing = Timing(length, 0.0, 0.0)
        stage = generator.play("rate", plan.knee, timing, _progress, plan.phases())
    finally:
        generator.close()
    windows = plan.windows(stage.window.start_s)
    names = ("half the knee", "twice the knee", "half again")
    stages = [
        StageFile(name, phase.rate, window, _begun(stage, window.start_s, window.end_s), None)
        for name, phase, window in zip(names, plan.phases(), windows, strict=True)
    ]
    run = _new_run(options, "overload", "rate", stages, overload.judge(stage.traces, windows))
    return _finish(run, options.out)


def _soak(options: argparse.Namespace) -> int:
    from loadtests.resources import Watch
    from loadtests.trace import now

    load = parse(options.load)
    if len(load.loads) != 1:
        raise ValueError(f"load: got {options.load!r}; allowed: one load, such as users=2")
    length = seconds(options.duration)
    facts = json.loads(Path(options.ready_file).read_text())
    watch = Watch(facts["pid"], f"http://{facts['host']}:{facts['metrics_port']}")
    generator = _generator(options)
    samples = []

    def look() -> None:
        end, every = now() + length, max(0.5, min(5.0, length / 60))
        while now() < end:
            samples.append(watch.look(now()))
            time.sleep(every)

    try:
        timing = Timing(length, 0.0, 0.0)
        stage = generator.play(load.kind, load.loads[0], timing, _progress, meanwhile=look)
    finally:
        generator.close()
    time.sleep(2.5)  # metrics follow
    end = watch.look(now())
    checks = soak.judge(samples, end)
    lost = [trace for trace in stage.traces if trace.outcome in ("rejected", "failed", "aborted")]
    checks["every request is answered"] = (not lost, f"{len(lost)} of {len(stage.traces)} lost")
    run = _new_run(
        options, "soak", load.kind, [_file(stage, options.load)], checks, soak.figures(samples, end)
    )
    return _finish(run, options.out)


def _restart(options: argparse.Namespace) -> int:
    from loadtests.server import Server

    length, pause = seconds(options.duration), seconds(options.pause)
    codes: list[int] = []
    with Server(options.engines, []) as one, Server(options.engines, []) as other:
        options.target = f"{one.address},{other.address}"
        generator = _generator(options)
        try:
            stage = generator.play(
                "rate",
                options.rate,
                Timing(length, 0.0, 0.0),
                _progress,
                meanwhile=lambda: codes.extend(restart.roll([one, other], pause)),
            )
        finally:
            generator.close()
        checks = restart.judge(stage.traces, codes, 2, options.target.split(","))
    run = _new_run(options, "restart", "rate", [_file(stage, f"rate={options.rate:g}")], checks)
    return _finish(run, options.out)


def _report(options: argparse.Namespace) -> int:
    run = run_file.read(options.run)
    print(report.text(run))
    page = options.out or options.run.with_name("report.html")
    page.write_text(report.html(run), encoding="utf-8")
    print(f"\nwrote {page}")
    if options.figures:
        run.write(options.figures, with_traces=False)
        print(f"wrote {options.figures}")
    return 0


def _capacity(options: argparse.Namespace) -> int:
    run = run_file.read(options.run)
    level = slo.parse(options.slo)
    think_s = run.think_s if options.think is None else seconds(options.think)
    if not 0 <= options.headroom < 1:
        raise ValueError(f"headroom: got {options.headroom}; allowed: 0 to below 1")
    print((capacity.__doc__ or "").split("\n\n", 1)[1])
    print(capacity.explain(run, level, think_s, options.users, options.headroom))
    return 0 if capacity.judge(run, level).load is not None else 1


def _scenarios(options: argparse.Namespace) -> int:
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:<12} {scenario.about}; at most {scenario.max_tokens} answer tokens a turn")
    for name, parts in MIXES.items():
        print(f"{name:<12} {', '.join(f'{100 * share:.0f} % {part}' for part, share in parts.items())}")
    return 0


def _generator(options: argparse.Namespace) -> Generator:
    shares(options.scenario)  # a wrong name is told before anything is loaded
    from loadtests.generator import Generator
    from loadtests.media import Media

    cast = Cast(options.scenario, Media(options.seed), options.seed)
    print("making pictures and clips", file=sys.stderr, flush=True)
    cast.warm()
    think_s = seconds(options.think) if options.think else 0.0
    return Generator(cast, options.target.split(","), think_s)


def _new_run(
    options: argparse.Namespace,
    plan: str,
    kind: str,
    stages: list[StageFile],
    checks: dict[str, tuple[bool, str]] | None = None,
    extra: dict[str, object] | None = None,
) -> RunFile:
    return RunFile(
        plan,
        "users" if kind == "users" else "rate",
        tuple(options.target.split(",")),
        options.scenario,
        options.seed,
        seconds(options.think) if options.think else 0.0,
        slo.parse(options.slo),
        options.words,
        tuple(stages),
        checks or {},
        extra or {},
    )


def _finish(run: RunFile, out: Path, need_answers: bool = False) -> int:
    run.write(out / "run.json")
    (out / "report.html").write_text(report.html(run), encoding="utf-8")
    print(report.text(run))
    print(f"\nwrote {out / 'run.json'} and {out / 'report.html'}")
    answered = any(
        trace.outcome in ("complete", "cancelled") for stage in run.stages for trace in stage.traces
    )
    if need_answers and not answered:
        print("loadtests: nothing was answered; is the target right, and the server ready?", file=sys.stderr)
        return 1
    return 0 if run.passed else 1


def _file(stage: Stage, name: str) -> StageFile:
    return StageFile(name, stage.load, stage.window, stage.traces, stage.generator_cpu)


def _begun(stage: Stage, start_s: float, end_s: float) -> tuple[Trace, ...]:
    return tuple(trace for trace in stage.traces if start_s <= trace.intended_s < end_s)


def _knee(text: str) -> float:
    """A rate in requests/s: a number, or what the knee of a run answered."""
    try:
        return float(text)
    except ValueError:
        run = run_file.read(Path(text))
    knee = run.knee()
    if knee is None:
        raise ValueError(f"knee: got {text}, a run without a knee; allowed: a ladder with one, or requests/s")
    return knee.load if run.kind == "rate" else run.summaries()[knee.index].requests_per_s


def _or_none(text: str | None) -> float | None:
    return None if text is None else float(text) and seconds(text)


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m loadtests",
        description="Load tests of a served Qwen3-VL: latency against load, the knee, overload, soak, rolling restart.",
        epilog=_EXAMPLES,
        formatter_class=form,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, about: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=about, description=about, epilog=_EXIT_CODES, formatter_class=form
        )
        one.set_defaults(command=run)
        return one

    def sends(one: argparse.ArgumentParser, target: bool = True, scenario: str = "one-image") -> None:
        if target:
            one.add_argument(
                "--target",
                required=True,
                help="HOST:PORT of Triton's gRPC port, or http://HOST:PORT of an OpenAI-compatible server; several, "
                "separated by commas: a refused request tries the next",
            )
        one.add_argument("--scenario", default=scenario, help=f"default: {scenario}; `scenarios` lists them")
        one.add_argument(
            "--think", metavar="TIME", help="pause of closed-loop users between requests; default: none"
        )
        one.add_argument(
            "--slo", default=slo.DEFAULT, help=f"service level for goodput; default: {slo.DEFAULT}"
        )
        one.add_argument("--seed", type=int, default=1, help="of arrivals, pictures and choices; default: 1")
        one.add_argument("--out", type=Path, required=True, help="directory for run.json and report.html")

    one = command(
        "run", "Climb a ladder of users (closed loop) or rates (open loop) and find the knee.", _run
    )
    sends(one)
    one.add_argument("--ladder", default="users=1,2,4,8,16", help="users=N,N,... or rate=R,R,... requests/s")
    one.add_argument(
        "--duration", default="20s", metavar="TIME", help="counted window of each stage; default: 20s"
    )
    one.add_argument("--warm-up", metavar="TIME", help="before it; default: a fifth of it, at least 1 s")
    one.add_argument("--cool-down", metavar="TIME", help="after it; default: half the warm-up")

    one = command(
        "overload", "Half the knee, twice the knee, half again: clean rejections and recovery.", _overload
    )
    sends(one)
    one.add_argument("--knee", required=True, help="requests/s, or the run.json of a ladder")
    one.add_argument("--calm", default="10s", metavar="TIME", help="before; default: 10s")
    one.add_argument("--duration", default="15s", metavar="TIME", help="of the overload; default: 15s")
    one.add_argument("--after", default="15s", metavar="TIME", help="after it; default: 15s")

    one = command(
        "soak", "A steady load for long: memory, shared memory, threads and KV blocks over time.", _soak
    )
    sends(one, scenario="mixed")
    one.add_argument("--load", default="users=2", help="users=N or rate=R; default: users=2")
    one.add_argument("--duration", default="10m", metavar="TIME", help="default: 10m")
    one.add_argument("--ready-file", required=True, help="the file that `ensemble serve --ready-file` wrote")

    one = command(
        "restart", "Two servers, each restarted in turn under load: no request may be lost.", _restart
    )
    sends(one, target=False)
    one.add_argument("--engines", type=Path, required=True, help="directory that build_engine wrote")
    one.add_argument("--rate", type=float, default=4.0, help="requests/s; default: 4")
    one.add_argument("--duration", default="40s", metavar="TIME", help="of the load; default: 40s")
    one.add_argument(
        "--pause", default="3s", metavar="TIME", help="before each stop and each start; default: 3s"
    )

    one = command("report", "Print a run, and write its page again.", _report)
    one.add_argument("run", type=Path, help="run.json")
    one.add_argument("--out", type=Path, help="default: report.html beside the run")
    one.add_argument(
        "--figures", type=Path, help="also write a JSON of the figures alone, small enough to commit"
    )

    one = command(
        "capacity", "How many users a deployment holds, and how many replicas N users need.", _capacity
    )
    one.add_argument("run", type=Path, help="run.json of a ladder")
    one.add_argument("--slo", default=slo.DEFAULT, help=f"default: {slo.DEFAULT}")
    one.add_argument("--users", type=int, metavar="N", help="replicas for N users")
    one.add_argument(
        "--think", metavar="TIME", help="between an answer and the next question; default: as in the run"
    )
    one.add_argument(
        "--headroom", type=float, default=capacity.HEADROOM, help="share kept free; default: 0.2"
    )

    command("scenarios", "List the scenarios and mixes.", _scenarios)
    return parser


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("run", "overload", "soak", "restart"):
        from loadtests import greenlets  # noqa: F401 (patches sockets before anything uses them)
    sys.exit(main(sys.argv[1:]))
