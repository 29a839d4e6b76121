"""Random values that the schema allows are rendered or refused by name; what is rendered is valid and fits together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.helm import schemas
from tests.helm.chart import Refused, manifests, render
from tests.helm.checks import faults
from tests.helm.renderings import GPU, HUB, MANY

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", fullmatch=True)
ODD = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=0, max_size=40
) | st.sampled_from(
    [
        "yes",
        "null",
        "1e3",
        "0o7",
        "- a",
        "a: b",
        "{{ .Values }}",
        "'",
        '"',
        "#",
        "a\tb",
        "中文 标签",
        "%x",
        "@",
        "!",
    ]
)
LABELS = st.dictionaries(
    st.from_regex(r"[a-z]{1,10}(\.example\.com/[a-z]{1,10})?", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True),
    max_size=3,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "commonLabels": LABELS,
        "commonAnnotations": st.dictionaries(st.from_regex(r"[a-z]{1,10}", fullmatch=True), ODD, max_size=3),
        "global.imageRegistry": st.sampled_from(["", "registry.example.com", "r.example.com:5000/a"]),
        "global.imagePullSecrets": st.lists(NAMES, max_size=2),
        "fullnameOverride": st.just("") | st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True),
        "server.drain.inFlightSeconds": st.integers(1, 3600),
        "server.drain.loadBalancerSeconds": st.integers(1, 120),
        "server.startup.maxMinutes": st.integers(1, 240),
        "server.settings.max_inflight": st.integers(1, 512),
        "server.extraEnv": st.lists(
            st.builds(lambda name, value: {"name": name, "value": value}, st.from_regex(r"X_[A-Z]{1,9}", fullmatch=True), ODD),
            max_size=2,
            unique_by=lambda each: each["name"],
        ),
        "server.podAnnotations": st.dictionaries(st.from_regex(r"[a-z]{1,10}", fullmatch=True), ODD, max_size=2),
        "server.nodeSelector": LABELS,
        "server.tolerations": st.lists(st.just({"operator": "Exists"}), max_size=1),
        "server.pdb.enabled": st.booleans(),
        "gateway.config": st.fixed_dictionaries({"media": st.fixed_dictionaries({"letterbox": st.integers(0, 4096)})}),
        "gateway.enabled": st.booleans(),
        "gateway.service.annotations": st.dictionaries(st.from_regex(r"[a-z]{1,10}", fullmatch=True), ODD, max_size=2),
        "worker.mode": st.sampled_from(["off", "sidecar"]),
        "worker.drain.inFlightSeconds": st.integers(0, 3600),
        "kafka.trial.enabled": st.booleans(),
        "valkey.trial.enabled": st.booleans(),
        "knowledge.sample": st.booleans(),
        "proxy.enabled": st.booleans(),
        "proxy.accessLog": st.booleans(),
        "proxy.streamIdleSeconds": st.integers(1, 86400),
        "autoscaling.mode": st.sampled_from(["none", "keda", "hpa"]),
        "autoscaling.waitingPerReplica": st.integers(1, 100),
        "networkPolicy.enabled": st.booleans(),
        "networkPolicy.externalPorts": st.lists(st.integers(1, 65535), max_size=5, unique=True),
        "metrics.podMonitor.enabled": st.booleans(),
        "metrics.prometheusRule.enabled": st.booleans(),
        "metrics.prometheusRule.disabled": st.lists(st.sampled_from(["Nothing", "ServerDown"]), max_size=1),
        "loadtest.enabled": st.booleans(),
        "tests.enabled": st.booleans(),
        "serviceAccount.create": st.booleans(),
        "traces.endpoint": st.sampled_from(["", "http://collector:4318", "https://otel.example.com:443/"]),
    },
)  # fmt: skip
TARGETS = st.sampled_from(
    [(), GPU, (*GPU, *HUB, *MANY, "engine.mode=init"), (*GPU, *HUB, *MANY, "engine.mode=job")]
)


def nested(changes: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for path, value in changes.items():
        *above, last = path.split(".")
        place = made
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values") / "values.yaml"


# Not shrunk: each try is a run of Helm, and the message names the fault.
QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@QUICK
@given(changes=CHANGES, target=TARGETS)
def test_what_is_allowed_renders_and_fits(
    file: Path, changes: dict[str, Any], target: tuple[str, ...]
) -> None:
    file.write_text(json.dumps(nested(changes), ensure_ascii=False))
    manifests.cache_clear()  # the file has the same name every time
    try:
        objects = render((file,), target)
    except Refused as refused:
        told = str(refused)
    else:
        told = ""
    if told:
        # By one of the rules of _validate.tpl, and by no accident of a template.
        assert "templates/server-deployment.yaml" in told, told
        assert ": got " in told
        return
    assert faults(objects) == []
    assert [fault for item in objects for fault in schemas.faults(item, "1.37")] == []
    written = changes.get("commonAnnotations", {})
    for item in objects:
        assert written.items() <= item["metadata"].get("annotations", {}).items() or not written


@settings(QUICK, max_examples=15)
@given(release=NAMES, override=st.just("") | NAMES)
def test_names_of_any_release_fit(file: Path, release: str, override: str) -> None:
    file.write_text(json.dumps({"nameOverride": override[:40].rstrip("-"), "proxy": {"enabled": True}}))
    manifests.cache_clear()
    objects = render((file,), ("loadtest.enabled=true",), release=release)
    for item in objects:
        assert len(item["metadata"]["name"]) <= 63
        for value in item["metadata"].get("labels", {}).values():
            assert len(value) <= 63
