"""The command `cached`: engines under a key in a directory that several machines share; whoever comes first builds them."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from build_engine.request import BuildRequest, add_options
from build_engine.section import CheckpointError
from build_engine.staging import OutputError
from build_engine.volume import ABSENT, FAILED, FINE, WRONG_USE, AbsentError, FailedError, fit
from build_engine.volume.cache import Cache

_EPILOG = """\
Whole engines under DIR/KEY are left alone: their files have the sha256 of the manifest, and they were built from this
CHECKPOINT, with these options, by the versions that are installed here, and for this machine's GPU (if it has one). Missing
or damaged ones are built, by one caller at a time: the lock DIR/.KEY.lock-* works between machines (NFS, CephFS, EFS, Azure
Files), and is taken over 60 s after its holder was killed. Whole engines that do not fit are refused, as a server may use
them: give another --key, or remove them. Options of the build (--weights, ...) are explained by
`python -m build_engine --help`.

--check-only builds nothing and writes nothing, so the volume may be mounted read-only. Without CHECKPOINT it does not ask what
the engines were built from.

exit codes: 0 they are there; 1 failed, another try may help; 2 wrong use; 3 not there (with --check-only), or they do not fit.

examples:
  python -m build_engine cached weights/4b --target tensorrt-llm --weights fp8 --cache /engines --key 4b-h100-1.2.1
  python -m build_engine cached weights/4b --target tensorrt-llm --weights fp8 --cache /engines --key 4b-h100-1.2.1 \\
    --check-only --wait-s 3600
"""


def main(arguments: list[str]) -> int:
    """The command `cached`; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        cache = _cache(given)
        if given.check_only:
            cache.wait(given.wait_s or 0)
            print(f"{cache.engines} fits")
            return FINE
        built = cache.build(given.wait_s)
        cache.mark_used()
        print(f"{cache.engines} {'is built' if built else 'fits'}")
        if built and given.keep:
            cache.keep(given.keep)
    except (AbsentError, CheckpointError) as error:
        return _say(error, ABSENT)
    except fit.OtherError as error:
        return _say(f"{error}. Give another --key, or remove them if no server uses them", ABSENT)
    except (FailedError, OutputError, OSError) as error:
        return _say(error, FAILED)
    except ValueError as error:  # options, limits
        return _say(error, WRONG_USE)
    return FINE


def _cache(given: argparse.Namespace) -> Cache:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", given.key):
        raise ValueError(
            f"--key {given.key!r}: up to 128 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    if given.checkpoint is None and not given.check_only:
        raise ValueError("CHECKPOINT is missing: without it there is only --check-only")
    if given.keep is not None and given.keep < 0:
        raise ValueError(f"--keep {given.keep}: 0 keeps all, else give how many")
    return Cache(given.cache, given.key, BuildRequest.of(given), given.checkpoint, not given.quick)


def _say(error: object, code: int) -> int:
    print(f"cached: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine cached",
        description="Make sure that a shared directory holds engines, building them if need be.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        nargs="?",
        help="Hugging Face directory of a dense Qwen3-VL",
    )
    parser.add_argument("--cache", required=True, type=Path, metavar="DIR", help="directory of all engines")
    parser.add_argument("--key", required=True, help="name of these engines in it")
    parser.add_argument("--check-only", action="store_true", help="build nothing, write nothing")
    parser.add_argument(
        "--wait-s", type=float, metavar="N",
        help="longest wait for someone else's build, in seconds (default: no limit; with --check-only: 0)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="trust that files which exist have not changed")
    parser.add_argument(
        "--keep", type=int, metavar="N",
        help="after a build, remove all but the N engine directories that this command used last (default 0: none). "
        "Only where no other release shares DIR: running servers are not asked",
    )  # fmt: skip
    add_options(parser)
    return parser
