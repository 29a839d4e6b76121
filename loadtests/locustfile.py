"""The same users for Locust's own command: its web page, and load from several machines.

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 60s --target HOST:8001 --scenario mixed --run-json run.json
    locust -f loadtests/locustfile.py --master ...   and, with the same options, any number of `--worker --master-host HOST`

Each worker sends its traces to the master, which writes them as a run file that `python -m loadtests report` and
`capacity` read. LOADTESTS_LADDER=users=1,2,4,8 makes Locust climb a ladder (then without -u, -r and -t).
LOADTESTS_ARRIVALS=1 makes each Locust user a source of arrivals (open loop) instead of a person who waits for answers.
"""

from __future__ import annotations

from loadtests import greenlets  # isort: skip (before anything that does I/O)

import os
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests import report, slo
from loadtests.arrivals import Phase
from loadtests.ladder import Timing, parse, seconds
from loadtests.media import Media
from loadtests.metrics import Window
from loadtests.run_file import RunFile, StageFile
from loadtests.scenarios import Cast
from loadtests.targets import Targets
from loadtests.trace import Trace, now
from loadtests.users import ArrivalUser, ChatUser, Load, reporter

__all__ = ["ArrivalUser", "ChatUser", "greenlets"]

_LADDER: Final = parse(os.environ["LOADTESTS_LADDER"]) if "LOADTESTS_LADDER" in os.environ else None
_TIMING: Final = Timing.of(seconds(os.environ.get("LOADTESTS_DURATION", "20s")))
_STAGE_S: Final = _TIMING.warm_up + _TIMING.window + _TIMING.cool_down

_traces: Final[list[Trace]] = []
_to_send: Final[list[dict[str, Any]]] = []
_started: Final[list[float]] = []

# Locust uses every user class of this file that is not abstract.
ChatUser.abstract = bool(os.environ.get("LOADTESTS_ARRIVALS")) or (
    _LADDER is not None and _LADDER.kind == "rate"
)
ArrivalUser.abstract = not ChatUser.abstract


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    def option(name: str, default: str, about: str) -> None:
        variable = f"LOADTESTS_{name.replace('-', '_').upper()}"
        parser.add_argument(f"--{name}", env_var=variable, default=default, help=about)

    option("target", "localhost:8001", "HOST:PORT[,HOST:PORT...] of gRPC, or http://HOST:PORT")
    option("scenario", "one-image", "see `python -m loadtests scenarios`")
    option("think", "", "pause of closed-loop users; default: none")
    option(
        "rate", "1", "arrivals/s of each user with LOADTESTS_ARRIVALS=1 (open loop): N users are N sources"
    )
    option("seed", "1", "of arrivals, pictures and choices")
    option("slo", slo.DEFAULT, "service level for goodput")
    option("run-json", "", "where the master (or the only process) writes the run")


@events.init.add_listener
def _init(environment: Environment, **_: Any) -> None:
    runner, options = environment.runner, environment.parsed_options
    if not isinstance(runner, MasterRunner):
        seed, name = int(options.seed), options.scenario
        cast = Cast(name, Media(seed), seed)
        cast.warm()
        tell = reporter(environment.events)
        sends = isinstance(runner, WorkerRunner)

        def record(trace: Trace) -> None:
            tell(trace)
            if sends:
                _to_send.append(trace.plain())
            else:
                _traces.append(trace)

        targets = Targets(options.target.split(","), record)
        think_s = seconds(options.think) if options.think else 0.0
        # Other workers are other people: a worker's name decides the numbers of its users.
        numbers = count(100_000 * (crc32(str(getattr(runner, "client_id", "")).encode()) % 10_000))
        ChatUser.load = ArrivalUser.load = Load(
            cast, targets, think_s, (Phase(float(options.rate)),), numbers=numbers
        )


@events.report_to_master.add_listener
def _send(client_id: str, data: dict[str, Any], **_: Any) -> None:
    data["loadtests"] = list(_to_send)
    _to_send.clear()


@events.worker_report.add_listener
def _receive(client_id: str, data: Mapping[str, Any], **_: Any) -> None:
    _traces.extend(Trace.read(trace) for trace in data.get("loadtests", ()))


@events.test_start.add_listener
def _start(environment: Environment, **_: Any) -> None:
    _started.append(now())


@events.quitting.add_listener
def _write(environment: Environment, **_: Any) -> None:
    # Locust lets the runner quit first, so the last report of every worker is there.
    options = environment.parsed_options
    if options is None or not options.run_json or not _traces:
        return
    run = RunFile(
        "ladder",
        "users" if ArrivalUser.abstract else "rate",
        tuple(options.target.split(",")),
        options.scenario,
        int(options.seed),
        seconds(options.think) if options.think else 0.0,
        slo.parse(options.slo),
        " ".join(["locust", *sys.argv[1:]]),
        tuple(_stages(options)),
    )
    run.write(Path(options.run_json))
    print(report.text(run))


def _stages(options: Any) -> list[StageFile]:
    """The stages that the ladder had, or the whole run as one: a fifth is warm-up, a tenth cool-down."""
    traces = tuple(sorted(_traces, key=lambda trace: trace.intended_s))
    if _LADDER is None:
        start, length = traces[0].intended_s, traces[-1].intended_s - traces[0].intended_s
        window = Window(start + 0.2 * length, start + 0.9 * length)
        users = int(options.num_users or 1)
        load = users if ArrivalUser.abstract else users * float(options.rate)
        return [StageFile(f"{load:g}", load, window, traces, None)]
    stages = []
    for number, load in enumerate(_LADDER.loads):
        start = _started[-1] + number * _STAGE_S + _TIMING.warm_up
        window = Window(start, start + _TIMING.window)
        mine = tuple(trace for trace in traces if window.holds(trace.intended_s) or window.holds(trace.end_s))
        stages.append(StageFile(f"{_LADDER.kind}={load:g}", load, window, mine, None))
    return stages


if _LADDER is not None:
    ladder = _LADDER

    class Climb(LoadTestShape):
        """Users (or sources of LOADTESTS_RATE arrivals/s each) of the ladder's stage that it is time for."""

        def tick(self) -> tuple[int, float] | None:
            """Users wanted now, all at once; None at the end."""
            stage = int(self.get_run_time() // _STAGE_S)
            if stage >= len(ladder.loads):
                return None
            each = float(os.environ.get("LOADTESTS_RATE", "1")) if ladder.kind == "rate" else 1.0
            users = max(1, round(ladder.loads[stage] / each))
            return users, users
