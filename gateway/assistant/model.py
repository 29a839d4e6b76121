"""The Triton model `qwen3_vl`, in the gateway's records.

It knows the client library and which of its errors mean what to a customer. It does not know scenes or articles.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import qwen3vl_client as client
from tritonclient.grpc import aio as triton

from gateway import telemetry
from gateway.errors import GatewayError, InvalidInput, Unavailable
from gateway.records import FinishReason, Media, Message, Sampling, Usage

_VERSION_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Prompt:
    """What the model is shown. `adapter`: of LoRA weights, "" for none."""

    messages: tuple[Message[Media], ...]
    sampling: Sampling
    adapter: str = ""


@dataclass
class Generation:
    """What came of a prompt so far; complete when `finish_reason` is set."""

    text: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    token_probability: float = 0.0
    usage: Usage = field(default_factory=Usage)


class Model:
    """A connection to the model server.

    Args:
        url: HOST:PORT of Triton's gRPC port.
        name: the public model.
        timeout_s: for a whole answer.
    """

    def __init__(self, url: str, name: str, timeout_s: float) -> None:
        self._url, self._name = url, name
        self._client = client.AsyncClient(url, timeout=client.Timeout(total=timeout_s))
        self._version = ""

    async def close(self) -> None:
        """Close the connection; answers under way are cancelled."""
        await self._client.close()

    async def ready(self) -> bool:
        """Whether the model takes requests now."""
        return await self._client.ready()

    async def version(self) -> str:
        """Names the engines and their deployment; changes when either does. Unavailable while Triton cannot be asked."""
        if not self._version:
            try:
                async with triton.InferenceServerClient(self._url) as server:
                    config = await server.get_model_config(self._name, client_timeout=_VERSION_TIMEOUT_S)
            except Exception as error:  # of gRPC and of the client library, several kinds
                raise Unavailable("the model server does not answer") from error
            self._version = hashlib.sha256(config.SerializeToString(deterministic=True)).hexdigest()[:16]
        return self._version

    async def generate(self, prompt: Prompt, request_id: str, into: Generation) -> AsyncGenerator[str]:
        """The answer's text in pieces; `into` is filled on the way. Closing the iterator cancels the request.

        Raises Unavailable (the server is down, full or draining) or InvalidInput (the prompt cannot be answered).
        """
        media = [item for message in prompt.messages for item in message.media]
        try:
            async with self._client.stream(
                [_plain(message) for message in prompt.messages],
                images=[item.data for item in media if item.kind == "image"],
                videos=[item.data for item in media if item.kind == "video"],
                request_id=request_id,
                metadata=telemetry.inject(),
                **_options(prompt),
            ) as stream:
                async for chunk in stream:
                    if chunk.text:
                        into.text.append(chunk.text)
                        yield chunk.text
                reply = stream.reply
        except client.ClientError as error:
            self._version = ""  # it may come back as another one
            raise _mapped(error) from error
        into.finish_reason = "length" if reply.finish_reason == "length" else "stop"
        into.token_probability = reply.confidence or 0.0
        into.usage = Usage(
            reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens
        )


def _plain(message: Message[Media]) -> dict[str, object]:
    if message.role == "system":
        return {"role": "system", "content": message.text}
    parts: list[dict[str, str]] = []
    for part in message.content:
        parts.append({"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind})
    return {"role": message.role, "content": parts}


def _options(prompt: Prompt) -> client.Options:
    sampling = prompt.sampling
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(sampling.stop) or None,
        "lora_name": prompt.adapter or None,
    }


_FULL = "the model server is busy or down; try again later"


def _mapped(error: client.ClientError) -> GatewayError:
    if isinstance(error, client.InvalidRequest):
        return InvalidInput("messages", _first_line(error), "a question within the model's limits")
    return Unavailable(_FULL)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
