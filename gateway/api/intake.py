"""From the body of a request to a masked Question. What a customer sent as it was does not get past this module."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.api import options, tools
from gateway.api.content import File, Reader
from gateway.api.fetch import Fetcher
from gateway.api.language import detect
from gateway.api.schema import ChatIn, TurnIn
from gateway.errors import InvalidInput, TooLarge
from gateway.records import Language, Media, Message, Question, Received, Role

if TYPE_CHECKING:
    from gateway.parts import Parts

_KNOWN_BYTES: Final = 64 << 20
_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
}


@dataclass(frozen=True)
class Asker:
    """Who asks, in which request. `accept_language`: of the browser."""

    tenant: str
    request_id: str
    conversation_id: str
    accept_language: str = ""


class Intake:
    """Makes questions; safe to use from many tasks at once."""

    def __init__(self, parts: Parts, fetcher: Fetcher) -> None:
        self._parts, self._fetcher = parts, fetcher
        self._known = _Known(_KNOWN_BYTES)

    async def question(
        self, chat: ChatIn, asker: Asker, attachments: Mapping[str, Received] | None = None
    ) -> Question[Media]:
        """The question, masked. InvalidInput, TooLarge, Unsupported, NotFound, Unavailable."""
        options.refuse_unsupported(chat)
        adapter = options.adapter(chat.model, self._parts.settings.triton.model)
        sampling, scene = options.sampling(chat), self._scene(chat.customer_service.scene)
        turns = await self._turns(chat, attachments or {})
        messages, personal = await self._masked(turns, asker.tenant)
        if messages[-1].role != "user" or not messages[-1].content:
            raise InvalidInput(
                "messages", "a last message that asks nothing", "a user's text or media at last"
            )
        definitions = [tool.model_dump(exclude_none=True) for tool in chat.tools or ()]
        return Question(
            request_id=asker.request_id,
            tenant=asker.tenant,
            scene=scene,
            language=chat.customer_service.language or _language(messages, asker.accept_language),
            messages=messages,
            conversation_id=asker.conversation_id,
            sampling=sampling,
            adapter=adapter,
            tools="" if chat.tool_choice == "none" else tools.render(definitions),
            personal=personal,
            grounded=chat.customer_service.grounded,
        )

    def _scene(self, asked: str | None) -> str:
        enabled = [name for name, scene in self._parts.scenes.items() if scene.enabled]
        if asked is None and enabled:
            return "after_sales" if "after_sales" in enabled else enabled[0]
        if asked not in enabled:
            raise InvalidInput("customer_service.scene", "another name", ", ".join(sorted(enabled)))
        return asked

    async def _turns(
        self, chat: ChatIn, attachments: Mapping[str, Received]
    ) -> list[tuple[Role, list[str | File]]]:
        reader = Reader(self._fetcher, attachments, self._parts.settings.media.max_files)
        turns: list[tuple[Role, list[str | File]]] = []
        for at, turn in enumerate(chat.messages):
            content = await reader.read(turn.content, f"messages.{at}.content", media=turn.role == "user")
            if turn.role == "tool":
                content = [tools.render_result("\n".join(map(str, content)))]
            turns.append((_ROLES[turn.role], content + _calls(turn, at)))
        rest: list[str | File] = []
        for name, received in attachments.items():
            if name not in reader.used:
                reader.count(name)
                rest.append(File(received, name))
        if rest:  # files that no part speaks of belong to the question, before its words
            role, content = turns[-1]
            if role != "user":
                raise InvalidInput("messages", "files but no question", "a user's message at last")
            turns[-1] = (role, rest + content)
        return turns

    async def _masked(
        self, turns: list[tuple[Role, list[str | File]]], tenant: str
    ) -> tuple[tuple[Message[Media], ...], bool]:
        files = [part for _, content in turns for part in content if isinstance(part, File)]
        chars = sum(len(part) for _, content in turns for part in content if isinstance(part, str))
        if chars > (most := self._parts.settings.media.max_text_chars):
            # Masking takes a microsecond a character, for everybody else's time.
            raise TooLarge("messages", f"{chars} characters", f"at most {most} in all")
        done = await asyncio.gather(*(self._media(file, tenant) for file in files), return_exceptions=True)
        media: list[Media] = []
        for one in done:
            if isinstance(one, BaseException):
                raise one
            media.append(one)
        personal = any(item.masked for item in media)
        waiting = iter(media)
        messages: list[Message[Media]] = []
        for role, content in turns:
            parts: list[str | Media] = []
            for part in content:
                if isinstance(part, File):
                    parts.append(next(waiting))
                    continue
                masked = self._parts.guard.text(part)
                personal = personal or masked.spans > 0
                parts.append(masked.text)
            messages.append(Message(role, tuple(parts)))
        return tuple(messages), personal

    async def _media(self, file: File, tenant: str) -> Media:
        """A page sends the pictures of earlier turns again; each is looked at once."""
        key = (tenant, await asyncio.to_thread(_digest, file.received.data))
        if (media := self._known.get(key)) is None:
            media = await self._parts.guard.media(file.received, file.field)
            self._known.put(key, media)
        return media


class _Known:
    """Masked media by the digest of what was received, the latest ones, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._media: OrderedDict[tuple[str, bytes], Media] = OrderedDict()

    def get(self, key: tuple[str, bytes]) -> Media | None:
        media = self._media.get(key)
        if media is not None:
            self._media.move_to_end(key)
        return media

    def put(self, key: tuple[str, bytes], media: Media) -> None:
        if key in self._media or len(media.data) > self._most_bytes // 4:
            return
        self._media[key] = media
        self._bytes += len(media.data)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._media.popitem(last=False)[1].data)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _calls(turn: TurnIn, at: int) -> list[str | File]:
    """Tool calls of an earlier turn, as the model wrote them."""
    written: list[str | File] = []
    for number, call in enumerate(turn.tool_calls or ()):
        function = call.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if turn.role != "assistant" or not isinstance(function, dict) or not isinstance(name, str):
            raise InvalidInput(
                f"messages.{at}.tool_calls.{number}",
                "another form",
                '{"function": {"name": ..., "arguments": ...}}',
            )
        written.append(tools.render_call(name, str(function.get("arguments") or "")))
    return written


def _language(messages: tuple[Message[Media], ...], accept_language: str) -> Language:
    for message in reversed(messages):
        if message.role == "user" and message.text.strip():
            return detect(message.text, accept_language)
    return detect("", accept_language)
