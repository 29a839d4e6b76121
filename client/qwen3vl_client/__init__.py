"""A light client of the Triton model `qwen3_vl`: pictures, videos and text in, a streamed answer out.

    >>> from qwen3vl_client import Client
    >>> with Client("localhost:8001") as client:
    ...     print(client.chat("What is wrong?", images="screen.jpg"))

Needs tritonclient[grpc] and numpy, nothing else; PIL only if the caller passes PIL pictures.
"""

from qwen3vl_client.aio import AsyncChatStream, AsyncClient
from qwen3vl_client.client import ChatStream, Client
from qwen3vl_client.errors import (
    Cancelled,
    ClientError,
    Draining,
    Interrupted,
    InvalidImage,
    InvalidMessages,
    InvalidOption,
    InvalidRequest,
    InvalidVideo,
    Overloaded,
    PromptTooLong,
    ServerFault,
    TimedOut,
    Unavailable,
    Unreachable,
)
from qwen3vl_client.reply import Chunk, Reply, Timings, Usage
from qwen3vl_client.request import Options
from qwen3vl_client.timeout import Timeout
from qwen3vl_client.wire import TLS

__version__ = "0.1.0"

__all__ = [
    "TLS",
    "AsyncChatStream",
    "AsyncClient",
    "Cancelled",
    "ChatStream",
    "Chunk",
    "Client",
    "ClientError",
    "Draining",
    "Interrupted",
    "InvalidImage",
    "InvalidMessages",
    "InvalidOption",
    "InvalidRequest",
    "InvalidVideo",
    "Options",
    "Overloaded",
    "PromptTooLong",
    "Reply",
    "ServerFault",
    "TimedOut",
    "Timeout",
    "Timings",
    "Unavailable",
    "Unreachable",
    "Usage",
]
