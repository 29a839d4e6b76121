"""The hardware checklist, in order. `make test-gpu` runs all of it; `make test` runs on openvino what does not need a GPU."""

from __future__ import annotations

import gc

import pytest
import torch

from build_engine.manifest import Manifest
from ensemble.profiles import CPU, GPU, PROFILES
from ensemble.vision_encoder.encoder import load_encoder
from tests.gpu import checks
from tests.gpu.checks import Subject
from tests.gpu.conftest import ENCODERS, WITHOUT_GPU, Target
from tests.gpu.report import Report

pytestmark = pytest.mark.server


@pytest.mark.parametrize("target", ENCODERS, indirect=True)
def test_2_vision_rows(target: Target, report: Report) -> None:
    with report.line(2, "vision encoder against transformers", target.name) as figures:
        manifest = Manifest.read(target.engines)
        config = PROFILES[GPU if manifest.target == "tensorrt-llm" else CPU]
        encoder = load_encoder(target.engines, manifest, config)
        figures |= checks.vision_rows(encoder, target.teacher)
        # The server needs its memory.
        del encoder
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def test_3_a_long_answer_equals_transformers(subject: Subject, report: Report) -> None:
    with report.line(3, "200 and more tokens against transformers", subject.name) as figures:
        figures |= checks.long_answer(subject)


def test_4_unequal_visual_counts_at_once(subject: Subject, report: Report) -> None:
    with report.line(4, "0 to 5 pictures a request, all at once", subject.name) as figures:
        figures |= checks.unequal_visual_counts(subject)


def test_5_chunked_context(subject: Subject, report: Report) -> None:
    with report.line(5, "prompt prefilled in chunks", subject.name) as figures:
        figures |= checks.chunked_context(subject)


def test_6_prefix_reuse(subject: Subject, report: Report) -> None:
    with report.line(6, "KV reuse with the same and with other pictures", subject.name) as figures:
        figures |= checks.prefix_reuse(subject)


def test_7_stop_and_cancel(subject: Subject, report: Report) -> None:
    with report.line(7, "stop string and cancel", subject.name) as figures:
        # The tiny model makes a thousand tokens a second on processors that other tests share: no time is asserted there.
        figures |= checks.stop_and_cancel(subject, seconds=None if subject.name in WITHOUT_GPU else 0.5)


def test_8_adapters(subject: Subject, report: Report) -> None:
    with report.line(8, "adapters by request", subject.name) as figures:
        figures |= checks.unknown_adapter(subject) | checks.adapters(subject)


def test_9_throughput(subject: Subject, report: Report) -> None:
    with report.line(9, "throughput", subject.name) as figures:
        few = {"levels": (1, 4), "rounds": 1, "tokens": 24} if subject.name in WITHOUT_GPU else {}
        figures |= checks.throughput(subject, **few)


def test_10_drain(subject: Subject, report: Report) -> None:
    """Last: it ends the server."""
    with report.line(10, "drain on SIGTERM", subject.name) as figures:
        figures |= checks.drain(subject)
