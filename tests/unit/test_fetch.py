"""`fetch` from a hub and from S3: what is fetched, checked, continued, refused, and what the refusal says."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from safetensors.numpy import save_file

from build_engine.__main__ import main
from build_engine.checkpoint import Checkpoint
from build_engine.volume import ABSENT, FAILED, FINE, WRONG_USE, download, fit, lock
from build_engine.volume.record import FILE_NAME, Record
from tests.hub import COMMIT, HubServer, serving_hub

ROOT = Path(__file__).parents[2]
SHARD = "model-00002-of-00002.safetensors"
NEEDED = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "preprocessor_config.json", "video_preprocessor_config.json", "model.safetensors.index.json",
    "model-00001-of-00002.safetensors", SHARD,
}  # fmt: skip


@pytest.fixture(scope="module")
def repository(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint as hubs hold them: two shards, one of 14 MB, beside files that nobody needs to build."""
    directory = tmp_path_factory.mktemp("repository") / "demo"
    shutil.copytree(demo_checkpoint, directory)
    first, index = "model-00001-of-00002.safetensors", directory / "model.safetensors.index.json"
    (directory / "model.safetensors").rename(directory / first)
    save_file({"padding": np.random.default_rng(0).integers(0, 255, 14 << 20, np.uint8)}, directory / SHARD)
    names = Checkpoint.read(demo_checkpoint).shards
    index.write_text(json.dumps({"weight_map": {**dict.fromkeys(names._tensors, first), "padding": SHARD}}))
    for name in (
        "README.md",
        ".gitattributes",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "notes.json",
    ):
        (directory / name).write_bytes(b"nobody needs this")
    return directory


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving_hub() as server:
        server.repositories["org/demo"] = repository
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def filled_bucket(s3_endpoint: str, repository: Path) -> Iterator[tuple[Any, str]]:
    """(client, name) of a bucket that holds the checkpoint under models/demo/."""
    session = boto3.session.Session("test", "test", region_name="us-east-1")
    client, name = session.client("s3", endpoint_url=s3_endpoint), f"weights-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    for path in repository.iterdir():
        client.upload_file(str(path), name, f"models/demo/{path.name}")
    client.put_object(Bucket=name, Key="models/demo/older/config.json", Body=b"{}")
    yield client, name
    client.close()


