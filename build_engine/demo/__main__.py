"""`make demo`: start a real Triton on the demo engines, ask about a picture, stream the answer, shut down.

It knows only the command line of the server and the public client; nothing in here reaches past them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PICTURE = Path(__file__).parent / "pictures" / "black_phone.jpg"
_QUESTION = "我的手机打不开，怎么办？"


@contextlib.contextmanager
def serving(engines: Path) -> Iterator[dict[str, int]]:
    """Run `python -m ensemble serve` on free ports; yields its ready file, ends it with SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="qwen3vl-demo-") as directory:
        ready = Path(directory) / "ready.json"
        command = [sys.executable, "-m", "ensemble", "serve", "--engines", str(engines), "--free-ports"]
        server = subprocess.Popen([*command, "--ready-file", str(ready)])
        try:
            while not ready.exists():
                if server.poll() is not None:
                    raise SystemExit(
                        f"the server ended with exit code {server.returncode}; see its lines above"
                    )
                time.sleep(0.05)
            yield json.loads(ready.read_text())
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
            server.wait()
    if server.returncode != 0:
        raise SystemExit(f"the server ended with exit code {server.returncode}")


def main(arguments: list[str] | None = None) -> None:
    """Command line of the demo."""
    from qwen3vl_client import Client

    parser = argparse.ArgumentParser(prog="python -m build_engine.demo", description=__doc__)
    parser.add_argument("--engines", type=Path, required=True, help="directory that build_engine wrote")
    parser.add_argument("--picture", type=Path, default=_PICTURE, help="default: %(default)s")
    parser.add_argument("--question", default=_QUESTION, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not options.picture.is_file():
        raise SystemExit(f"--picture: {options.picture} is not a file")
    with serving(options.engines) as ports, Client(f"127.0.0.1:{ports['grpc_port']}") as client:
        print(f"\npicture   {options.picture}\nquestion  {options.question}\nanswer    ", end="", flush=True)
        with client.stream(options.question, images=[options.picture], max_tokens=200) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
        reply = stream.reply
        print(
            f"\n\n{reply.usage.prompt_tokens} prompt tokens, {reply.usage.completion_tokens} answer tokens, "
            f"first token after {reply.timings.time_to_first_token_ms:.0f} ms, all after {reply.timings.total_ms:.0f} ms, "
            f"confidence {reply.confidence:.2f}, finish_reason {reply.finish_reason}",
            flush=True,
        )


if __name__ == "__main__":
    main()
