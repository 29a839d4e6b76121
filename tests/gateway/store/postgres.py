"""A PostgreSQL server for tests, as far as this machine has one: the Debian package and psycopg."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing() -> str:
    """What a test with PostgreSQL would need, "" if it is all here."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    if _program("initdb") is None:
        return "PostgreSQL is not installed (apt: postgresql)"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL does not run as root, and there is no account postgres"
    return ""


@contextmanager
def running() -> Iterator[str]:
    """The URL of a new server, up to the slash before a database's name; its owner is "gateway"."""
    account = _account() if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as root:
        if account is not None:
            os.chown(root, account.pw_uid, account.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = f"{root}/data"

        def call(program: str, *arguments: str) -> None:
            subprocess.run(
                [str(_program(program)), *arguments],
                check=True,
                cwd=root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                timeout=60,
            )

        call("initdb", "-D", data, "-U", "gateway", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {root} -F"
        call("pg_ctl", "-D", data, "-l", f"{root}/log", "-o", options, "-w", "start")
        try:
            yield f"postgresql+psycopg://gateway@127.0.0.1:{port}/"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def _program(name: str) -> Path | None:
    places = [Path(found)] if (found := shutil.which(name)) else []
    places += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return places[-1] if places else None
