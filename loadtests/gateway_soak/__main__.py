"""`python -m loadtests.gateway_soak`: the whole customer service under a steady load for long, and what it holds meanwhile.

Starts `gateway dev` with a state of its own, lets users chat, open tickets, walk away and send broken pictures, and looks at
every process. The last line is the result as JSON. Exit codes: 0 all checks hold; 1 one does not; 2 it could not begin, or was
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

from loadtests.benchmarks.machine import describe
from loadtests.benchmarks.questions import questions
from loadtests.gateway_soak.holdings import Sample, Watch, left_in_shared_memory
from loadtests.gateway_soak.users import Tally, User
from loadtests.gateway_soak.verdict import growth, judge, series

_READY_S: Final = 600.0
_END_S: Final = 120.0
_QUIET_S: Final = 5.0
"""After the last request: what a walker left behind is being put away."""
_LOOKS: Final = 50
_QUESTIONS: Final = 400


class Stack:
    """`gateway dev`, started and ended."""

    def __init__(self, engines: Path, state: Path) -> None:
        self.state, self.temporary = state, state / "tmp"
        self.temporary.mkdir(parents=True)
        self._ready, self._log = state / "ready.json", state / "dev.log"
        command = [sys.executable, "-m", "gateway", "dev", "--engines", str(engines), "--free-ports"]
        command += ["--state", str(state), "--ready-file", str(self._ready)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this tool, which ends the stack itself
            )

    def facts(self) -> dict[str, Any]:
        """Its URLs and processes, when all are ready; RuntimeError when that does not come about."""
        give_up_s = time.monotonic() + _READY_S
        while not self._ready.exists():
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                raise RuntimeError(f"the stack did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.2)
        facts: dict[str, Any] = json.loads(self._ready.read_text())
        return facts

    def end(self) -> int:
        """Its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def main(arguments: list[str]) -> int:
    """The command. Returns its exit code."""
    options = _parser().parse_args(arguments)
    for option, allowed in (
        ("minutes", options.minutes > 0),
        ("users", options.users >= 1),
        ("pause", options.pause >= 0),
    ):
        if not allowed:
            print(f"gateway_soak: --{option}: got {getattr(options, option)}, allowed: more", file=sys.stderr)
            return 2
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        with _state(options.state) as state:
            result = _soak(options, state)
    except (RuntimeError, OSError) as error:
        print(f"gateway_soak: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gateway_soak: interrupted; the stack has ended", file=sys.stderr)
        return 2
    line = json.dumps(result, ensure_ascii=False)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(line)
    return 0 if result["passed"] else 1


def _soak(options: argparse.Namespace, state: Path) -> dict[str, Any]:
    stack = Stack(options.engines, state)
    stop, tally = threading.Event(), Tally()
    try:
        asked = questions(options.seed, _QUESTIONS)  # while the stack starts
        facts = stack.facts()
        watch = Watch(state, stack.temporary, facts["pids"])
        users = [
            User(facts["urls"]["page"], options.seed, number, asked, options.pause, tally, stop)
            for number in range(options.users)
        ]
        for user in users:
            user.start()
        samples = _watched(watch, 60 * options.minutes, tally)
        stop.set()
        for user in users:
            user.join()
        time.sleep(_QUIET_S)
        end = watch.look()
    finally:
        stop.set()
        code = stack.end()
    checks = judge(samples, end, tally.failed, left_in_shared_memory(facts["pids"]["triton"]), code)
    for name, (holds, figures) in checks.items():
        print(f"{'ok  ' if holds else 'FAIL'} {name}: {figures}", file=sys.stderr)
    return {
        "command": f"python -m loadtests.gateway_soak --minutes {options.minutes:g} --users {options.users}"
        f" --pause {options.pause:g} --seed {options.seed}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": asdict(describe()),
        "passed": all(holds for holds, _ in checks.values()),
        "requests": tally.done,
        "failures": {"count": len(tally.failed), "first": tally.failed[:20]},
        "growth": growth(samples),
        "checks": {name: {"holds": holds, "figures": figures} for name, (holds, figures) in checks.items()},
        "end": asdict(end),
        "series": series(samples),
    }


def _watched(watch: Watch, length_s: float, tally: Tally) -> list[Sample]:
    """Looks under load, evenly over its time."""
    begin_s, every_s = time.monotonic(), max(0.5, length_s / _LOOKS)
    samples: list[Sample] = []
    while (left_s := begin_s + length_s - time.monotonic()) > 0:
        time.sleep(min(every_s, left_s))
        samples.append(watch.look())
        _say(samples[-1], tally)
    return samples


def _say(sample: Sample, tally: Tally) -> None:
    parts = ", ".join(
        f"{name} {held.resident / 1e6:.0f} MB {held.descriptors} files" for name, held in sample.parts.items()
    )
    print(
        f"[{sample.at_s:6.0f} s] {sum(tally.done.values())} done, {len(tally.failed)} failed; {parts}; "
        f"{sample.objects} objects, {sample.unreferenced} without a row; {sample.temporary} temporary, "
        f"{sample.shared} in shared memory",
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def _state(given: Path | None) -> Iterator[Path]:
    if given is None:
        with tempfile.TemporaryDirectory(prefix="gateway-soak-") as name:
            yield Path(name)
    elif given.exists() and any(given.iterdir()):
        raise RuntimeError(f"--state: got {given}, allowed: a directory that is empty or not there")
    else:
        yield given.resolve()


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.gateway_soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load; default: %(default)s")
    parser.add_argument("--users", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--pause",
        type=float,
        default=1.0,
        help="mean seconds between a reply and the next request; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that users do; default: %(default)s")
    parser.add_argument(
        "--engines", type=Path, default=Path("engines/demo-int8"), help="default: %(default)s"
    )
    parser.add_argument(
        "--state", type=Path, help="keep the stack's state and logs there; default: thrown away"
    )
    parser.add_argument("--output", type=Path, help="also write the result there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