@pytest.fixture
def bucket(
    filled_bucket: tuple[Any, str], s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, str]:
    """The same, with the environment as it is where `fetch` runs."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return filled_bucket


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def fetch(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; (exit code, what it printed)."""

    def run(*arguments: object) -> tuple[int, str]:
        code = main(["fetch", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def names(directory: Path) -> set[str]:
    """Names of what lies there, but for the lock and the record."""
    return {path.name for path in directory.iterdir()} - {FILE_NAME, ".fetch.lock-000001"}


def test_only_what_a_checkpoint_needs_comes_from_a_hub_and_only_once(
    hub: HubServer, repository: Path, tmp_path: Path, fetch: Run
) -> None:
    target = tmp_path / "a" / "weights"
    code, printed = fetch("hf://org/demo", target)
    assert code == FINE, printed
    assert names(target) == NEEDED
    assert all((target / name).read_bytes() == (repository / name).read_bytes() for name in NEEDED)
    record = Record.read(target)
    assert record is not None
    assert (record.source, record.revision, record.commit) == ("hf://org/demo", "main", COMMIT)
    assert all(COMMIT in path for _, path, _ in hub.requests if "/resolve/" in path), (
        "a branch may move in between"
    )
    Checkpoint.read(target)

    hub.requests.clear()
    code, printed = fetch("hf://org/demo@main", target)
    assert (code, hub.requests) == (FINE, []), "what is complete needs no network"
    assert "already" in printed


def test_the_digests_of_a_fetch_spare_reading_the_weights_again(
    hub: HubServer, tmp_path: Path, fetch: Run
) -> None:
    assert fetch("hf://org/demo", tmp_path)[0] == FINE
    checkpoint, record = Checkpoint.read(tmp_path), Record.read(tmp_path)
    assert record is not None
    assert all(record.digest(path) for path in checkpoint.shards.files)
    assert fit.content_hash(checkpoint) == checkpoint.content_hash()
    with (tmp_path / SHARD).open("r+b") as file:  # as long as before, another content
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    assert record.digest(tmp_path / SHARD) is None
    assert fit.content_hash(checkpoint) == checkpoint.content_hash()


def test_a_killed_fetch_is_continued_where_it_was(
    hub: HubServer, repository: Path, tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "model-00001-of-00002.safetensors"
    hub.stop_at[SHARD] = 11 << 20
    killed = subprocess.Popen(
        [sys.executable, "-m", "build_engine", "fetch", "hf://org/demo", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert hub.stalled.wait(60)
        _until(lambda: _part_size(tmp_path, SHARD))
        # Files come several at once: nothing says that this one was there first.
        _until(lambda: _part_size(tmp_path, first) == (repository / first).stat().st_size)
        assert not (tmp_path / "config.json").exists(), "a part looks like a checkpoint"
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    had = _part_size(tmp_path, SHARD)
    hub.requests.clear()
    _dead_after(monkeypatch, 0.2)
    code, printed = fetch("hf://org/demo", tmp_path)
    assert code == FINE, printed
    assert f"process {killed.pid}" in printed, "it does not say whom it waited for"
    assert (SHARD, f"bytes={had}-") in hub.downloads()
    assert first not in [name for name, given in hub.downloads() if given is None], (
        "a finished file came again"
    )
    assert names(tmp_path) - {".fetch.lock-000002"} == NEEDED


def test_of_several_calls_one_fetches(hub: HubServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build_engine", "fetch", "hf://org/demo", str(tmp_path)]
    calls = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [call.communicate(timeout=60)[0] for call in calls]
    assert [call.returncode for call in calls] == [FINE] * 3
    assert sum("fetching" in text for text in printed) == 1
    assert len(hub.downloads()) == len(NEEDED)


def test_damage_on_the_way_is_noticed_and_repaired_by_the_next_call(
    hub: HubServer, tmp_path: Path, fetch: Run
) -> None:
    hub.damaged.add(SHARD)
    code, printed = fetch("hf://org/demo", tmp_path)
    assert code == FAILED
    assert f"{SHARD} came damaged" in printed
    hub.damaged.clear()
    assert fetch("hf://org/demo", tmp_path)[0] == FINE
    Checkpoint.read(tmp_path)


def test_a_killed_publication_is_finished_without_the_network(
    hub: HubServer, tmp_path: Path, fetch: Run
) -> None:
    assert fetch("hf://org/demo", tmp_path)[0] == FINE
    record = Record.read(tmp_path)
    assert record is not None
    part = tmp_path / ".part"
    part.mkdir()
    for name in ("config.json", SHARD):
        (tmp_path / name).rename(part / name)
    record.write(part)
    (tmp_path / FILE_NAME).unlink()
    hub.requests.clear()
    assert fetch("hf://org/demo", tmp_path)[0] == FINE
    assert hub.requests == []
    assert {*names(tmp_path)} - {".fetch.lock-000002"} == NEEDED


def test_a_directory_looks_like_a_checkpoint_when_it_is_one_and_not_before(
    hub: HubServer, tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        made = replace(path, target)
        if target.parent == tmp_path:
            here = names(tmp_path) >= NEEDED
            assert (tmp_path / "config.json").exists() == here, f"{target.name} came in the wrong order"
            seen.append(here)
        return made

    monkeypatch.setattr(Path, "replace", watched)
    assert fetch("hf://org/demo", tmp_path)[0] == FINE
    assert fetch("hf://org/demo", tmp_path, "--force")[0] == FINE
    assert seen.count(False) > 2
    assert seen[-1]


@pytest.mark.parametrize(
    ("source", "token", "code", "say"),
    [
        ("hf://org/demo", "wrong", FAILED, "refuses HF_TOKEN (401)"),
        ("hf://org/demo", None, ABSENT, "private, and HF_TOKEN is not set"),
        ("hf://org/none", "right", ABSENT, "does not exist on http://127.0.0.1"),
        ("hf://org/demo@v9", "right", ABSENT, "has no revision 'v9'"),
        ("hf://org/gated", "right", FAILED, "is gated: accept its terms on http://127.0.0.1"),
        ("hf://org/text", "right", ABSENT, "has no config.json"),
        ("hf://org/other", "right", ABSENT, "config.json"),
    ],
)
def test_what_a_hub_refuses_is_explained(
    source: str, token: str | None, code: int, say: str,
    hub: HubServer, tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hub.token = "right"
    hub.gated.add("org/gated")
    for name, content in {
        "text": {},
        "other": {"config.json": '{"model_type": "llama"}'},
        "gated": {},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
        hub.repositories[f"org/{name}"] = tmp_path / name
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    got, printed = fetch(source, tmp_path / "weights")
    assert got == code
    assert say in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "weights" / "config.json").exists()


def test_offline_is_respected(
    hub: HubServer, tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch("hf://org/demo", tmp_path / "there")[0] == FINE
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

    def call(directory: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "build_engine", "fetch", "hf://org/demo", str(directory)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    refused = call(tmp_path / "new")
    assert (refused.returncode, hub.requests) == (ABSENT, [])
    assert "HF_HUB_OFFLINE forbids" in refused.stderr
    assert call(tmp_path / "there").returncode == FINE


def test_a_mirror_that_tells_no_sizes_is_refused(hub: HubServer, tmp_path: Path, fetch: Run) -> None:
    hub.tells_sizes = False
    code, printed = fetch("hf://org/demo", tmp_path)
    assert code == FAILED
    assert "does not tell sizes" in printed


def test_no_network_is_explained(tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, printed = fetch("hf://org/demo", tmp_path)
    assert code == FAILED
    assert "http://127.0.0.1:9 cannot be reached" in printed
    assert "give its path as SOURCE" in printed


def test_a_full_volume_is_told_before_it_is_full(
    hub: HubServer, tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=20 << 20))
    code, printed = fetch("hf://org/demo", tmp_path)
    assert code == FAILED
    assert "too little space" in printed
    assert SHARD not in [name for name, _ in hub.downloads()]


def test_another_source_or_foreign_files_are_left_alone(
    hub: HubServer, repository: Path, tmp_path: Path, fetch: Run
) -> None:
    hub.repositories["org/second"] = repository
    (tmp_path / "lost+found").mkdir()
    assert fetch("hf://org/demo", tmp_path)[0] == FINE
    code, printed = fetch("hf://org/second", tmp_path)
    assert code == ABSENT
    assert "holds hf://org/demo@main, not hf://org/second@main" in printed
    (tmp_path / "old.safetensors").write_bytes(b"mine")
    assert fetch("hf://org/second", tmp_path, "--force")[0] == FINE
    assert (tmp_path / "old.safetensors").read_bytes() == b"mine"
    record = Record.read(tmp_path)
    assert record is not None
    assert record.source == "hf://org/second"

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    code, printed = fetch("hf://org/demo", foreign)
    assert code == ABSENT
    assert f"give {foreign} as SOURCE" in printed
    assert (foreign / "config.json").read_text() == "{}"


def test_from_s3(bucket: tuple[Any, str], repository: Path, tmp_path: Path, fetch: Run) -> None:
    _, name = bucket
    code, printed = fetch(f"s3://{name}/models/demo/", tmp_path)
    assert code == FINE, printed
    assert names(tmp_path) == NEEDED
    assert all((tmp_path / file).read_bytes() == (repository / file).read_bytes() for file in NEEDED)
    assert "already" in fetch(f"s3://{name}/models/demo", tmp_path)[1]


def test_s3_is_continued_where_it_was(
    bucket: tuple[Any, str], repository: Path, tmp_path: Path, fetch: Run, caplog: pytest.LogCaptureFixture
) -> None:
    _, name = bucket
    _limited(f"s3://{name}/models/demo", tmp_path)
    had = _part_size(tmp_path, SHARD)
    assert had == 11 << 20
    caplog.set_level(logging.DEBUG, logger="botocore.endpoint")
    assert fetch(f"s3://{name}/models/demo", tmp_path)[0] == FINE
    assert f"'Range': 'bytes={had}-'" in caplog.text
    assert (tmp_path / SHARD).read_bytes() == (repository / SHARD).read_bytes()


def test_a_part_of_another_version_is_not_continued(
    bucket: tuple[Any, str], repository: Path, tmp_path: Path, fetch: Run
) -> None:
    client, name = bucket
    _limited(f"s3://{name}/models/demo", tmp_path)
    had = _part_size(tmp_path, SHARD)
    kept = client.get_object(Bucket=name, Key=f"models/demo/{SHARD}")["Body"].read()
    try:
        save_file({"padding": np.zeros(14 << 20, np.uint8)}, tmp_path / "changed")
        client.upload_file(str(tmp_path / "changed"), name, f"models/demo/{SHARD}")
        changed = (tmp_path / "changed").read_bytes()
        (tmp_path / "changed").unlink()
        assert len(changed) == len(kept) > had > 0
        code, printed = fetch(f"s3://{name}/models/demo", tmp_path)
        assert code == FINE, printed
        assert (tmp_path / SHARD).read_bytes() == changed
    finally:
        client.put_object(Bucket=name, Key=f"models/demo/{SHARD}", Body=kept)


@pytest.mark.parametrize(
    ("source", "code", "say"),
    [
        (
            "s3://no-such-bucket-here/models",
            ABSENT,
            "there is no bucket 'no-such-bucket-here' at http://127.0.0.1",
        ),
        ("s3://{bucket}/modles", ABSENT, "nothing lies under 'modles/'"),
        ("s3://{bucket}/models", ABSENT, "give the prefix of the files themselves"),
        ("s3://{bucket}/models/demo/older", ABSENT, "config.json"),
        ("s4://{bucket}/models", WRONG_USE, "none of hf://ORG/NAME"),
        ("hf://only-a-name", WRONG_USE, "none of hf://ORG/NAME"),
    ],
)
def test_what_s3_lacks_is_explained(
    source: str, code: int, say: str, bucket: tuple[Any, str], tmp_path: Path, fetch: Run
) -> None:
    got, printed = fetch(source.format(bucket=bucket[1]), tmp_path)
    assert got == code
    assert say in printed
    assert names(tmp_path) - {".part"} == set()


def test_s3_without_keys_and_without_a_server_is_explained(
    bucket: tuple[Any, str], tmp_path: Path, fetch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    code, printed = fetch(f"s3://{bucket[1]}/models/demo", tmp_path)
    assert code == FAILED
    assert "no keys. Set AWS_ACCESS_KEY_ID" in printed
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    code, printed = fetch(f"s3://{bucket[1]}/models/demo", tmp_path)
    assert code == FAILED
    assert "http://127.0.0.1:9" in printed


def test_a_local_path_is_only_checked(demo_checkpoint: Path, tmp_path: Path, fetch: Run) -> None:
    before = sorted(path.stat().st_mtime_ns for path in demo_checkpoint.rglob("*"))
    assert fetch(demo_checkpoint)[0] == fetch(demo_checkpoint, demo_checkpoint)[0] == FINE
    assert sorted(path.stat().st_mtime_ns for path in demo_checkpoint.rglob("*")) == before
    code, printed = fetch(demo_checkpoint, tmp_path / "elsewhere")
    assert code == WRONG_USE
    assert "is not copied" in printed
    code, printed = fetch(tmp_path / "nothing")
    assert code == ABSENT
    assert "is not a directory" in printed
    code, printed = fetch("hf://org/demo")
    assert code == WRONG_USE
    assert "DIRECTORY is missing" in printed


def test_progress_is_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_LINE_EVERY_S", 0.0)
    with download._Progress(4_000_000_000) as progress:
        progress.show(1_000_000_000)
        time.sleep(0.01)
        progress.show(2_000_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("2.00 GB of 4.00 GB (")


def _limited(source: str, directory: Path) -> None:
    """A fetch whose files end at 11 MB, as on a full disk."""
    command = [sys.executable, "-m", "build_engine", "fetch", source, str(directory)]
    call = subprocess.run(
        ["prlimit", f"--fsize={11 << 20}", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert call.returncode == FAILED, call.stderr
    assert "File too large" in call.stderr
    assert "Traceback" not in call.stderr


def _part_size(directory: Path, name: str) -> int:
    return max((path.stat().st_size for path in directory.glob(f".part/*/{name}")), default=0)


def _until(what: Callable[[], int]) -> int:
    end = time.monotonic() + 60
    while not (value := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def _dead_after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(lock, "STALE_S", seconds)
    monkeypatch.setattr(lock, "POLL_S", seconds / 4)
