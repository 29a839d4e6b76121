"""`python -m gateway COMMAND`: the commands, each in a module of its own with its own --help."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

COMMANDS: Final = {
    "serve": ("gateway.api.serve", "the HTTP API and the web page"),
    "worker": ("gateway.queue.worker", "answers tickets from Kafka; run as many as you need"),
    "dev": ("gateway.dev.stack", "Triton, broker, cache, worker and gateway on this machine, until Ctrl-C"),
    "kb": ("gateway.knowledge.kb", "add, list, search, remove and re-index articles"),
    "calibrate": ("gateway.confidence.calibrate", "fit confidence to a labelled set, plot the curve"),
    "export": ("gateway.evaluation.export", "rated answers as an evaluation set"),
    "eval": ("gateway.evaluation.evaluate", "replay an evaluation set, compare two versions"),
}
"""Name to the module whose `main` it is, and what it does."""


def main(arguments: list[str]) -> int:
    """Run one command. Returns its exit code; 2 for a wrong command line."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        got = repr(arguments[0]) if arguments else "no command"
        print(f"gateway: got {got}\n{usage()}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[arguments[0]]
    code: int = import_module(module).main(arguments[1:])
    return code


def usage() -> str:
    """The commands, a line each."""
    lines = "\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
    return f"usage: python -m gateway COMMAND [options]; COMMAND is one of\n{lines}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
