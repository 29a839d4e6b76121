"""Command line: render the model repository, check that it is up to date, serve it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from build_engine.manifest import Manifest
from ensemble import repository
from ensemble.config import DeploymentConfig
from ensemble.contract import TENSORRT_LLM, TENSORRT_LLM_PYTORCH
from ensemble.profiles import CPU, GPU, GPU_PYTORCH, PROFILES
from ensemble.tensorrtllm import TensorRtLlmBackend

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
    _add_node(commands.add_parser("node", help="hold ranks of an engine that is served on another machine"))
    _add_launch(commands.add_parser("node-launch", help="what `mpirun` runs in place of ssh"))
    given = parser.parse_args(arguments)
    return int(given.run(given))


def _add_render(parser: argparse.ArgumentParser) -> None:
    _add_profile(parser, CPU, f"default: {CPU}, the committed repository")
    parser.add_argument(
        "--engines", type=Path, help="directory that build_engine wrote, as the server will see it; for GPUs"
    )
    parser.add_argument(
        "--output", type=Path, default=repository.COMMITTED,
        help="default: model_repository; elsewhere the model.py files are written too",
    )  # fmt: skip
    _add_set(parser)
    parser.set_defaults(run=_render)


def _add_profile(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    parser.add_argument("--profile", choices=list(PROFILES), default=default, help=text)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", nargs="?", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="change a field of the deployment (ensemble/config.py); without a value: list them",
    )  # fmt: skip


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository", type=Path, default=repository.COMMITTED, help="default: model_repository"
    )
    parser.set_defaults(run=_check)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engines", type=Path, required=True, help="directory that build_engine wrote")
    _add_profile(parser, None, f"default: {CPU} or {GPU}, as the engines are")
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
    parser.add_argument(
        "--silence", type=float, default=30, metavar="S",
        help="end a server that answers nothing for so many seconds; default: 30",
    )  # fmt: skip
    parser.add_argument("--log-dir", type=Path, help="keep Triton's log there; default: a temporary file")
    parser.add_argument(
        "--tritonserver", type=Path, metavar="PATH", help="this tritonserver, not the one found"
    )
    parser.add_argument("--verbose", action="store_true", help="Triton's verbose log")
    parser.add_argument(
        "--trace-url", default="", metavar="URL",
        help="OpenTelemetry collector (HTTP, usually port 4318) for a span of each request that brings a traceparent: in the "
        "headers of a gRPC call, in the body of an HTTP one",
    )  # fmt: skip
    parser.add_argument(
        "--nodes", metavar="HOST,...",
        help="other machines for the ranks of an engine of several GPUs; each runs `python -m ensemble node`. "
        "Default: the workers of the group, in a leader of a LeaderWorkerSet",
    )  # fmt: skip
    _add_set(parser)
    parser.set_defaults(run=_serve)


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen", default="127.0.0.1:8010", metavar="HOST:PORT",
        help="default: 127.0.0.1:8010. Who knows QWEN3VL_NODE_SECRET can run programs here",
    )  # fmt: skip
    parser.set_defaults(run=_node)


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(run=_launch)


def _render(given: argparse.Namespace) -> int:
    try:
        config = PROFILES[given.profile]
        if given.engines is not None:
            config = replace(config, engines=given.engines.resolve())
        elif config.tensorrt_llm is not None:
            raise ValueError(
                f"--profile {given.profile} takes its limits from engines; name them with --engines"
            )
        config = changed(config, given.changes)
        if given.output.resolve() != repository.COMMITTED:
            repository.write(given.output, config)
        for file in repository.write_configs(given.output, config):
            print(file)
    except ValueError as error:
        print(f"cannot render: {error}", file=sys.stderr)
        return 2
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
    from ensemble.command import Settings
    from ensemble.nodes import secret
    from ensemble.nodes.hosts import others
    from ensemble.preflight import (
        Ports,
        check_engines,
        check_gpu,
        check_installation,
        check_llm_api,
        choose_ports,
    )
    from ensemble.server import ServerDiedError, serve
    from ensemble.startup import StartError
    from ensemble.tritonserver import MissingError, find

    try:
        if not given.silence >= 1:
            raise ValueError(f"--silence: got {given.silence:g}; allowed: at least 1 second")
        engines = given.engines.resolve()
        # The LLM API runs no engine: of the directory it needs the manifest and the tokenizer's files.
        manifest = check_engines(engines, given.checkpoint, versions=given.profile != GPU_PYTORCH)
        profile = given.profile or (GPU if manifest.target == TENSORRT_LLM else CPU)
        config = replace(PROFILES[profile], engines=engines, engine_hash=manifest.engine_hash)
        nodes = others(given.nodes, os.environ)
        config = _spread(changed(config, given.changes), nodes)
        if nodes:
            secret.read()
        _check_profile(profile, config, manifest)
        triton = find(given.tritonserver)
        if config.tensorrt_llm is not None:
            check_gpu(TensorRtLlmBackend.read(config), triton)
        if config.llm_api is not None:
            check_llm_api(config.llm_api)
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
            silence_s=given.silence,
            verbose=given.verbose,
            trace_url=given.trace_url,
            nodes=nodes,
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


def _node(given: argparse.Namespace) -> int:
    from ensemble.nodes import secret
    from ensemble.nodes.node import Node

    host, colon, port = given.listen.rpartition(":")
    try:
        if not colon or not port.isdigit():
            raise ValueError(f"--listen: got {given.listen!r}; allowed: HOST:PORT")
        node = Node(host.strip("[]"), int(port), secret.read())
    except (OSError, ValueError, OverflowError) as error:
        print(f"no node: {error}", file=sys.stderr)
        return 2
    print(f"node: waiting for the leader on {host}:{node.port}", file=sys.stderr, flush=True)
    return node.run()


def _launch(given: argparse.Namespace) -> int:
    from ensemble.nodes.launch import main as launch

    return launch([given.host, *given.words])


def _spread(config: DeploymentConfig, nodes: Sequence[str]) -> DeploymentConfig:
    """The deployment over this machine and others."""
    if not nodes:
        return config
    if config.tensorrt_llm is None:
        raise ValueError(
            f"--nodes: got {', '.join(nodes)}; only tensorrt-llm engines have ranks that can be spread"
        )
    return replace(config, tensorrt_llm=replace(config.tensorrt_llm, nodes=1 + len(nodes)))


def _check_profile(profile: str, config: DeploymentConfig, manifest: Manifest) -> None:
    if config.llm_api is None and manifest.target == TENSORRT_LLM_PYTORCH:
        raise ValueError(
            f"{config.engines} holds no engines, only what the PyTorch runtime needs beside a checkpoint; serve it with "
            f"--profile {GPU_PYTORCH} --set llm_api.model=CHECKPOINT"
        )
    if config.llm_api is None and (config.tensorrt_llm is not None) != (manifest.target == TENSORRT_LLM):
        raise ValueError(f"--profile {profile} does not serve {manifest.target} engines; leave it out")


def changed(config: DeploymentConfig, changes: Sequence[str | None]) -> DeploymentConfig:
    """The configuration with FIELD=VALUE changes; ValueError lists the fields and what they are now."""
    groups = {"media": config.media, "tensorrt_llm": config.tensorrt_llm, "llm_api": config.llm_api}
    holders: dict[str, Any] = {
        f.name: config for f in fields(config) if f.name != "engines" and f.name not in groups
    }
    for prefix, group in groups.items():
        if group is not None:
            holders |= {f"{prefix}.{f.name}": group for f in fields(group)}
    listing = "\n".join(
        f"  {name}={getattr(holder, name.split('.')[-1])}" for name, holder in holders.items()
    )
    for change in changes:
        name, equals, text = (change or "").partition("=")
        if name not in holders or not equals:
            raise ValueError(
                f"--set takes FIELD=VALUE, not {change or 'nothing'!r}; the fields and their values:\n{listing}"
            )
        prefix, dot, last = name.rpartition(".")
        value: Any = _parsed(text, getattr(holders[name], last), name)
        if dot:
            value = replace(getattr(config, prefix), **{last: value})
        config = replace(config, **{prefix or name: value})
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
