"""Keeps the packages of a base image as they are.

    python3 pins.py write FILE     write every installed distribution as a pip constraint
    python3 pins.py check FILE     exit code 1 if one of them is gone or has another version

It knows distributions and versions. It needs nothing but the standard library.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

# pip refuses a whole constraints file for one version that is no PEP 440 version, as some of the system's are.
_VERSION = re.compile(
    r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-zA-Z0-9]+([._-][a-zA-Z0-9]+)*)?"
)


def installed() -> dict[str, str]:
    """Name, as pip compares names, to version."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version and _VERSION.fullmatch(version):
            # The first one on sys.path is the one that is imported.
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return found


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    if len(arguments) != 2 or arguments[0] not in ("write", "check"):
        print(__doc__, file=sys.stderr)
        return 2
    file = Path(arguments[1])
    if arguments[0] == "write":
        file.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed().items())))
        return 0
    now = installed()
    before = dict(line.split("==", 1) for line in file.read_text().split())
    changed = [
        f"{name} {version} -> {now.get(name, 'gone')}"
        for name, version in before.items()
        if now.get(name) != version
    ]
    for line in changed:
        print(f"changed by an installation: {line}", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
