"""Command line: render the model repository, check that it is up to date, serve it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ensemble import repository
from ensemble.config import DeploymentConfig

_SERVE = """\
Start Triton with the engines, wait until it is ready, and run until SIGINT or SIGTERM. Then requests in
flight are finished and new ones refused; a second signal cuts them. Exit code 0: all were finished;
1: something was cut, or died, or did not start; 2: something is missing.
"""
_EXAMPLES = """\
examples:
  python -m ensemble serve --engines engines/demo-int8
      serve on 127.0.0.1, gRPC 8001, HTTP 8000, metrics 8002, until Ctrl-C
  python -m ensemble serve --engines engines/demo-int8 --free-ports --ready-file ready.json
      for scripts: any free ports; the file appears when the server is ready and names them
  python -m ensemble serve --engines engines/demo-int8 --set kv_cache_bytes=2000000000 --set max_inflight=16
      other limits than the default deployment's (`--set` without a value lists them)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ensemble", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_render(commands.add_parser("render", help="write the config.pbtxt files"))
    _add_check(
        commands.add_parser("check", help="compare the committed config.pbtxt files with their rendering")
    )
    _add_serve(
        commands.add_parser(
            "serve",
            help="run a Triton server",
            description=_SERVE,
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    given = parser.parse_args(arguments)
    return int(given.run(given))


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=repository.COMMITTED, help="default: model_repository")
    parser.set_defaults(run=_render)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository", type=Path, default=repository.COMMITTED, help="default: model_repository"
    )
    parser.set_defaults(run=_check)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engines", type=Path, required=True, help="directory that build_engine wrote")
    parser.add_argument(
        "--checkpoint", type=Path, help="refuse engines that were not built from this checkpoint"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network"
    )
    parser.add_argument("--grpc-port", type=int, default=8001, metavar="N", help="default: 8001")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="N", help="default: 8002")
    parser.add_argument("--free-ports", action="store_true", help="take any free ports instead")
    parser.add_argument(
        "--ready-file", type=Path, metavar="PATH",
        help="write JSON there when ready: pid, triton_pid, host, grpc_port, http_port, metrics_port",
    )  # fmt: skip
    parser.add_argument(
        "--ready-timeout", type=float, default=600, metavar="S", help="seconds to load, default: 600"
    )
    parser.add_argument("--log-dir", type=Path, help="keep Triton's log there; default: a temporary file")
    parser.add_argument(
        "--tritonserver", type=Path, metavar="PATH", help="this tritonserver, not the one found"
    )
    parser.add_argument("--verbose", action="store_true", help="Triton's verbose log")
    parser.add_argument(
        "--set", nargs="?", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="change a field of the deployment (ensemble/config.py); without a value: list them",
    )  # fmt: skip
    parser.set_defaults(run=_serve)


def _render(given: argparse.Namespace) -> int:
    for file in repository.write_configs(given.output, DeploymentConfig()):
        print(file)
    return 0


def _check(given: argparse.Namespace) -> int:
    difference = repository.difference(given.repository, DeploymentConfig())
    if difference:
        print(difference, end="")
        print("out of date; run: python -m ensemble render", file=sys.stderr)
        return 1
    return 0


def _serve(given: argparse.Namespace) -> int:
    # Only here: rendering needs no Triton, and `--help` should be quick.
    from ensemble.preflight import Ports, check_engines, check_installation, choose_ports
    from ensemble.server import ServerDiedError, Settings, serve
    from ensemble.startup import StartError
    from ensemble.tritonserver import MissingError, find

    try:
        config = changed(DeploymentConfig(engines=given.engines.resolve()), given.changes)
        check_engines(config.engines, given.checkpoint)
        triton = find(given.tritonserver)
        check_installation()
        wanted = (
            Ports(0, 0, 0)
            if given.free_ports
            else Ports(given.grpc_port, given.http_port, given.metrics_port)
        )
        settings = Settings(
            host=given.host,
            ports=choose_ports(given.host, wanted),
            log_dir=given.log_dir,
            ready_file=given.ready_file,
            ready_timeout_s=given.ready_timeout,
            verbose=given.verbose,
        )
        return serve(config, settings, triton)
    except (MissingError, ValueError) as error:
        print(f"cannot serve: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"did not start: {error}", file=sys.stderr)
        return 1
    except ServerDiedError as error:
        print(f"died: {error}", file=sys.stderr)
        return 1


def changed(config: DeploymentConfig, changes: Sequence[str | None]) -> DeploymentConfig:
    """The configuration with FIELD=VALUE changes; ValueError lists the fields and what they are now."""
    own = {f.name: config for f in fields(config) if f.name not in ("engines", "media")}
    holders = own | {f"media.{f.name}": config.media for f in fields(config.media)}
    listing = "\n".join(
        f"  {name}={getattr(holder, name.split('.')[-1])}" for name, holder in holders.items()
    )
    for change in changes:
        name, equals, text = (change or "").partition("=")
        if name not in holders or not equals:
            raise ValueError(
                f"--set takes FIELD=VALUE, not {change or 'nothing'!r}; the fields and their values:\n{listing}"
            )
        now = getattr(holders[name], name.split(".")[-1])
        value = _parsed(text, now, name)
        if name.startswith("media."):
            config = replace(config, media=replace(config.media, **{name.removeprefix("media."): value}))
        else:
            config = replace(config, **{name: value})
    return config


def _parsed(text: str, now: Any, name: str) -> Any:
    """The text as the type that the field has now."""
    kind = type(now)
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"--set {name}={text}: true or false")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"--set {name}={text}: {kind.__name__} wanted, as in {name}={now}") from None


if __name__ == "__main__":
    sys.exit(main())
