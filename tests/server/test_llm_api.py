"""The runtime tensorrt-llm-pytorch on a real Triton, with a fake of TensorRT-LLM's LLM class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qwen3vl_client import Client, InvalidVideo

from build_engine.build import build
from build_engine.checkpoint import Checkpoint
from build_engine.described import Described
from ensemble.__main__ import main
from ensemble.process import find_stubs
from tests.conversations import IMAGE, VIDEO, moving, said, user
from tests.reference import clip, png
from tests.server.triton import Server, serving

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def described(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("described") / "demo"
    build(Checkpoint.read(demo_checkpoint), directory, Described(), {}, force=False)
    return directory


@pytest.fixture(scope="module")
def pytorch(described: Path) -> Iterator[Server]:
    with serving(described, program="tests.llm_api.serve") as running:
        yield running


def test_a_described_checkpoint_holds_no_engines(described: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in described.iterdir()} == {"engine_manifest.json", "checkpoint"}
    assert main(["serve", "--engines", str(described)]) == 2
    assert "--profile gpu-pytorch --set llm_api.model=CHECKPOINT" in capsys.readouterr().err


def test_the_public_model_is_the_same(pytorch: Server) -> None:
    with Client(pytorch.grpc_url) as client:
        reply = client.chat([user(IMAGE, said("Hello"))], images=[png(70, 100, 1)], max_tokens=9)
        assert reply.finish_reason == "stop"
        # The fake answers with the sizes of the pictures, the prompt's length, and the end token.
        assert [size % 32 for size in reply.token_ids[:2]] == [0, 0]
        assert reply.token_ids[2] == reply.usage.prompt_tokens
        assert reply.usage.completion_tokens == 4
        assert reply.confidence == pytest.approx(2.718281828 ** -(0.25 * (1 + 2 + 3 + 4) / 4), rel=1e-4)
        with pytest.raises(InvalidVideo, match="pictures only"):
            client.chat([user(VIDEO)], videos=[clip(moving(1), 5)])


def test_a_caller_that_leaves_ends_its_request(pytorch: Server) -> None:
    with Client(pytorch.grpc_url) as client:
        with client.stream("Hello", max_tokens=100_000) as stream:
            next(iter(stream))
    # `serving` checks that the server drains at once: it would wait for a request that runs on.


def test_the_processes_below_the_launcher_are_watched(pytorch: Server) -> None:
    assert {stub.model for stub in find_stubs(pytorch.triton_pid)} == {"qwen3_vl", "tensorrt_llm"}
