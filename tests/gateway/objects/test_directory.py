"""Media as files: no half files, no files of others, a full or broken disk said as such."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import pytest

from gateway.errors import Unavailable
from gateway.objects import Objects
from gateway.records import Media

LARGE = Media("video", os.urandom(1 << 20) * 8, "video/mp4", "e" * 64, 64, 48)
SMALL = Media("image", b"small", "image/png", "d" * 64, 1, 1)


def files(root: Path) -> list[Path]:
    return [file for file in root.rglob("*") if file.is_file()]


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable):
        asyncio.run(Objects(str(tmp_path)).put("shop", SMALL))
    assert files(tmp_path) == []


def test_a_directory_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        asyncio.run(objects.put("shop", SMALL))
    for reach in (objects.get, objects.delete):
        with pytest.raises(Unavailable):
            asyncio.run(reach("shop", "a" * 32))


def test_a_file_outside_is_not_deleted(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    objects = Objects(str(tmp_path / "objects"))
    asyncio.run(objects.put("shop", SMALL))
    for up in ("../../../victim", "../../victim", str(victim)):
        with pytest.raises(Exception, match="no such object"):
            asyncio.run(objects.delete("shop", up))
    assert victim.read_bytes() == b"mine"


def puts_for_ever(root: str, told: Connection) -> None:
    objects = Objects(root)
    while True:
        ref = asyncio.run(objects.put("shop", LARGE))
        told.send(ref)


def test_a_killed_process_leaves_no_half_object_under_a_name(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=puts_for_ever, args=(str(tmp_path), theirs))
    process.start()
    theirs.close()
    assert ours.poll(60)
    time.sleep(0.15)
    process.kill()
    process.join(30)
    told = set()
    try:
        while True:
            told.add(ours.recv().object_id)
    except EOFError:
        pass
    ours.close()
    listed = {object_id for _, object_id, _ in Objects(str(tmp_path)).stored()}
    assert told <= listed
    whole = [file for file in files(tmp_path) if file.suffix != ".part"]
    assert {file.name for file in whole} == listed
    assert {file.stat().st_size for file in whole} == {len(LARGE.data)}
