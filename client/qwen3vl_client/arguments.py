"""The arguments of the command `qwen3vl`, and what they say about the server and the request.

The options of a request are `request.Options`, one argument each; the server knows their ranges.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from qwen3vl_client.client import Client
from qwen3vl_client.timeout import Timeout
from qwen3vl_client.wire import TLS

_DESCRIPTION = "Ask Qwen3-VL on a Triton server about pictures, videos, or anything else."
_EPILOG = """\
examples:
  qwen3vl ask screen.jpg "What is wrong?"            a picture and a question; the answer streams
  qwen3vl ask before.png after.png "What changed?"   several pictures, in this order
  qwen3vl ask --video clip.mp4 "When does the error appear?"
  qwen3vl ask "How do I reset a phone?" --max-tokens 200
  cat log.txt | qwen3vl ask screen.jpg -             the question comes from standard input
  qwen3vl ask screen.jpg "Which code?" --json | jq -r .text
  qwen3vl chat screen.jpg                            several turns; /help lists the commands
  qwen3vl ready --wait 120                           waits until the server takes requests

The server is --server HOST:PORT (Triton's gRPC port), or QWEN3VL_SERVER, or localhost:8001.

exit codes:
  0 answered                                 4 server full, draining or unreachable
  1 fault of the server                      5 timeout
  2 wrong arguments, unreadable file         6 the answer broke off
  3 the request is refused as wrong          130 Ctrl-C
"""

_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("max_tokens", int, "most tokens of the answer"),
    ("temperature", float, "0 takes the most likely token always"),
    ("top_p", float, "choose from the likeliest tokens that add up to this probability"),
    ("top_k", int, "choose from this many likeliest tokens; 0: all"),
    ("min_p", float, "leave out tokens below this share of the likeliest one"),
    ("seed", int, "the same seed gives the same answer"),
    ("presence_penalty", float, "discourage tokens that occurred"),
    ("frequency_penalty", float, "discourage tokens the more often they occurred"),
    ("repetition_penalty", float, "divide the score of tokens that occurred; 1: off"),
    ("min_pixels", int, "enlarge pictures below this"),
    ("max_pixels", int, "shrink pictures above this"),
    ("fps", float, "frames taken per second of video"),
    ("enhance", str, "none, or auto: denoise and raise the contrast of poor photos"),
    ("lora_name", str, "adapter that the engines were built with"),
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments, or ends the program with exit code 2 or, after --help, 0."""
    parser = argparse.ArgumentParser(
        "qwen3vl",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="ask | chat | ready")
    server = _server_arguments()
    generation = _generation_arguments()

    ask = commands.add_parser(
        "ask",
        usage="qwen3vl ask [PICTURE ...] QUESTION [options]",
        parents=[server, generation],
        help="one question, about pictures or not",
        allow_abbrev=False,
    )
    ask.set_defaults(command="ask")
    ask.add_argument(
        "words", nargs="+", metavar="[PICTURE ...] QUESTION", help="QUESTION - is read from stdin"
    )
    ask.add_argument("--json", action="store_true", help="print the whole reply as one JSON object")
    ask.add_argument("--logprobs", action="store_true", default=None, help="with --json: of each token")
    ask.add_argument("--stats", action="store_true", help="tokens and times on stderr after the answer")

    chat = commands.add_parser(
        "chat",
        usage="qwen3vl chat [PICTURE ...] [options]",
        parents=[server, generation],
        help="several turns in the terminal",
        allow_abbrev=False,
    )
    chat.add_argument("words", nargs="*", metavar="PICTURE", help="pictures for the first question")
    chat.set_defaults(command="chat", json=False)

    ready = commands.add_parser(
        "ready", parents=[server], help="whether the server takes requests", allow_abbrev=False
    )
    ready.add_argument("--wait", type=float, metavar="SECONDS", help="wait up to this long for it")
    ready.set_defaults(command="ready", json=False, words=[])

    # argparse takes one run of words only: in `ask a.png --seed 1 "why?"` the second one is left over.
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") and word != "-" for word in rest) or (rest and arguments.command == "ready"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.words += rest
    return arguments


def _server_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("server")
    default = os.environ.get("QWEN3VL_SERVER", "localhost:8001")
    group.add_argument("--server", default=default, metavar="HOST:PORT", help="default: %(default)s")
    group.add_argument("--tls", action="store_true", help="encrypt; the certificate must be trusted")
    group.add_argument("--ca", metavar="FILE", help="certificate authority (PEM) to trust; implies --tls")
    group.add_argument(
        "--cert", metavar="FILE", help="own certificate (PEM), where the server asks for one; implies --tls"
    )
    group.add_argument("--key", metavar="FILE", help="private key of --cert (PEM)")
    group.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="gRPC header")
    group.add_argument("--retries", type=int, default=2, help="before the first token only (%(default)s)")
    for name, limit, text in (
        ("--connect-timeout", Timeout.connect, "until the server answers at all"),
        ("--first-token-timeout", Timeout.first_token, "until the answer begins"),
        ("--idle-timeout", Timeout.idle, "of silence within the answer"),
        ("--timeout", Timeout.total, "for everything"),
    ):
        group.add_argument(name, type=float, default=limit, metavar="SECONDS", help=f"{text} (%(default)s)")
    return parser


def _generation_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("request")
    group.add_argument("--video", action="append", default=[], metavar="FILE", help="may be repeated")
    group.add_argument("--system", metavar="TEXT", help="system message")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end of the answer; may be repeated")
    for name, kind, text in _OPTIONS:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=kind.__name__.upper(), help=text)
    return parser


def client_of(arguments: argparse.Namespace) -> Client:
    """The client that the arguments describe; ValueError or OSError if one of them cannot be used."""
    for header in arguments.header:
        if "=" not in header:
            raise ValueError(f"--header: got {header}; allowed: NAME=VALUE")
    return Client(
        arguments.server,
        timeout=Timeout(
            arguments.connect_timeout,
            arguments.first_token_timeout,
            arguments.idle_timeout,
            arguments.timeout,
        ),
        retries=arguments.retries,
        tls=_tls(arguments),
        metadata=dict(header.split("=", 1) for header in arguments.header),
    )


def _tls(arguments: argparse.Namespace) -> TLS | bool:
    if bool(arguments.cert) != bool(arguments.key):
        got = "--cert" if arguments.cert else "--key"
        raise ValueError(f"--cert and --key: got {got} alone; allowed: both or none")
    if arguments.ca or arguments.cert:
        return TLS(arguments.ca, arguments.key, arguments.cert)
    return bool(arguments.tls)


def options_of(arguments: argparse.Namespace) -> Any:
    """The options of the request; None where the server shall decide."""
    names = [name for name, _, _ in _OPTIONS] + ["stop", "logprobs"]
    return {name: getattr(arguments, name, None) for name in names}
