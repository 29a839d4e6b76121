"""The command `fetch`: a checkpoint from the Hugging Face Hub or S3 into a directory, whole, once, continued after a kill.

The files come into DIRECTORY/.part and are moved when all are there and checked: config.json last, without which nobody
takes a directory for a checkpoint, then `.fetched.json`. So it works in the root of a claim, which cannot be renamed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from build_engine.checkpoint import Checkpoint
from build_engine.facts import check_architecture
from build_engine.section import CheckpointError, Section
from build_engine.shards import INDEX
from build_engine.volume import ABSENT, FAILED, FINE, WRONG_USE, AbsentError, FailedError
from build_engine.volume.download import Downloads
from build_engine.volume.lock import Owner, SharedLock
from build_engine.volume.record import FILE_NAME, FetchedFile, Record
from build_engine.volume.source import CONFIG, Source, parse

_PART = ".part"
_LOCK = ".fetch.lock"

_EPILOG = """\
SOURCE
  hf://ORG/NAME[@REVISION]   the Hugging Face Hub; REVISION is a branch, tag or commit (default: main).
                             HF_TOKEN: for gated and private ones. HF_ENDPOINT: a mirror. HF_HUB_OFFLINE=1: never ask it.
  s3://BUCKET/PREFIX         keys, region and AWS_ENDPOINT_URL as boto3 finds them.
  PATH                       nothing is copied, the checkpoint there is checked.

Only what a checkpoint needs is fetched: configuration, tokenizer, processors, chat template, safetensors and their index.
Sizes are checked, and sha256 where the source tells it. A call that was killed is continued by the next one; of several
calls on one volume one fetches and the others wait. A directory that is complete and of the same SOURCE is left alone
without asking the network; a branch that moved on is fetched again with --force.

exit codes: 0 it is there; 1 failed, another try may help; 2 wrong use; 3 there is no such thing, or it is no Qwen3-VL.

examples:
  python -m build_engine fetch hf://Qwen/Qwen3-VL-4B-Instruct@main /weights/4b
  python -m build_engine fetch s3://models/qwen3-vl-4b /weights/4b
"""


def main(arguments: list[str]) -> int:
    """The command `fetch`; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        _run(given)
    except ValueError as error:
        # CheckpointError is one, and says that what is there does not fit.
        return _say(error, ABSENT if isinstance(error, CheckpointError) else WRONG_USE)
    except AbsentError as error:
        return _say(error, ABSENT)
    except (FailedError, OSError) as error:
        return _say(error, FAILED)
    return FINE


def _run(given: argparse.Namespace) -> None:
    source: Source | None = parse(given.source)
    if source is None:
        path = Path(given.source)
        if given.directory not in (None, path):
            raise ValueError(
                f"SOURCE {path} is a local path, which is not copied: leave DIRECTORY out, or give the same"
            )
        Checkpoint.read(path)
        print(f"{path} holds a whole checkpoint")
        return
    if given.directory is None:
        raise ValueError(f"DIRECTORY is missing: where shall {source.name} go?")
    fetch(source, given.directory, given.force)
    Checkpoint.read(given.directory)  # it may be complete, and still be nothing that we can build


def fetch(source: Source, directory: Path, force: bool = False) -> None:
    """Bring `source` into `directory`, unless it is there.

    Args:
        force: replace what the directory holds.

    Raises:
        FailedError, AbsentError, CheckpointError, OSError: nothing in the directory was changed but its `.part`.
    """
    if not force and _is_complete(source, directory):
        return
    _make(directory)
    lock = SharedLock(directory / _LOCK)
    lock.acquire(None, _waiting())
    try:
        if (ready := Record.read(directory / _PART)) and _is_of(ready, source):
            _publish(ready, directory)  # the last call was killed while it moved the files
        if force or not _is_complete(source, directory):
            _check_ours(source, directory, force)
            _fetch(source, directory, lock)
    finally:
        lock.release()


