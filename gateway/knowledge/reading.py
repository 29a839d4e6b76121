"""Files -> articles: Markdown with front matter, CSV with a header, JSON with a list of objects. Knows no database.

A mistake names file, row and field; nothing is taken from a directory in which one file is wrong.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.errors import InvalidInput, TooLarge
from gateway.knowledge.article import Article, language_of
from gateway.records import Language

SUFFIXES: Final = (".md", ".csv", ".json")
LARGEST_BYTES: Final = 64 << 20
FIELDS: Final = "id, title, text, language (zh or en), tags, scopes"
_FRONT: Final = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)(.*)\Z", re.S)
_TITLE: Final = re.compile(r"\A\s*#[ \t]+(.+?)[ \t]*#*[ \t]*(?:\n|\Z)")
_SEPARATOR: Final = re.compile(r"[|;,，；、\n]")


def _listed(given: object) -> object:
    if given is None:
        return ()
    return (
        [part for part in map(str.strip, _SEPARATOR.split(given)) if part]
        if isinstance(given, str)
        else given
    )


Words = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], BeforeValidator(_listed)]


class _Given(BaseModel):
    """An article as a file states it."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    title: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1, max_length=200_000)
    language: Language
    tags: Words = ()
    scopes: Words = ()


def files(path: Path) -> list[Path]:
    """The file itself, or every file of a known kind below a directory, sorted."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidInput("path", repr(str(path)), "an existing file or directory")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise InvalidInput(
            "path", f"{str(path)!r} without articles", f"files that end in {', '.join(SUFFIXES)}"
        )
    return found


def read(file: Path, tenant: str = "", scope: str = "") -> list[Article]:
    """The articles of one file. `scope`: for those that name none; "" for all scenes."""
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise InvalidInput("path", repr(file.name), f"a file that ends in {', '.join(SUFFIXES)}")
    if (size := file.stat().st_size) > LARGEST_BYTES:
        raise TooLarge(file.name, f"{size} bytes", f"at most {LARGEST_BYTES}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            file.name, f"byte {error.start} that is not UTF-8", "a file saved as UTF-8"
        ) from None
    rows = {".md": _markdown, ".csv": _csv, ".json": _json}[kind](file, text)
    articles = [_article(where, row, tenant, scope) for where, row in rows]
    seen: set[str] = set()
    for article in articles:
        if article.article_id in seen:
            raise InvalidInput(
                f"{file.name}: id", f"{article.article_id!r} twice", "an id of its own for each article"
            )
        seen.add(article.article_id)
    return articles


def _markdown(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    front: object = {}
    if found := _FRONT.match(text):
        try:
            front = yaml.safe_load(found.group(1)) or {}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" in line {mark.line + 2}" if mark else ""
            raise InvalidInput(
                file.name, f"front matter that is not YAML{line}", "lines of the form name: value"
            ) from None
        text = found.group(2)
    if not isinstance(front, dict):
        raise InvalidInput(file.name, "front matter without names", "lines of the form name: value")
    row: dict[str, Any] = {"id": file.stem, **front}
    if title := _TITLE.match(text):
        row.setdefault("title", title.group(1))
        text = text[title.end() :]
    yield file.name, {**row, "text": text.strip()}


def _csv(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"{file.name} row {reader.line_num}"
            if None in row:
                raise InvalidInput(where, "more values than the header has names", f"a header of {FIELDS}")
            yield where, {name: value for name, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        raise InvalidInput(
            f"{file.name} row {reader.line_num}", str(error), "CSV with commas and double quotes"
        ) from None


def _json(file: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{file.name} line {error.lineno}", error.msg, "JSON") from None
    rows = given.get("articles") if isinstance(given, dict) else given
    if not isinstance(rows, list):
        raise InvalidInput(file.name, type(rows).__name__, 'a list of objects, or {"articles": [...]}')
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InvalidInput(f"{file.name} row {number}", type(row).__name__, f"an object with {FIELDS}")
        yield f"{file.name} row {number}", row


def _article(where: str, row: dict[str, Any], tenant: str, scope: str) -> Article:
    if "language" not in row and isinstance(row.get("text"), str):
        row = {**row, "language": language_of(f"{row.get('title', '')} {row['text']}")}
    try:
        given = _Given.model_validate(row)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "missing":
            raise InvalidInput(f"{where}: {name}", "nothing", f"a value; the fields are {FIELDS}") from None
        if problem["type"] == "extra_forbidden":
            raise InvalidInput(f"{where}: {name}", "an unknown field", FIELDS) from None
        got = repr(problem["input"])
        raise InvalidInput(
            f"{where}: {name}", got if len(got) < 60 else f"{got[:57]}...", problem["msg"]
        ) from None
    scopes = given.scopes or ((scope,) if scope else ())
    return Article(given.id, given.title, given.text, given.language, given.tags, scopes, tenant)
