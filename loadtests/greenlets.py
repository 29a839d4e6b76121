"""Makes this process one of greenlets, which is what Locust's users are. Import it before anything else does I/O.

gRPC waits in C, where gevent cannot switch: without `init_gevent`, called before the first channel exists, the first
user that waits for an answer stops all the others for ever (tests/loadtests/test_greenlets.py shows it).
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from grpc.experimental import gevent as grpc_gevent  # noqa: E402 (patched first)

grpc_gevent.init_gevent()
