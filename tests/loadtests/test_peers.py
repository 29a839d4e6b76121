"""Peers: the pipe to another interpreter, and the model that is written for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests.benchmarks import language_model, shapes
from loadtests.benchmarks.peers import llama_cpp, qwen3
from loadtests.benchmarks.peers.answers import SteppedModel
from loadtests.benchmarks.peers.process import KINDS, Peer, PeerFailed

RUNTIME = """
import os, subprocess, sys, time
from loadtests.benchmarks.peers.answers import Model, serve

class Fake(Model):
    packages = ("numpy",)
    def __init__(self):
        print("a banner on stdout")
        os.system("echo another, of a child")
    def decode_seconds(self, prompts, steps):
        assert {len(prompt) for prompt in prompts} == {64}
        if steps > 100:
            raise ValueError("too many steps")
        if steps > 50:
            sys.exit("out of memory")
        return len(prompts) * steps / 10
    def prefill_seconds(self, prompts):
        assert all(0 <= token < 7 for prompt in prompts for token in prompt)
        return sum(map(len, prompts)) / 100

serve(Fake, 7)
"""
Start = Callable[[str], Peer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    peers = []

    def started(program: str) -> Peer:
        path = tmp_path / "runtime.py"
        path.write_text(program, encoding="utf-8")
        peers.append(Peer([sys.executable, str(path)]))
        return peers[-1]

    yield started
    for peer in peers:
        peer.close()


def state(peer: Peer) -> str:
    return Path(f"/proc/{peer.pid}/stat").read_text().rpartition(") ")[2][0]


def test_seconds_become_tokens_per_second(start: Start) -> None:
    peer = start(RUNTIME)
    assert peer.versions.keys() == {"numpy"}
    assert peer.decode(8, 4) == pytest.approx(10)
    assert peer.prefill((512,)) == pytest.approx(100)
    assert peer.prefill((31, 70)) == pytest.approx(100)


def test_a_peer_stands_still_while_others_are_measured(start: Start) -> None:
    peer = start(RUNTIME)
    assert state(peer) == "T"
    peer.decode(1, 1)
    assert state(peer) == "T"


def test_an_error_is_told_and_the_peer_goes_on(start: Start) -> None:
    peer = start(RUNTIME)
    with pytest.raises(PeerFailed, match="too many steps"):
        peer.decode(1, 101)
    assert peer.decode(1, 1) == pytest.approx(10)


def test_the_last_words_of_a_peer_that_ends(start: Start) -> None:
    with pytest.raises(PeerFailed, match=r"(?s)exit code 1: .*No module named 'not_installed'"):
        start("import not_installed")
    peer = start(RUNTIME)
    with pytest.raises(PeerFailed, match=r"(?s)exit code 1: .*out of memory"):
        peer.decode(1, 60)


def test_a_stopped_peer_can_be_closed_twice(start: Start) -> None:
    peer = start(RUNTIME)
    peer.close()
    peer.close()
    assert not Path(f"/proc/{peer.pid}").exists()


def members(group: int) -> list[str]:
    """Processes of a group that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def test_a_peer_and_what_it_started_end_with_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    """They stand still when it happens, with gigabytes in their hands."""
    (tmp_path / "runtime.py").write_text(
        RUNTIME.replace("os.system", "subprocess.Popen(['sleep', '60']); os.system")
    )
    program = (
        "import sys, time\nfrom loadtests.benchmarks.peers.process import Peer\n"
        f"print(Peer([sys.executable, {str(tmp_path / 'runtime.py')!r}]).pid, flush=True)\ntime.sleep(60)\n"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert benchmark.stdout is not None
    with benchmark.stdout:
        group = int(benchmark.stdout.readline())
    try:
        assert len(members(group)) == 2
        benchmark.kill()
        benchmark.wait()
        end = time.monotonic() + 10
        while members(group) and time.monotonic() < end:
            time.sleep(0.02)
        assert members(group) == []
    finally:
        benchmark.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


class Stepped(SteppedModel):
    """Prompts of 2 are done a step after those of 1, as if they did not fit."""

    def submit(self, prompts: object, new_tokens: int) -> None:
        self.most, self.steps = new_tokens, 0

    def step(self) -> list[int]:
        self.steps += 1
        return [min(self.steps, self.most), min(self.steps - 1, self.most)]


def test_decoding_counts_from_the_last_first_token() -> None:
    model = Stepped()
    model.prefill_seconds([[0], [0, 0]])
    assert model.steps == 2
    model.decode_seconds([[0], [0, 0]], 3)
    assert model.steps == 5


def test_the_text_part_alone_gives_the_same_logits(tmp_path: Path) -> None:
    import torch
    from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

    whole = shapes.checkpoint("tiny", 0, tmp_path)
    text = qwen3.write(whole, tmp_path / "text")
    assert qwen3.write(whole, text) == text
    ids = torch.arange(20)[None] * 7
    with torch.inference_mode():
        ours = Qwen3ForCausalLM.from_pretrained(text, dtype=torch.float32)(input_ids=ids).logits
        theirs = Qwen3VLForConditionalGeneration.from_pretrained(whole, dtype=torch.float32)(input_ids=ids)
    assert torch.equal(ours, theirs.logits)


def test_every_tensor_has_a_name_in_gguf(tmp_path: Path) -> None:
    text = qwen3.write(shapes.checkpoint("tiny", 0, tmp_path), tmp_path / "text")
    found = {name: values.shape for name, values in llama_cpp.tensors(text / "model.safetensors")}
    assert len(found) == 2 + 2 * 11
    assert found["token_embd.weight"] == (2048, 64)
    assert found["blk.1.ffn_down.weight"] == (64, 128)


@pytest.mark.parametrize("given", ["tgi-int8=python", "genai-int8=/no/such/python", "genai-int8"])
def test_a_wrong_peer_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        language_model.main(["--peer", given])
    assert given.partition("=")[0] in capsys.readouterr().err


def test_saved_command_lines_name_no_directory() -> None:
    for name in KINDS:
        for given in (["--peer", f"{name}=/a/b/python"], [f"--peer={name}=/a/b/python"]):
            assert not any("/" in part for part in language_model.without_paths(given))
    assert language_model.without_paths(["--label", "a=b"]) == ["--label", "a=b"]
