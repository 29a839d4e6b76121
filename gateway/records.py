"""What the parts of the gateway hand to each other: immutable, and free of any library.

Times are seconds since the epoch. Text and media in a `Question` are already masked; what a customer sent as it was
exists only as `Received`, between the HTTP request and the guard.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

Language = Literal["zh", "en"]
MediaKind = Literal["image", "video"]
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]
TicketState = Literal["queued", "working", "answered", "handed_off", "failed"]
HandoffState = Literal["open", "claimed", "closed"]


@dataclass(frozen=True)
class Received:
    """A file as the customer sent it. `name` is what the sender called it, "" if nothing."""

    data: bytes = field(repr=False)
    name: str = ""


@dataclass(frozen=True)
class Media:
    """A file that is fit to be stored, queued and shown to the model.

    Attributes:
        kind: found from its content.
        data: the encoded file, without metadata, private data blurred.
        mime: "image/jpeg", "image/png", "video/mp4".
        digest: hex SHA-256 of the masked pixels (of the file, for a video).
        width, height: pixels.
        quality: 0 (useless) to 1 (sharp and bright).
        masked: places that were blurred.
    """

    kind: MediaKind
    data: bytes = field(repr=False)
    mime: str
    digest: str
    width: int
    height: int
    quality: float = 1.0
    masked: int = 0


@dataclass(frozen=True)
class MediaRef:
    """A `Media` whose bytes lie in the object store; what queues and tables carry instead of them."""

    object_id: str
    sha256: str
    kind: MediaKind
    mime: str
    digest: str
    width: int
    height: int
    quality: float
    masked: int


M = TypeVar("M", Received, Media, MediaRef)


@dataclass(frozen=True)
class Message(Generic[M]):
    """One turn. `content`: texts and media in the order in which they were sent."""

    role: Role
    content: tuple[str | M, ...]

    @property
    def text(self) -> str:
        """All texts, joined by line ends."""
        return "\n".join(part for part in self.content if isinstance(part, str))

    @property
    def media(self) -> tuple[M, ...]:
        """All media, in order."""
        return tuple(part for part in self.content if not isinstance(part, str))


@dataclass(frozen=True)
class Sampling:
    """How the model chooses tokens; None: the scene's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question(Generic[M]):
    """One request for an answer.

    Attributes:
        request_id: unique; the idempotency key.
        tenant: whose customer asks. Nothing of one tenant ever reaches another.
        conversation_id: joins the turns of one customer; "" for a single question.
        scene: a name in gateway/scenes.
        language: of the last user message.
        messages: oldest first, the last one from the user.
        adapter: LoRA adapter of the model, "" for none.
        tools: OpenAI tool definitions as JSON, "" for none.
        personal: private data was found in it, so its answer is never cached.
        grounded: look for articles and cite them.
    """

    request_id: str
    tenant: str
    scene: str
    language: Language
    messages: tuple[Message[M], ...]
    conversation_id: str = ""
    sampling: Sampling = Sampling()
    adapter: str = ""
    tools: str = ""
    personal: bool = False
    grounded: bool = True

    @property
    def text(self) -> str:
        """What the customer asks now."""
        return self.messages[-1].text

    @property
    def media(self) -> tuple[M, ...]:
        """All media of all turns, in order."""
        return tuple(item for message in self.messages for item in message.media)


@dataclass(frozen=True)
class Versions:
    """What an answer depends on, besides the question."""

    model: str
    adapter: str
    prompt: str
    knowledge: str


@dataclass(frozen=True)
class Passage:
    """A part of an article, as retrieval found it. `score`: higher is better; only ranks of one search compare."""

    article_id: str
    version: int
    title: str
    text: str
    language: Language
    score: float


@dataclass(frozen=True)
class Citation:
    """An article that an answer rests on. `number` is the n of [n]; `support`: 0 to 1, how much of the answer it backs."""

    number: int
    article_id: str
    version: int
    title: str
    support: float


@dataclass(frozen=True)
class Signals:
    """What confidence is made of, each 0 to 1.

    token_probability: geometric mean probability of the answer's tokens.  retrieval_margin: how far the best article is
    ahead of the others.  image_quality: of the worst picture, 1 without one.  citation_support: part of the answer that
    the cited articles back.
    """

    token_probability: float
    retrieval_margin: float
    image_quality: float
    citation_support: float


@dataclass(frozen=True)
class Usage:
    """Tokens, as OpenAI counts them. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class Delta:
    """A piece of an answer's text that passed the policy."""

    text: str


@dataclass(frozen=True)
class Answer:
    """A finished answer.

    Attributes:
        text: as the customer reads it: policy applied, references and disclaimer at the end.
        confidence: 0 to 1, calibrated.
        handoff: why a person should take over; "" if none should. One of: low_confidence, blocked_words, asked_for_person,
            no_knowledge, model_unavailable, attended (one has already).
        cached: taken from the answer cache.
    """

    request_id: str
    text: str
    language: Language
    scene: str
    citations: tuple[Citation, ...]
    confidence: float
    signals: Signals
    versions: Versions
    finish_reason: FinishReason = "stop"
    handoff: str = ""
    cached: bool = False
    usage: Usage = Usage()
    tool_calls: str = ""


Event = Delta | Answer
"""What an assistant yields: any number of Delta, then one Answer, whose text starts with all of them."""


@dataclass(frozen=True)
class Ticket:
    """An asynchronous request and what became of it."""

    ticket_id: str
    tenant: str
    state: TicketState
    created_s: float
    updated_s: float
    question: Question[MediaRef]
    answer: Answer | None = None
    attempts: int = 0


@dataclass(frozen=True)
class Feedback:
    """A customer's judgement of one answer. `rating`: 1 (bad) to 5 (good)."""

    request_id: str
    tenant: str
    rating: int
    comment: str
    created_s: float


@dataclass(frozen=True)
class Handoff:
    """A conversation that waits for a person, or that a person has taken over.

    Attributes:
        reason: see Answer.handoff.
        summary: what the agent reads first: the question, what the model said, how sure it was.
        media: pictures of the conversation.
        agent: who claimed it, "" if nobody.
        replies: (time, agent, text), oldest first.
    """

    handoff_id: str
    tenant: str
    request_id: str
    conversation_id: str
    reason: str
    summary: str
    state: HandoffState
    created_s: float
    media: tuple[MediaRef, ...] = ()
    agent: str = ""
    replies: tuple[tuple[float, str, str], ...] = ()
