"""Log lines as JSON objects, each with the id of the request that it belongs to.

It prints what it is given: that nobody gives it a customer's words is the rule everywhere else, and tests hold to it. Of an
exception it prints the type, and where it happened, but not the text: a library's text may quote what it was given. The
texts of our own errors hold no content and are printed.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.telemetry import tracing

_REQUEST: ContextVar[str] = ContextVar("request_id", default="")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FRAMES: Final = 12


def request_id() -> str:
    """Of the request that is being worked on, "" if none."""
    return _REQUEST.get()


@contextmanager
def bound(value: str) -> Iterator[None]:
    """All log lines within carry this request id."""
    token = _REQUEST.set(value)
    try:
        yield
    finally:
        _REQUEST.reset(token)


class JsonFormatter(logging.Formatter):
    """One line, one object. What a caller gives as `extra` becomes fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := request_id():
            line["request_id"] = request
        if trace := tracing.trace_id():
            line["trace_id"] = trace
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _told(record.exc_info[1], record.exc_info[2])
        return json.dumps(line, ensure_ascii=False, default=repr)


def install(level: str, service: str) -> None:
    """Make it the only way in which this process logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    handler.setLevel(level.upper())  # some libraries set the level of their own loggers
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "urllib3", "botocore", "boto3", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _told(error: BaseException, at: TracebackType | None) -> dict[str, Any]:
    frames = traceback.extract_tb(at)[-_FRAMES:]
    told: dict[str, Any] = {
        "type": type(error).__name__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, GatewayError):
        told["text"] = str(error)
    return told