def _fetch(source: Source, directory: Path, lock: SharedLock) -> None:
    started = time.monotonic()
    part = directory / _PART
    part.mkdir(exist_ok=True)
    listing = source.list()
    if CONFIG not in listing.files:
        raise AbsentError(f"{source.name} has no {CONFIG}: it is no checkpoint of transformers")
    downloads = Downloads(source, part)
    downloads.remove_all_but(listing.files.values())
    texts = listing.texts()
    downloads.check_space(texts)
    digests = downloads.run(texts)
    # Before the gigabytes: is it a Qwen3-VL, and are its weights all there?
    check_architecture(Section.read(downloads.path(listing.files[CONFIG])))
    index = listing.files.get(INDEX)
    weights = listing.weights(downloads.path(index).read_text("utf-8") if index else None, source.name)
    print(
        f"fetching {source.name}: {sum(file.size for file in weights) / 1e9:.2f} GB in {len(weights)} files",
        flush=True,
    )
    downloads.check_space(weights)
    digests |= downloads.run(weights)
    lock.check()
    files = {}
    for file in (*texts, *weights):
        path = downloads.path(file)
        path.replace(part / file.name)
        files[file.name] = FetchedFile(file.size, digests[file.name], (part / file.name).stat().st_mtime_ns)
    record = Record(source.name, source.revision, listing.commit, files)
    record.write(part)
    _publish(record, directory)
    print(f"{record.origin} is in {directory}, {time.monotonic() - started:.0f} s", flush=True)


def _publish(record: Record, directory: Path) -> None:
    """Move the files of a finished `.part`; a call that was killed in here is repeated by the next."""
    part = directory / _PART
    before = Record.read(directory)
    if (part / CONFIG).exists():  # from here on it is no checkpoint, until the new one is whole
        (directory / CONFIG).unlink(missing_ok=True)
        for name in (before.files if before else {}).keys() - record.files.keys():
            (directory / name).unlink(missing_ok=True)
        (directory / FILE_NAME).unlink(missing_ok=True)
    for name in sorted(record.files, key=lambda name: name == CONFIG):
        with suppress(FileNotFoundError):  # moved by the call before
            (part / name).replace(directory / name)
    record.write(directory)
    shutil.rmtree(part)


def _is_of(record: Record, source: Source) -> bool:
    return (record.source, record.revision) == (source.name, source.revision)


def _is_complete(source: Source, directory: Path) -> bool:
    record = Record.read(directory)
    if record is None or not _is_of(record, source) or record.missing(directory):
        return False
    print(f"{record.origin} is in {directory} already")
    return True


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"DIRECTORY {directory} is a file") from None
    if not os.access(directory, os.W_OK):
        raise FailedError(
            f"{directory} cannot be written, and is not complete: mount it writable once, or let this user write it"
        )


def _check_ours(source: Source, directory: Path, force: bool) -> None:
    """AbsentError when the directory holds something that this call would spoil."""
    record = Record.read(directory)
    if force or (record and _is_of(record, source)):
        return
    if record:
        raise AbsentError(
            f"{directory} holds {record.origin}, not {source.name}@{source.revision}; choose another DIRECTORY, or --force"
        )
    # Roots of volumes have lost+found and hidden folders of their own.
    foreign = [
        path.name
        for path in directory.iterdir()
        if not path.name.startswith(".") and path.name != "lost+found"
    ]
    if foreign:
        raise AbsentError(
            f"{directory} holds files that were not fetched here ({', '.join(sorted(foreign)[:3])}). To use them, give "
            f"{directory} as SOURCE; to replace them, --force; or choose another DIRECTORY"
        )


def _waiting() -> Callable[[Owner], None]:
    told: set[Owner] = set()

    def tell(owner: Owner) -> None:
        if owner not in told:
            told.add(owner)
            print(f"waiting for {owner}, who fetches here", flush=True)

    return tell


def _say(error: Exception, code: int) -> int:
    print(f"fetch: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine fetch",
        description="Bring a Qwen3-VL checkpoint into a directory, unless it is there.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="hf://ORG/NAME[@REVISION], s3://BUCKET/PREFIX, or a path"
    )
    parser.add_argument(
        "directory", metavar="DIRECTORY", type=Path, nargs="?", help="where it goes; is made if missing"
    )
    parser.add_argument(
        "--force", action="store_true", help=f"replace what DIRECTORY holds, whatever its {FILE_NAME} says"
    )
    return parser
