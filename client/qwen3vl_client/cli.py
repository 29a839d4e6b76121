"""The command `qwen3vl`: a question from the shell, a chat in the terminal, or whether the server is up.

Knows streams and exit codes; the arguments are `arguments`', everything else is `client`'s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from qwen3vl_client.arguments import client_of, options_of, parse
from qwen3vl_client.client import Client
from qwen3vl_client.errors import ClientError, Interrupted, InvalidRequest, TimedOut, Unavailable, Unreachable
from qwen3vl_client.reply import Reply
from qwen3vl_client.terminal import Conversation, interruptible, printable, show, why

_CODES = ((InvalidRequest, 3), (Unavailable, 4), (TimedOut, 5), (Interrupted, 6), (ClientError, 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code, as --help lists them."""
    arguments = parse(argv)
    try:
        client = client_of(arguments)
    except OSError as error:
        return _complain(why(error), 2)
    except ValueError as error:
        return _complain(str(error), 2)
    try:
        with client:
            return {"ask": _ask, "chat": _chat, "ready": _ready}[arguments.command](client, arguments)
    except ClientError as error:
        return _report(error, arguments)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough; Python must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(why(error), 2)
    except KeyboardInterrupt:
        return _complain("cancelled", 130)


def _ask(client: Client, arguments: argparse.Namespace) -> int:
    *images, question = arguments.words
    if question == "-":
        question = sys.stdin.read()
    elif os.path.isfile(question):
        return _complain(f"no question after the picture {question}", 2)
    messages: list[Mapping[str, Any]] = []
    if arguments.system:
        messages.append({"role": "system", "content": arguments.system})
    media = [{"type": "image", "image": path} for path in images]
    media += [{"type": "video", "video": path} for path in arguments.video]
    text = {"type": "text", "text": question}
    messages.append({"role": "user", "content": [*media, text] if media else question})
    with client.stream(messages, **options_of(arguments)) as stream:
        if arguments.json:
            with interruptible(stream):
                reply = stream.read()
            print(json.dumps(_plain(reply), ensure_ascii=False))
            return 0
        show(stream)
    _remark(stream.reply, arguments)
    return 0


def _chat(client: Client, arguments: argparse.Namespace) -> int:
    conversation = Conversation(client, options_of(arguments), arguments.system)
    for path in arguments.words:
        conversation.attach("image", path)
    for path in arguments.video:
        conversation.attach("video", path)
    conversation.run()
    return 0


def _ready(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.wait:
        client.wait_ready(arguments.wait)
    elif not client.ready():
        raise Unreachable(f"the server at {client.url} is not ready")
    print("ready")
    return 0


def _plain(reply: Reply) -> dict[str, Any]:
    plain = dataclasses.asdict(reply)
    plain["usage"]["total_tokens"] = reply.usage.total_tokens
    return plain


def _remark(reply: Reply, arguments: argparse.Namespace) -> None:
    if reply.finish_reason == "length":
        _complain("the answer was cut: it reached --max-tokens or the limit of the engine")
    if arguments.stats:
        usage, timings = reply.usage, reply.timings
        confidence = "unknown" if reply.confidence is None else f"{reply.confidence:.2f}"
        print(
            f"prompt {usage.prompt_tokens} tokens ({usage.cached_tokens} cached), "
            f"answer {usage.completion_tokens} tokens, confidence {confidence}, "
            f"first token {timings.client_time_to_first_token_ms:.0f} ms, "
            f"total {timings.client_total_ms:.0f} ms",
            file=sys.stderr,
        )


def _report(error: ClientError, arguments: argparse.Namespace) -> int:
    if arguments.json:
        fields = {"type": type(error).__name__, "message": str(error), **vars(error)}
        print(json.dumps({"error": fields}, ensure_ascii=False))
    hint = f" (server: {arguments.server})" if isinstance(error, Unreachable) else ""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    return _complain(f"{type(error).__name__}: {error}{hint}", code)


def _complain(text: str, code: int = 0) -> int:
    print(f"qwen3vl: {' '.join(printable(text).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
