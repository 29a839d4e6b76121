"""A chat in the terminal: turns, attached media and slash commands. Knows lines of text, no gRPC."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3vl_client.client import ChatStream, Client
from qwen3vl_client.errors import Cancelled, ClientError

_HELP = """\
/image PATH   attach a picture to the next question
/video PATH   attach a video
/reset        forget the chat and the attachments
/quit         end (Ctrl-D too); Ctrl-C stops an answer"""

# A model may write anything, so nothing that commands a terminal may pass: C0 but tab and newline, DEL, C1.
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])
del _CONTROLS[ord("\n")], _CONTROLS[ord("\t")]


def printable(text: str) -> str:
    """`text` without control characters."""
    return text.translate(_CONTROLS)


def why(error: OSError) -> str:
    """The file and what is wrong with it."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


@contextlib.contextmanager
def interruptible(stream: ChatStream) -> Iterator[None]:
    """Ctrl-C within the block ends the answer, and then the block with KeyboardInterrupt.

    Python's own handler would raise wherever gRPC just is, and gRPC's locks do not survive that. A second Ctrl-C does.
    """
    pressed = False

    def end(*_: object) -> None:
        nonlocal pressed
        again, pressed = pressed, True
        if not stream.cancel() or again:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    except Cancelled:
        if pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def show(stream: ChatStream) -> None:
    """Writes the answer as it comes, and ends the line that it began, however the answer ends."""
    try:
        with interruptible(stream):
            for chunk in stream:
                print(printable(chunk.text), end="", flush=True)
    finally:
        if stream.text:
            print(flush=True)


class Conversation:
    """The turns so far. A question that fails or is stopped is taken back; its media wait for the next."""

    def __init__(self, client: Client, options: dict[str, Any], system: str | None = None) -> None:
        self._client, self._options, self._system = client, options, system
        self.messages: list[dict[str, Any]] = []
        self.attached: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the system message."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []
        self.attached = []

    def attach(self, kind: str, path: str) -> None:
        """Reads an image or a video for the next question; OSError if it cannot be read."""
        self.attached.append({"type": kind, kind: Path(path).expanduser().read_bytes()})

    def run(self) -> None:
        """Reads lines until /quit or the end of input."""
        if sys.stdin.isatty():
            print("Ask something; /help lists the commands.")
        for line in _lines():
            words = line.strip()
            if words == "/quit":
                return
            if words.startswith("/"):
                self._obey(*words.partition(" ")[::2])
            elif words:
                self._turn(words)

    def _obey(self, command: str, argument: str) -> None:
        argument = argument.strip()
        if command in ("/image", "/video") and argument:
            try:
                self.attach(command[1:], argument)
            except OSError as error:
                print(f"qwen3vl: {why(error)}", file=sys.stderr)
        elif command == "/reset":
            self.reset()
        elif command == "/help":
            print(_HELP)
        else:
            print(f"qwen3vl: unknown command {command}\n{_HELP}", file=sys.stderr)

    def _turn(self, question: str) -> None:
        content = [*self.attached, {"type": "text", "text": question}] if self.attached else question
        self.messages.append({"role": "user", "content": content})
        answer = None
        try:
            with self._client.stream(self.messages, **self._options) as stream:
                show(stream)
            answer = stream.reply.text
        except ClientError as error:
            print(f"qwen3vl: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        except KeyboardInterrupt:
            print("qwen3vl: stopped", file=sys.stderr)
        if answer is None:
            self.messages.pop()
        else:
            self.messages.append({"role": "assistant", "content": answer})
            self.attached = []


def _lines() -> Iterator[str]:
    """Lines of stdin, with a prompt and editing where a person types."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 (gives input() editing and history)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
