"""Earlier answers as the model gave them: without what the gateway put below them. Customers' programs send them back whole,
and a model that reads references and disclaimers as its own words begins to write them.

It knows the gateway's sentences; it does not know the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.assistant import notices
from gateway.records import Media, Message


def spoken(messages: Sequence[Message[Media]], sentences: Sequence[str]) -> tuple[Message[Media], ...]:
    """The messages, the assistant's without their tails. `sentences`: of the policy, its disclaimers."""
    ends = (*notices.HANDED_OVER.values(), *(sentence for sentence in sentences if sentence))
    heads = tuple(notices.REFERENCES.values())
    return tuple(
        replace(message, content=tuple(_bare(part, ends, heads) for part in message.content))
        if message.role == "assistant"
        else message
        for message in messages
    )


def _bare(part: str | Media, ends: tuple[str, ...], heads: tuple[str, ...]) -> str | Media:
    if not isinstance(part, str):
        return part
    paragraphs = part.split("\n\n")
    while len(paragraphs) > 1 and (
        not paragraphs[-1].strip() or paragraphs[-1].strip() in ends or paragraphs[-1].startswith(heads)
    ):
        del paragraphs[-1]
    return "\n\n".join(paragraphs)
