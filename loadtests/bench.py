"""`python -m loadtests.bench NAME [options]`: one benchmark. The last line of its output is JSON.

It knows the names of the benchmarks; their options are their own (`NAME --help`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final

BENCHMARKS: Final = {
    "language-model": "decode and prefill tokens/s beside transformers; --scale: cost of a request from 10 to 2,000",
    "preprocessing": "encoded picture -> patches beside Hugging Face's processors",
    "several-pictures": "the pictures of one request side by side and one after the other",
    "vision-encoder": "patches/s, packed and one by one; cost of a cache hit",
    "retrieval": "articles for a question: hit@1 of the labelled set, ms a query at 88 and 10,000 articles",
    "serving": "client to last byte beside a one-at-a-time server",
    "masking": "digits of photographed cards hidden, cost a picture",
    "startup": "time until ready, memory of each process",
}
"""Name to what it measures; NAME lives in loadtests/benchmarks, `-` written as `_`."""


def main(arguments: list[str]) -> int:
    """Run one benchmark. Returns its exit code: 0, 1 when it failed, 2 for a wrong command line."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if not arguments or arguments[0] not in BENCHMARKS:
        got = repr(arguments[0]) if arguments else "no name"
        print(f"benchmark: got {got}\n{usage()}", file=sys.stderr)
        return 2
    module = import_module(f"loadtests.benchmarks.{arguments[0].replace('-', '_')}")
    code: int = module.main(arguments[1:])
    return code


def usage() -> str:
    """The names that are known, a line each."""
    names = "\n".join(f"  {name:<16} {what}" for name, what in BENCHMARKS.items())
    return f"usage: python -m loadtests.bench NAME [options]; NAME is one of\n{names}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
