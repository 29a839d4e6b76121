"""Users in one process overlap, and they do so only because gRPC was told of gevent.

The server answers only when four requests are there at once. Users who wait for each other get no answer from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.fake_triton import ANSWER, Call, FakeTriton, Request, Script
from tests.loadtests.command import python

USERS = 4

# `init` "without" takes the call away that `greenlets` makes; everything else is as in a load test.
PROGRAM = """
import signal, sys
signal.alarm(0 if sys.argv[2] == "with" else 5)  # a process that is stuck cannot end itself in any other way
from gevent import monkey
monkey.patch_all()
from grpc.experimental import gevent as grpc_gevent
if sys.argv[2] == "without":
    grpc_gevent.init_gevent = lambda: None
from loadtests import greenlets, targets
targets.TIMEOUT_S.update(first_token=3.0, connect=3.0)
import gevent
from loadtests.scenarios import Question
from loadtests.trace import now
traces = []
to = targets.Targets([sys.argv[1]], traces.append)
question = Question("text-only", ({"role": "user", "content": "Hello"},), (), (), 8, 0.0, False)
users = [gevent.spawn(to.ask, question, now()) for _ in range(4)]
gevent.joinall(users, timeout=30)
print(sorted(trace.outcome for trace in traces))
import os
sys.stdout.flush()
os._exit(0)
"""


def together(seconds: float) -> Callable[[Request], Script]:
    """Answers that wait until USERS requests wait for them; alone they break off."""
    barrier = threading.Barrier(USERS, timeout=seconds)
    return lambda _: [Call(barrier.wait), *ANSWER]


def test_users_overlap() -> None:
    with FakeTriton(together(30)) as triton:
        assert python(PROGRAM, triton.url, "with").strip() == str(["complete"] * USERS)


def test_without_the_first_step_they_do_not() -> None:
    with FakeTriton(together(3)) as triton:
        told = python(PROGRAM, triton.url, "without", ends=False)
    assert "complete" not in told
