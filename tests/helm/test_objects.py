"""Every rendering: Helm finds nothing to say, Kubernetes would take each object, and the objects fit together."""

from __future__ import annotations

import subprocess

import pytest

from tests.helm import schemas
from tests.helm.binaries import helm
from tests.helm.chart import CHART, KUBERNETES, PROFILES, Object, render
from tests.helm.checks import CHECKS, faults
from tests.helm.pod_templates import of_kind
from tests.helm.renderings import RENDERINGS


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("profile", ["", *PROFILES], ids=lambda file: getattr(file, "stem", "defaults"))
def test_helm_lints_it(profile: str, kubernetes: str) -> None:
    command = [str(helm()), "lint", str(CHART), "--strict", "--kube-version", kubernetes]
    done = subprocess.run(
        [*command, *(["--values", str(profile)] if profile else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


def test_an_older_kubernetes_is_refused() -> None:
    command = [str(helm()), "template", "demo", str(CHART), "--kube-version", "1.29"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "kubeVersion: >=1.30.0-0" in done.stderr


@pytest.mark.parametrize("name", RENDERINGS)
def test_every_object_is_valid_and_they_fit(name: str) -> None:
    objects = render(*RENDERINGS[name])
    assert faults(objects) == []
    for kubernetes in KUBERNETES:
        assert [fault for item in objects for fault in schemas.faults(item, kubernetes)] == []


def test_names_of_a_long_release_fit() -> None:
    values, sets = RENDERINGS["gpu-h100 production"]
    for release in ("r" * 53, "a"):
        objects = render(values, (*sets, "loadtest.enabled=true"), release=release)
        own = [check for check in CHECKS if check.__name__ == "names_and_labels_fit"]
        assert [fault for check in own for fault in check(objects)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"apiVersion": "autoscaling/v2beta2"}, "knows no"),
        ({"kind": "Deploymnt"}, "knows no"),
        ({"spec": {"replica": 1}}, "replica"),
        ({"spec": {"replicas": "one"}}, "replicas"),
        ({"sepc": {}}, "sepc"),
    ],
)
def test_the_schemas_notice(change: Object, message: str) -> None:
    (deployment, *_) = of_kind(render(), "Deployment")
    for key, value in change.items():
        deployment[key] = {**deployment.get(key, {}), **value} if isinstance(value, dict) else value
    found = [fault for kubernetes in KUBERNETES for fault in schemas.faults(deployment, kubernetes)]
    assert len(found) >= len(KUBERNETES)
    assert all(message in fault for fault in found)


@pytest.mark.parametrize("kind", sorted({kind for _, kind in schemas.CUSTOM}))
def test_the_schemas_of_custom_resources_are_closed_and_used(kind: str) -> None:
    found = [item for values, sets in RENDERINGS.values() for item in of_kind(render(values, sets), kind)]
    assert found, f"no rendering has a {kind}"
    item = found[0]
    item["spec"]["surprise"] = 1
    assert any("surprise" in fault for fault in schemas.faults(item, "1.33"))


def test_the_job_has_another_name_for_other_engines_only() -> None:
    values, sets = RENDERINGS["job"]

    def key(*more: str) -> str:
        (job,) = of_kind(render(values, (*sets, *more)), "Job")
        return str(job["metadata"]["name"])

    others = [
        "weights.revision=8c2f1e0",
        "weights.repository=Qwen/Qwen3-VL-4B-Instruct",
        "engine.weights=fp16",
        "engine.weights=fp8",
        "engine.maxBatchSize=16",
        "engine.maxSeqLen=4096",
        "engine.maxInputLen=2048",
        "engine.maxNumTokens=1024",
        "engine.maxVisualTokens=1024",
        "engine.kvCacheDtype=int8",
        'engine.extraArgs=["--max-lora-rank=8"]',
        'gpu.products=["NVIDIA-L40S"]',
        "gpu.resourceName=nvidia.com/mig-3g.40gb",
        "images.server.tag=v2",
        "images.server.digest=sha256:" + "0" * 64,
        "images.builder.repository=other-qwen3vl-gpu",
    ]
    keys = [key(), *(key(change) for change in others)]
    assert len(set(keys)) == len(keys)
    for same in (
        "server.replicas=2",
        "server.drain.inFlightSeconds=5",
        "images.gateway.tag=v2",
        "engine.cache.keep=3",
    ):
        assert key(same) == keys[0], same


def test_a_changed_configuration_makes_new_pods() -> None:
    def checksum(*sets: str) -> str:
        (gateway,) = [
            item
            for item in of_kind(render((), sets), "Deployment")
            if item["metadata"]["name"].endswith("-gateway")
        ]
        return str(gateway["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("server.replicas=2")
    assert checksum() != checksum("gateway.config.media.letterbox=1024")


def test_the_picture_of_the_test_is_the_demos() -> None:
    demo = CHART.parents[1] / "build_engine" / "demo" / "pictures" / "black_phone.jpg"
    assert (CHART / "files" / "black_phone.jpg").read_bytes() == demo.read_bytes()
