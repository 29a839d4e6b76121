"""A server that speaks the Hugging Face Hub's protocol, as far as listing and downloading a repository need it.

Error codes and headers are those of huggingface.co, by which huggingface_hub tells a gated repository from a missing one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PIECE = 1 << 18


@dataclass
class HubServer:
    """What it serves and how.

    Attributes:
        repositories: directory of each ORG/NAME.
        token: the only token that is accepted; None: nobody needs one.
        gated: names of repositories that this token may not read yet.
        stop_at: file to the number of bytes after which its first download stalls until `go_on`; `stalled` tells when.
        tells_sizes: False is a mirror that leaves out what the hub answers to ?blobs=true.
        damaged: files that are served with a wrong byte.
        requests: (method, path, Range) of every request.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    token: str | None = None
    gated: set[str] = field(default_factory=set)
    stop_at: dict[str, int] = field(default_factory=dict)
    tells_sizes: bool = True
    damaged: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def downloads(self) -> list[tuple[str, str | None]]:
        """(file, Range) of every download."""
        return [
            (path.rpartition("/")[2], given)
            for method, path, given in self.requests
            if "/resolve/" in path and method == "GET"
        ]


@contextmanager
def serving_hub() -> Iterator[HubServer]:
    hub = HubServer()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append((self.command, path, self.headers.get("Range")))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        download = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or download
        assert match, path
        repository, revision = match[1], match[2] or "main"
        sent = self.headers.get("Authorization")
        if self.state.token and sent is not None and sent != f"Bearer {self.state.token}":
            return self._error(401, None, "Invalid credentials in Authorization header")
        if repository not in self.state.repositories or (self.state.token and sent is None):
            return self._error(404 if sent else 401, "RepoNotFound", "Repository not found")
        if repository in self.state.gated:
            return self._error(403, "GatedRepo", f"Access to model {repository} is restricted")
        if revision not in ("main", COMMIT):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if listing:
            return self._list(repository)
        return self._send_file(self.state.repositories[repository] / match[3])

    def _list(self, repository: str) -> None:
        files = []
        for path in sorted(self.state.repositories[repository].iterdir()):
            size, sha1, sha256 = _facts(path)
            file: dict[str, object] = {"rfilename": path.name, "size": size, "blobId": sha1}
            if path.suffix == ".safetensors":
                file["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            files.append(file if self.state.tells_sizes else {"rfilename": path.name})
        answer = {
            "_id": "1",
            "id": repository,
            "modelId": repository,
            "sha": COMMIT,
            "siblings": files,
            "tags": [],
        }
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send_file(self, path: Path) -> None:
        content = path.read_bytes()
        if path.name in self.state.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if given else 200, content[start:], headers, self.state.stop_at.pop(path.name, None))

    def _send(self, status: int, body: bytes, headers: dict[str, str], stop_at: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for start in range(0, len(body), _PIECE):
                if stop_at is not None and start >= stop_at:
                    self.wfile.flush()
                    self.state.stalled.set()
                    self.state.go_on.wait(60)
                self.wfile.write(body[start : start + _PIECE])
        except OSError:  # the caller was killed
            self.close_connection = True

    def _error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)


@functools.cache
def _facts(path: Path) -> tuple[int, str, str]:
    """Size, sha1 and sha256."""
    content = path.read_bytes()
    return len(content), hashlib.sha1(content).hexdigest(), hashlib.sha256(content).hexdigest()
