"""`python -m gateway export`: one tenant's rated answers as an evaluation set, or as a labelled set for `calibrate`.

Questions were masked before they were stored; those in which private data was found are left out all the same, and
comments are masked here. Identifiers of requests, conversations and tenants do not get into the set.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError, NotFound
from gateway.evaluation.cases import Case, File, Turn, Words, write
from gateway.objects import Objects
from gateway.records import Answer, Feedback, MediaRef, Question
from gateway.settings import Settings
from gateway.store import Store

_GOOD: Final = 4  # from this rating on an answer counts as right
_BAD: Final = 2  # up to this one as wrong; between them nobody knows
_DAY_S: Final = 86400.0
_SUFFIXES: Final = {"image/jpeg": ".jpg", "image/png": ".png", "video/mp4": ".mp4"}


@dataclass(frozen=True)
class Rated:
    """A question, its answer, and the last word of the customer about it."""

    question: Question[MediaRef]
    answer: Answer
    feedback: Feedback


def rated(store: Store, tenant: str, since_s: float) -> list[Rated]:
    """All rated answers of one tenant without private data, by request; the latest judgement of each counts."""
    latest = {feedback.request_id: feedback for feedback in store.feedback(tenant, since_s)}
    found = []
    for feedback in latest.values():
        try:
            question = store.asked(tenant, feedback.request_id)
            answer = store.answer(tenant, feedback.request_id)
        except NotFound:
            continue  # deleted since
        if not question.personal:
            found.append(Rated(question, answer, feedback))
    return found


def case(one: Rated, masked: Callable[[str], str]) -> Case:
    """A rated answer as a case; `masked` makes free text fit to be kept."""
    question, answer, rating = one.question, one.answer, one.feedback.rating
    versions = {name: value for name, value in asdict(answer.versions).items() if value}
    return Case(
        id=hashlib.sha256(f"{question.tenant}\0{question.request_id}".encode()).hexdigest()[:16],
        scene=question.scene,
        language=question.language,
        messages=tuple(
            Turn(role=message.role, content=tuple(_part(part) for part in message.content))
            for message in question.messages
        ),
        reference=answer.text if rating >= _GOOD else "",
        rejected=answer.text if rating <= _BAD else "",
        citations=tuple(citation.article_id for citation in answer.citations) if rating >= _GOOD else (),
        rating=rating,
        comment=masked(one.feedback.comment),
        confidence=round(answer.confidence, 4),
        handoff=answer.handoff,
        versions=versions,
    )


def labelled(found: Sequence[Rated]) -> list[str]:
    """Lines for `calibrate`: answers that customers found good or bad, with their signals."""
    clear = [one for one in found if not _BAD < one.feedback.rating < _GOOD]
    return [
        json.dumps(
            {
                "right": one.feedback.rating >= _GOOD,
                "scene": one.question.scene,
                "signals": asdict(one.answer.signals),
            }
        )
        for one in clear
    ]


async def fetch_media(objects: Objects, found: Sequence[Rated], directory: Path) -> int:
    """Write all media beside the set, once each; returns how many."""
    wanted = {_file(item): (one.question.tenant, item) for one in found for item in one.question.media}
    for name, (tenant, item) in wanted.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(await objects.get(tenant, item.object_id))
    return len(wanted)


def main(arguments: list[str]) -> int:
    """Run the command; its last line of output is JSON."""
    options = _options(arguments)
    try:
        settings = Settings()
        store = Store(settings.database.url.get_secret_value())
        try:
            found = rated(store, options.tenant, time.time() - options.days * _DAY_S)
        finally:
            store.close()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        files = 0
        if options.labelled:
            lines = labelled(found)
            options.output.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            count = len(lines)
        else:
            objects = Objects(settings.objects.url, settings.objects.s3_endpoint)
            files = asyncio.run(fetch_media(objects, found, options.output.parent))
            write(options.output, [case(one, _masker(settings)) for one in found])
            count = len(found)
    except (GatewayError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"cases": count, "files": files, "output": str(options.output)}, ensure_ascii=False))
    return 0


def _masker(settings: Settings) -> Callable[[str], str]:
    from gateway.guard import Guard  # opens pictures, and so loads much that a labelled set does not need

    guard = Guard(settings.media, None)
    return lambda text: guard.text(text).text


def _part(part: str | MediaRef) -> Words | File:
    if isinstance(part, str):
        return Words(type="text", text=part)
    return File(type=part.kind, file=_file(part), mime=part.mime)


def _file(item: MediaRef) -> str:
    return f"media/{item.sha256[:24]}{_SUFFIXES.get(item.mime, '.bin')}"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway export", description=__doc__)
    parser.add_argument("--tenant", required=True, help="whose answers; a set never mixes tenants")
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON lines; pictures go into media/ beside it"
    )
    parser.add_argument(
        "--days", type=float, default=90.0, help="rated in the last so many days (default 90)"
    )
    parser.add_argument(
        "--labelled", action="store_true", help="signals and labels for `calibrate`, no texts"
    )
    return parser.parse_args(arguments)
