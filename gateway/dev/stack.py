"""`python -m gateway dev`: Triton with the demo engines, a broker, a cache, a worker and the gateway, until Ctrl-C.

For development and trials on one machine. Broker and cache speak the real protocols and are not meant for production. State
lies in .run/, what the parts write in .run/logs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from gateway.dev.part import Part
from gateway.dev.parts import Layout, parts, triton_url

_READY_S: Final = 600.0
_LOOK_S: Final = 0.2
_BACKENDS: Final = ("triton", "broker", "cache")


class Ended(Exception):
    """Ctrl-C or SIGTERM."""


class Failed(Exception):
    """A part without which nothing goes; the text says which, and where to look."""


@dataclass
class Stack:
    """The parts, in the order in which they start; they end in the opposite order."""

    parts: list[Part]
    layout: Layout

    def run(self, ready_file: Path | None) -> None:
        """Start all, say so, and look after them. Failed, Ended."""
        by_name = {part.name: part for part in self.parts}
        for name in _BACKENDS:
            by_name[name].start()
        self._load_sample()
        self._await([by_name[name] for name in _BACKENDS])
        _set_triton(self.parts, triton_url(self.layout))
        for name in ("worker", "gateway"):
            by_name[name].start()
        self._await([by_name["worker"], by_name["gateway"]])
        self._announce(ready_file)
        while True:
            time.sleep(_LOOK_S)
            self._look()

    def end(self) -> None:
        """End all, the last started first."""
        for part in reversed(self.parts):
            if part.process is not None:
                _say(f"ending {part.name}")
                part.end()

    def _load_sample(self) -> None:
        """The shipped articles, when there are none yet."""
        if self.layout.knowledge.exists():
            return
        _say("loading the shipped articles")
        command = [sys.executable, "-m", "gateway", "kb", "add", "--sample"]
        log = self.layout.logs / "knowledge.log"
        with log.open("ab") as file:
            done = subprocess.run(
                command,
                env={**os.environ, **self.layout.environment()},
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        if done.returncode:
            raise Failed(f"the shipped articles could not be loaded; see {log}")

    def _await(self, waiting: list[Part]) -> None:
        end = time.monotonic() + _READY_S
        while waiting:
            for part in list(waiting):
                if part.dead:
                    raise Failed(f"{part.name} did not start; see {part.log}\n{part.tail()}")
                if part.ready():
                    waiting.remove(part)
                    _say(f"{part.name} is ready after {time.monotonic() - part.started_s:.1f} s")
            if waiting and time.monotonic() > end:
                names = ", ".join(part.name for part in waiting)
                raise Failed(f"not ready after {_READY_S:.0f} s: {names}; see {self.layout.logs}")
            time.sleep(_LOOK_S)

    def _look(self) -> None:
        for part in self.parts:
            if not part.dead:
                continue
            assert part.process is not None
            code = part.process.returncode
            if not part.restart:
                raise Failed(f"{part.name} ended with code {code}; see {part.log}\n{part.tail()}")
            pause_s = part.pause_s()
            _say(f"{part.name} ended with code {code}; starting it again in {pause_s:.1f} s; see {part.log}")
            time.sleep(pause_s)
            part.start()

    def _announce(self, ready_file: Path | None) -> None:
        layout = self.layout
        urls = {
            "page": layout.gateway_url,
            "agents": f"{layout.gateway_url}/agent",
            "api": f"{layout.gateway_url}/docs",
            "metrics": f"{layout.gateway_url}/metrics",
            "worker": layout.worker_url,
            "triton": triton_url(layout),
            "broker": layout.broker,
            "cache": layout.cache_url,
        }
        for name, url in urls.items():
            print(f"  {name:<8} {url}", flush=True)
        print(f"Everything is ready; logs in {layout.logs}. Ctrl-C ends all.", flush=True)
        if ready_file is not None:
            pids = {part.name: part.process.pid for part in self.parts if part.process is not None}
            part_file = ready_file.with_suffix(".part")
            part_file.write_text(json.dumps({"pid": os.getpid(), "urls": urls, "pids": pids}))
            part_file.replace(ready_file)


def main(arguments: list[str]) -> int:
    """The command. 0: ended as told; 1: a part failed; 2: something is missing."""
    given = _parser().parse_args(arguments)
    if not (given.engines / "engine_manifest.json").exists():
        print(
            f"dev: --engines: got {given.engines}, allowed: a directory of engines; `make engines` builds it"
        )
        return 2
    layout = Layout.choose(given.state, given.host, 0 if given.free_ports else given.port)
    stack = Stack(parts(layout, given.engines), layout)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    try:
        stack.run(given.ready_file)
    except Ended:
        code = 0
    except Failed as error:
        print(f"dev: {error}", file=sys.stderr)
        code = 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending
        stack.end()
    _say("all ended")
    return code


def _ended(number: int, frame: FrameType | None) -> None:
    raise Ended


def _set_triton(found: list[Part], url: str) -> None:
    for part in found:
        if part.name in ("worker", "gateway"):
            part.environment = {**part.environment, "GATEWAY_TRITON__URL": url}


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway dev", description=__doc__)
    parser.add_argument(
        "--engines", type=Path, default=Path("engines/demo-int8"), help="default: %(default)s"
    )
    parser.add_argument("--host", default="127.0.0.1", help="of the gateway; 0.0.0.0 opens it to the network")
    parser.add_argument("--port", type=int, default=7860, help="of the gateway; default: %(default)s")
    parser.add_argument("--free-ports", action="store_true", help="any free port for the gateway too")
    parser.add_argument("--state", type=Path, default=Path(".run"), help="default: %(default)s")
    parser.add_argument("--ready-file", type=Path, help="written with pids and URLs when all are ready")
    return parser
