"""The bodies of requests, as they come in. Only here and in the replies do OpenAI's names live."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$")]
"""What a caller may choose as an id."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Open(BaseModel):
    """Unknown fields are kept aside, and named in a header of the reply."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Part(_Open):
    """A part of a message: text, or a medium in one of the forms that clients of OpenAI, Anthropic and Qwen send."""

    type: str = Field(max_length=64)


class TurnIn(_Open):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionIn(_Open):
    """What a tool is called and takes (JSON Schema)."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolIn(_Open):
    """A function that the model may ask the caller to run."""

    type: Literal["function"]
    function: FunctionIn


class StreamOptions(_Open):
    """Of a stream."""

    include_usage: bool | None = None


class ServiceIn(_Body):
    """What OpenAI's form has no word for.

    conversation_id joins the turns of one customer; grounded: look for articles and cite them.
    """

    conversation_id: Id | None = None
    scene: str | None = Field(default=None, max_length=64)
    language: Literal["zh", "en"] | None = None
    grounded: bool = True


class ChatIn(_Open):
    """POST /v1/chat/completions."""

    messages: list[TurnIn] = Field(min_length=1, max_length=256)
    model: str | None = Field(default=None, max_length=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1 << 20)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1 << 20)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1 << 20)
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    stop: str | list[str] | None = None
    tools: list[ToolIn] | None = Field(default=None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    n: int | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    web_search_options: dict[str, Any] | None = None
    user: Id | None = None
    customer_service: ServiceIn = ServiceIn()


class FeedbackIn(_Body):
    """POST /v1/feedback. `rating`: 1 (bad) to 5 (good)."""

    request_id: Id
    rating: Annotated[int, Field(ge=1, le=5, strict=True)]
    comment: str = Field(default="", max_length=2000)


class HandoffIn(_Body):
    """POST /v1/handoffs: a customer wants a person to look at an answer."""

    request_id: Id


class HandoffQuery(_Body):
    """GET /v1/handoffs."""

    state: Literal["open", "claimed", "closed"] | None = None


class AgentIn(_Body):
    """Who acts."""

    agent: str = Field(min_length=1, max_length=64)


class ReplyIn(AgentIn):
    """What an agent writes to the customer."""

    text: str = Field(min_length=1, max_length=8000)


class PredictIn(_Open):
    """POST /api/predict of the tutorial: [{"image": data URI}, prompt, temperature, top_p, max_new_tokens]."""

    data: list[Any] = Field(min_length=2, max_length=5)
