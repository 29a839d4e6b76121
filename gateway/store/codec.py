"""Records to bytes and back, for tables and for the queue. It knows every record's type; pydantic checks what comes back.

An envelope names the record and the version of its form. An unknown version or a field that this version does not know is
an error that says so: a worker of last week must not guess what a gateway of today meant.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

VERSION: Final = 1

T = TypeVar("T")


class NotDecodable(ValueError):
    """Bytes that are no record of the wanted type and version. The text holds no content."""


def encode(kind: type[T], record: T) -> bytes:
    """A record as JSON; ValueError for NaN and infinity, which could not be read back.

    Args:
        kind: the record's type, `Question[MediaRef]` for instance.
        record: what to write.
    """
    adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
    data = adapter.dump_python(record, mode="json")
    return json.dumps(
        {"version": VERSION, "record": _name(kind), "data": data},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    ).encode()


def decode(kind: type[T], data: bytes | str) -> T:
    """The record again; NotDecodable."""
    try:
        envelope = json.loads(data)
        version, name, body = envelope["version"], envelope["record"], envelope["data"]
    except (ValueError, TypeError, KeyError):
        raise NotDecodable(f"not an envelope of a {_name(kind)}") from None
    if version != VERSION:
        raise NotDecodable(f"version: got {version!r}, allowed: {VERSION}")
    if name != _name(kind):
        raise NotDecodable(f"record: got {name!r}, allowed: {_name(kind)!r}")
    adapter: TypeAdapter[T] = _adapter(cast(Any, kind))
    try:
        record: T = adapter.validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise NotDecodable(f"{_name(kind)}.{place}: {first['type']}") from None
    if adapter.dump_python(record, mode="json") != body:
        raise NotDecodable(f"{_name(kind)}: a field is unknown or missing in version {VERSION}")
    return record


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _name(kind: Any) -> str:
    return str(getattr(kind, "__origin__", kind).__name__)
