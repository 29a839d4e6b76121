"""Runs one container of a rendered pod on this machine, as a kubelet would: same arguments, same environment, same probes,
the same way to its end.

It knows the fields of a container. Images are not run: their entry point (tini) passes signals on, and nothing else. What has to
differ is named by the caller: paths of the image and addresses of the cluster, and arguments that take free ports.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Container:
    """A started container.

    Attributes:
        spec: as rendered.
        grace_s: of its pod.
        process: the program; its id is what a kubelet would signal.
        ports: name to the port that it got here.
        log: file with its output.
    """

    spec: Mapping[str, Any]
    grace_s: float
    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    log: Path
    probed: list[str] = field(default_factory=list)

    def probe(self, kind: str) -> bool:
        """One probe, as configured. A container without it counts as well, as for a kubelet."""
        probe = self.spec.get(kind)
        if probe is None:
            return True
        self.probed.append(kind)
        request = probe["httpGet"]
        url = f"http://127.0.0.1:{self.ports[request['port']]}{request['path']}"
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as reply:
                return 200 <= int(reply.status) < 400
        except (OSError, urllib.error.URLError):
            return False

    def start(self, hurry: float) -> None:
        """Wait until the startup probe and then the readiness probe succeed; `hurry` divides their periods.

        AssertionError when the container ends or uses up its probes, after which a kubelet would kill it.
        """
        for kind in ("startupProbe", "readinessProbe"):
            probe = self.spec[kind]
            end = time.monotonic() + probe["periodSeconds"] * probe["failureThreshold"]
            while not self.probe(kind):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end or kind == "readinessProbe", f"{kind} used up"
                time.sleep(probe["periodSeconds"] / hurry)

    def pre_stop(self) -> None:
        """What happens between the deletion of the pod and SIGTERM."""
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        time.sleep(hook.get("sleep", {}).get("seconds", 0))

    def terminate(self) -> float:
        """SIGTERM, and SIGKILL when the grace period is over; gives the seconds that it took, preStop not counted."""
        begun = time.monotonic()
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(self.grace_s - hook.get("sleep", {}).get("seconds", 0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - begun


def mapped(text: str, places: Mapping[str, str]) -> str:
    """The text with paths and addresses of the cluster replaced by those of this machine, each once."""
    if not places:
        return text
    there = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    return re.sub(there, lambda found: places[found[0]], text)


def command(spec: Mapping[str, Any], places: Mapping[str, str], more: Sequence[str] = ()) -> list[str]:
    """The program of a container, under this interpreter."""
    program, *arguments = [mapped(word, places) for word in (*spec.get("command", ()), *spec["args"])]
    assert program == "python3", f"the images have python3, not {program}"
    return [sys.executable, *arguments, *more]


def environment(spec: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, str]:
    """The environment of a container: what the manifest names, and what a program needs to be found."""
    named = {
        entry["name"]: mapped(entry["value"], places) for entry in spec.get("env", ()) if "value" in entry
    }
    return {"PATH": os.environ["PATH"], **named}


@contextmanager
def running(
    pod: Mapping[str, Any],
    name: str,
    places: Mapping[str, str],
    ports: Mapping[str, int],
    directory: Path,
    more: Sequence[str] = (),
) -> Iterator[Container]:
    """A container of `pod` (its spec), ended at the latest when the block ends.

    Args:
        pod: the spec, as rendered.
        name: of the container.
        places: paths and addresses to replace.
        ports: name of a port to the number that `more` asks for.
        directory: for the log.
        more: arguments after the rendered ones, for free ports.
    """
    (spec,) = (container for container in pod["containers"] if container["name"] == name)
    assert set(ports) == {port["name"] for port in spec["ports"]}
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(spec, places, more),
            env=environment(spec, places),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    container = Container(spec, pod["terminationGracePeriodSeconds"], process, ports, log)
    try:
        yield container
    finally:
        if process.poll() is None:
            container.terminate()
