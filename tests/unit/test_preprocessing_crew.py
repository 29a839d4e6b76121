"""Several pictures of a request at once: same tensors, same errors, and no more memory than one large picture takes."""

from __future__ import annotations

import dataclasses
import io
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ensemble.config import MediaLimits
from ensemble.errors import InvalidImage, InvalidVideo
from ensemble.preprocessing import preprocessor as preprocessors
from ensemble.preprocessing.crew import Crew
from tests.demo_preprocessor import prepare, preprocessor
from tests.reference import clip

WAIT_S = 20.0


def one(_: Any) -> int:
    return 1


class Gauge:
    """What is under way, and the most that ever was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0
        self.begun: list[int] = []

    def work(self, cost: Callable[[int], int], seconds: Callable[[int], float]) -> Callable[[int], int]:
        def work(item: int) -> int:
            with self._lock:
                self.begun.append(item)
                self.now += cost(item)
                self.most = max(self.most, self.now)
            time.sleep(seconds(item))
            with self._lock:
                self.now -= cost(item)
            return item * item

        return work


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(WAIT_S), "the second one is not begun beside the first"
        else:
            second.set()
        return item * item

    assert Crew(2, 10).each(range(5), one, work) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize(("threads", "budget", "most"), [(3, 100, 3), (8, 2, 2), (4, 1, 1)])
def test_threads_and_budget_are_reached_and_kept(threads: int, budget: int, most: int) -> None:
    together = threading.Barrier(most)

    gauge = Gauge()
    counted = gauge.work(one, lambda item: 0.001)

    def work(item: int) -> int:
        if item < most:
            together.wait(WAIT_S)  # breaks if they are not under way at once
        return counted(item)

    crew = Crew(threads, budget)
    for _ in range(3):
        assert crew.each(range(20), one, work) == [item * item for item in range(20)]
    assert gauge.most <= most


def test_random_costs_never_exceed_the_budget_and_a_dear_item_is_alone() -> None:
    dice = random.Random(1)
    costs = [dice.choice([1, 2, 5, 9, 30]) for _ in range(60)]
    gauge = Gauge()
    work = gauge.work(costs.__getitem__, lambda item: dice.random() / 500)
    Crew(4, 10).each(range(60), costs.__getitem__, work)
    assert gauge.most == 30, "a dear item had company"
    assert gauge.now == 0


def test_the_error_is_the_first_items_and_nothing_is_begun_after_one() -> None:
    gauge, failed = Gauge(), threading.Event()

    def work(item: int) -> int:
        gauge.work(one, lambda item: 0)(item)
        if item == 1:
            failed.set()
            raise ValueError("one")
        if item == 0:
            assert failed.wait(WAIT_S)
            time.sleep(0.05)
            raise ValueError("zero")
        return item

    with pytest.raises(ValueError, match="zero"):
        Crew(2, 100).each(range(50), one, work)
    assert gauge.now == 0, "nothing is under way any more"
    assert len(gauge.begun) < 5


def test_an_error_waits_for_those_that_are_under_way() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            assert begun.wait(WAIT_S)
            raise ValueError("zero")
        begun.set()
        time.sleep(0.1)
        ended.set()

    with pytest.raises(ValueError, match="zero"):
        Crew(2, 100).each(range(2), one, work)
    assert ended.is_set()


def test_one_thread_or_one_item_is_the_callers_own_thread() -> None:
    threads: list[Any] = []
    Crew(1, 1).each(range(3), one, lambda item: threads.append(threading.current_thread()))
    Crew(4, 9).each(range(1), one, lambda item: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()] * 4
    assert Crew(4, 9).each([], one, one) == []


def test_callers_of_several_threads_get_their_own_results() -> None:
    crew = Crew(3, 5)
    found: dict[int, list[int]] = {}

    def ask(caller: int) -> None:
        found[caller] = crew.each(range(30), one, lambda item: caller * 1000 + item)

    callers = [threading.Thread(target=ask, args=(caller,)) for caller in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert found == {caller: [caller * 1000 + item for item in range(30)] for caller in range(8)}


def picture(seed: int, size: tuple[int, int], **options: Any) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
IMAGES = [
    picture(1, (60, 200), exif=TURNED), picture(2, (300, 40)), picture(3, (64, 64)), picture(4, (61, 203)),
    picture(5, (700, 500)), picture(1, (60, 200), exif=TURNED), picture(6, (33, 47)),
]  # fmt: skip
VIDEOS = [
    clip([np.full((64, 96, 3), 20 * at, np.uint8) for at in range(8)], 4),
    clip([np.full((96, 64, 3), 255 - 20 * at, np.uint8) for at in range(6)], 4),
]
ASKED = [
    {"role": "user", "content": [{"type": kind} for kind in ("image", "video", *["image"] * 6, "video")]},
]


@pytest.mark.parametrize("pixels", [64_000_000, 350_000], ids=["all at once", "a budget of one picture"])
def test_tensors_are_the_same_with_any_number_of_threads(tmp_path: Path, pixels: int) -> None:
    limits = dataclasses.replace(MediaLimits(), max_image_pixels=pixels)
    expected = prepare(preprocessor(tmp_path, limits, threads=1), ASKED, IMAGES, VIDEOS, seed=1).tensors()
    for threads in (0, 2, 8):
        made = preprocessor(tmp_path, limits, threads=threads)
        for _ in range(3):
            tensors = prepare(made, ASKED, IMAGES, VIDEOS, seed=1).tensors()
            for name, array in expected.items():
                np.testing.assert_array_equal(tensors[name], array, err_msg=name)


def test_pictures_of_a_request_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    pack = preprocessors.MediaPacker._write

    def meet(*given: Any) -> Any:
        together.wait(WAIT_S)
        return pack(*given)

    monkeypatch.setattr(preprocessors.MediaPacker, "_write", meet)
    asked = [{"role": "user", "content": [{"type": "image"}] * 2}]
    prepare(preprocessor(tmp_path, threads=2), asked, IMAGES[1:3])


@pytest.mark.parametrize("threads", [1, 4])
def test_of_several_broken_items_the_first_is_told(tmp_path: Path, threads: int) -> None:
    images = list(IMAGES)
    images[4], images[5] = images[4][:-4000], images[5][:-4000]
    made = preprocessor(tmp_path, threads=threads)
    for _ in range(5):
        with pytest.raises(InvalidImage, match=r"images\[4\]"):
            prepare(made, ASKED, images, VIDEOS)
    cut = [VIDEOS[0][: len(VIDEOS[0]) * 2 // 3], VIDEOS[1]]
    with pytest.raises(InvalidVideo, match=r"videos\[0\]"):
        prepare(made, ASKED, images, cut)
    prepare(made, ASKED, IMAGES, VIDEOS)  # and goes on
