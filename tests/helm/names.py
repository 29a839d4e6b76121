"""A DNS server that stands for the cluster's: it gives a headless service's name the addresses of its ready pods.

It knows A records of one name, whatever search domain follows it. Addresses may change at any time; caches forget after a second.
"""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType

A, IN, TTL_S = 1, 1, 1
NO_ERROR, NO_SUCH_NAME = 0, 3


class Names:
    """Answers on 127.0.0.1 until closed; `addresses` are the ready pods', `missing` denies the name itself."""

    def __init__(self, name: str, *addresses: str, missing: bool = False) -> None:
        self.name, self.addresses, self.missing = name, list(addresses), missing
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Names:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, caller = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), caller)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035: header, the question again, one record for each address."""
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        kind = struct.unpack(">H", question[-4:-2])[0]
        ours = question[1 : 1 + question[0]].decode().lower() == self.name
        self.asked += ours and kind == A
        ours = ours and not self.missing
        records = [
            struct.pack(">HHHIH4s", 0xC00C, A, IN, TTL_S, 4, socket.inet_aton(address))
            for address in (self.addresses if ours and kind == A else ())
        ]
        flags = 0x8580 | (NO_ERROR if ours else NO_SUCH_NAME)
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)
