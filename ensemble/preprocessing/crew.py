"""Does one thing to several items side by side, as far as threads and memory go. It knows costs and order, no pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST: Final = 4
"""Threads by default: they serve one request, and other requests want processors as well."""


class Crew:
    """Threads that wait for work. It pays for what leaves Python's lock alone, as decoders do.

    Args:
        threads: 0: as many as there are processors, at most 4.
        budget: what items under way may cost together. One that costs more is done alone.
    """

    def __init__(self, threads: int, budget: int) -> None:
        self._threads = threads or min(_MOST, len(os.sched_getaffinity(0)))
        self._budget = budget
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="crew")

    def each(
        self, items: Sequence[_Item], cost: Callable[[_Item], int], work: Callable[[_Item], _Result]
    ) -> list[_Result]:
        """The results of `work`, in the order of the items, which is the order they are begun in.

        After one has failed no further one is begun. The error is that of the first item that failed, the same one that
        work in turns would meet, and is raised when nothing is under way any more.
        """
        if self._threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        begun: list[Future[_Result]] = []
        under_way: dict[Future[_Result], int] = {}
        for item in items:
            price = cost(item)
            while under_way and not self._has_room(under_way, price):
                for ended in wait(under_way, return_when=FIRST_COMPLETED).done:
                    del under_way[ended]
            if any(future.done() and future.exception() for future in begun):
                break
            future = self._pool.submit(work, item)
            begun.append(future)
            under_way[future] = price
        wait(begun)
        return [future.result() for future in begun]

    def _has_room(self, under_way: dict[Future[_Result], int], price: int) -> bool:
        return len(under_way) < self._threads and sum(under_way.values()) + price <= self._budget
