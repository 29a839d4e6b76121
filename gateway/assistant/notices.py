"""What the gateway itself says to a customer. It knows languages; it does not know when something is said."""

from __future__ import annotations

from typing import Final

from gateway.records import Language

HANDED_OVER: Final[dict[Language, str]] = {
    "zh": "我对这个回答不够确定，已转接人工客服，稍后会有客服人员回复您。",
    "en": "I am not sure enough about this answer. A colleague will take over and reply to you shortly.",
}
"""Below an answer that a person should look at."""

PERSON_COMES: Final[dict[Language, str]] = {
    "zh": "好的，已为您转接人工客服，稍后会有客服人员回复您。",
    "en": "Of course. I have handed you over to a colleague, who will reply to you shortly.",
}
"""To a customer who asked for a person."""

PASSED_ON: Final[dict[Language, str]] = {
    "zh": "您的消息已转给正在处理的客服人员，请稍候回复。",
    "en": "Your message was passed on to the colleague who is looking after you. Please wait for the reply.",
}
"""To a customer whom an agent is looking after: two voices would contradict each other."""

REFERENCES: Final[dict[Language, str]] = {"zh": "参考资料：", "en": "References: "}

_PERSON: Final = (
    "转人工", "人工客服", "人工服务", "找人工", "真人客服", "要人工", "转接客服",
    "human agent", "real person", "live agent", "speak to a human", "talk to a human", "speak to someone",
    "talk to a person", "speak to a person",
)  # fmt: skip


def asks_for_person(text: str) -> bool:
    """Whether the customer asks for a person, in words that leave no doubt."""
    folded = " ".join(text.lower().split())
    return any(phrase in folded for phrase in _PERSON)
