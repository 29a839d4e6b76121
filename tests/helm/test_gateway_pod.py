"""The pod of the gateway as rendered: its articles are read, its configuration is understood, it answers, it ends."""

from __future__ import annotations

import base64
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.settings import Settings
from tests.helm.chart import CHART, render
from tests.helm.kubelet import command, environment, mapped, running
from tests.server.triton import serving

PROFILES = sorted(file.stem for file in (CHART / "values").glob("*.yaml"))
GPU = CHART / "values" / "gpu-h100.yaml"
SECRETS = {
    "database__url": "postgresql+psycopg://cs:secret@db/cs",
    "cache__url": "rediss://:secret@redis:6379/0",
    "tenants": '{"shop": {"keys": ["k"], "agent_keys": ["a"]}}',
    "kafka__security": '{"sasl.password": "secret"}',
}


def of(objects: list[dict[str, Any]], kind: str, suffix: str) -> dict[str, Any]:
    (found,) = (
        each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)
    )
    return found


def mounted_secret(directory: Path) -> Path:
    """As kubelet lays a secret out: names are links into a hidden directory, so that all change at once."""
    hidden = directory / "..2026_11_23"
    hidden.mkdir(parents=True)
    (directory / "..data").symlink_to(hidden.name)
    for name, value in SECRETS.items():
        (hidden / name).write_text(value)
        (directory / name).symlink_to(f"..data/{name}")
    return directory


@pytest.mark.parametrize("profile", PROFILES)
def test_the_gateway_understands_its_configuration(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(values=[GPU, CHART / "values" / f"{profile}.yaml"])
    file = tmp_path / "gateway.yaml"
    file.write_text(of(objects, "ConfigMap", "-gateway")["data"]["gateway.yaml"])
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    monkeypatch.setenv("GATEWAY_SECRETS_DIR", str(mounted_secret(tmp_path / "secrets")))
    settings = Settings()
    services = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Service"}
    host, port = settings.triton.url.removeprefix("dns:///").split(":")
    assert int(port) in {each["port"] for each in services[host]["ports"]}
    assert settings.tenants["shop"].keys[0].get_secret_value() == "k"
    assert settings.kafka.security["sasl.password"] == "secret"
    assert settings.database.url.get_secret_value() == SECRETS["database__url"], "a secret overrides the file"
    if "production" not in profile:
        for url in (settings.kafka.bootstrap_servers,):
            name, number = url.split(":")
            assert int(number) in {each["port"] for each in services[name]["ports"]}


@pytest.mark.server
def test_it_reads_its_articles_answers_and_ends(demo_engines: Path, tmp_path: Path) -> None:
    objects = render(
        values=[CHART / "values" / "cpu.yaml"],
        sets=[
            "kafka.trial.enabled=false",
            "valkey.trial.enabled=false",
            "server.settings.ocr_instances=0",
            "gateway.drain.unreadySeconds=1",
        ],
    )
    pod = of(objects, "Deployment", "-gateway")["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["gateway"], "without a broker there is no worker"
    directories = {
        "/etc/qwen3vl": "etc",
        "/var/lib/qwen3vl/knowledge": "knowledge",
        "/var/lib/qwen3vl/state": "state",
        "/tmp": "tmp",
    }
    places = {there: str(tmp_path / here) for there, here in directories.items()}
    for here in directories.values():
        (tmp_path / here).mkdir()
    with serving(demo_engines) as triton, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        model = Settings.model_validate(
            yaml.safe_load(of(objects, "ConfigMap", "-gateway")["data"]["gateway.yaml"])
        ).triton.url
        config = mapped(
            of(objects, "ConfigMap", "-gateway")["data"]["gateway.yaml"], {**places, model: triton.grpc_url}
        )
        (tmp_path / "etc" / "gateway.yaml").write_text(config)
        for spec in pod["initContainers"]:
            done = subprocess.run(
                command(spec, places),
                env=environment(spec, places),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        more = ["--host=127.0.0.1", f"--port={port}"]
        with running(pod, "gateway", places, {"http": port}, tmp_path, more) as container:
            container.start(hurry=20)
            phone = base64.b64encode((CHART / "files" / "black_phone.jpg").read_bytes()).decode()
            content = [
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{phone}"}},
                {"type": "text", "text": "手机黑屏了怎么办？"},
            ]
            body = {"messages": [{"role": "user", "content": content}]}
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
            assert reply.status_code == 200, reply.text
            (citation,) = reply.json()["customer_service"]["citations"]
            assert citation["article_id"] == "black-screen-zh"
            assert container.probe("livenessProbe")
            assert container.terminate() < container.grace_s
            assert container.process.returncode == 0, container.log.read_text()
