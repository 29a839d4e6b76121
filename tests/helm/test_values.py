"""Values that cannot work are refused before anything is installed, each by its own name."""

from __future__ import annotations

import re

import pytest

from tests.helm.chart import CHART, Refused, manifests
from tests.helm.renderings import GPU, HUB, MANY, RENDERINGS

KEDA = "autoscaling.mode=keda"
PRODUCTION = RENDERINGS["production"][0]

WRONG: list[tuple[tuple[str, ...], str]] = [
    # Keys and types: the schema.
    (("autoscalling.mode=keda",), "additional properties 'autoscalling' not allowed"),
    (("server.replica=2",), "additional properties 'replica' not allowed"),
    (("server.drain.seconds=2",), "additional properties 'seconds' not allowed"),
    (("images.server.tags=v1",), "additional properties 'tags' not allowed"),
    (("target=cuda",), "at '/target'"),
    (("server.replicas=two",), "at '/server/replicas': got string, want integer"),
    (("server.replicas=-1",), "at '/server/replicas': minimum: got -1, want 0"),
    (("server.drain.inFlightSeconds=0",), "at '/server/drain/inFlightSeconds': minimum: got 0, want 1"),
    (("server.startup.maxMinutes=1000",), "at '/server/startup/maxMinutes': maximum: got 1,000, want 240"),
    (("server.shm.sizeLimit=1GB",), "at '/server/shm/sizeLimit'"),
    (("server.resources=null",), "server"),
    (("server.resources.limits.memory=lots",), "at '/server/resources/limits/memory'"),
    (("server.strategy.type=Blue",), "at '/server/strategy/type'"),
    (("server.profile=gpu-t4",), "at '/server/profile'"),
    (("images.server.digest=abc",), "at '/images/server/digest'"),
    (("images.server.pullPolicy=Sometimes",), "at '/images/server/pullPolicy'"),
    (("images.server.repository=Not/Lower",), "at '/images/server/repository'"),
    (("fullnameOverride=Upper_Case",), "at '/fullnameOverride'"),
    (("fullnameOverride=" + "x" * 41,), "at '/fullnameOverride': maxLength: got 41, want 40"),
    (("engine.mode=build",), "at '/engine/mode'"),
    (("engine.path=engines",), "at '/engine/path'"),
    (("engine.tpSize=0",), "at '/engine/tpSize': minimum: got 0, want 1"),
    (('engine.extraArgs=["tp_size=2"]',), "at '/engine/extraArgs/0'"),
    (('engine.cache.accessModes=["Everybody"]',), "at '/engine/cache/accessModes/0'"),
    (("weights.source=ftp",), "at '/weights/source'"),
    (("weights.path=../../etc",), "at '/weights/path'"),
    (("gpu.resourceName=gpu",), "at '/gpu/resourceName'"),
    (('gpu.products=["NVIDIA H100"]',), "at '/gpu/products/0'"),
    (("gateway.service.port=0",), "at '/gateway/service/port'"),
    (("kafka.bootstrapServers=kafka",), "at '/kafka/bootstrapServers'"),
    (
        ("networkPolicy.externalPorts=[70000]",),
        "at '/networkPolicy/externalPorts/0': maximum: got 70,000, want 65,535",
    ),
    (("ingress.hosts=[]",), "at '/ingress/hosts': minItems: got 0, want 1"),
    (("autoscaling.mode=vpa",), "at '/autoscaling/mode'"),
    (("autoscaling.prometheusAddress=prometheus:9090",), "at '/autoscaling/prometheusAddress'"),
    (("metrics.podMonitor.interval=15",), "at '/metrics/podMonitor/interval': got number, want string"),
    (("loadtest.ladder=many",), "at '/loadtest/ladder'"),
    (('knowledge.sources=[{"configMap": "a"}]',), "missing property 'name'"),
    (("proxy.tls.mode=ssl",), "at '/proxy/tls/mode'"),
    (("proxy.replicas=0",), "at '/proxy/replicas'"),
    (("commonLabels.team=7",), "at '/commonLabels/team': got number, want string"),
    # What is right alone and wrong together: _validate.tpl.
    (("engine.mode=none",), "engine.mode: got none with target openvino"),
    ((*GPU, *HUB, "engine.mode=none"), "server.profile: got gpu with engine.mode none, allowed: gpu-pytorch"),
    (("target=tensorrt-llm", "engine.weights=bf16"), "server.profile: got cpu with target tensorrt-llm"),
    (("server.profile=gpu-h100",), "server.profile: got gpu-h100 with target openvino, allowed: cpu"),
    (("engine.weights=fp8",), "engine.weights: got fp8 with target openvino, allowed: int8, int4, bf16, f32"),
    ((*GPU, "engine.weights=f32"), "engine.weights: got f32 with target tensorrt-llm"),
    ((*GPU, "engine.kvCacheDtype=fp8"), "engine.kvCacheDtype: got fp8 with engine.weights bf16"),
    ((*GPU, "engine.tpSize=3", "gpu.count=2"), "engine.tpSize: got 3 with gpu.count 2, allowed: a multiple"),
    ((*GPU, "gpu.count=2"), "gpu.count: got 2 with engine.tpSize 1"),
    (("engine.tpSize=2",), "engine.tpSize: got 2 with target openvino"),
    (
        (*GPU, *HUB, "engine.mode=init", "engine.tpSize=2"),
        "engine.mode: got init with tensor parallelism over pods",
    ),
    (
        (*GPU, "engine.mode=init", "weights.source=huggingface"),
        "weights.repository: got nothing with weights.source huggingface",
    ),
    (
        (*GPU, "engine.mode=init", "weights.source=claim"),
        "weights.claim.existing: got nothing with weights.source claim",
    ),
    (
        (*GPU, *HUB, "engine.mode=init", "weights.offline=true"),
        "weights.claim.existing: got nothing with weights.offline",
    ),
    ((*GPU, *HUB, "engine.mode=job"), "engine.cache.accessModes: got ReadWriteOnce with engine.mode job"),
    (
        (*GPU, *HUB, "engine.mode=init", "server.replicas=2"),
        "engine.cache.accessModes: got ReadWriteOnce with several servers",
    ),
    (
        (*GPU, *HUB, MANY[0], "engine.mode=init", "server.replicas=2"),
        "weights.claim.accessModes: got ReadWriteOnce with several",
    ),
    (
        ("autoscaling.minReplicas=5",),
        "autoscaling.minReplicas: got 5, allowed: at most autoscaling.maxReplicas (4)",
    ),
    (("autoscaling.minReplicas=0",), "autoscaling.minReplicas: got 0 with autoscaling.mode none"),
    ((KEDA, "autoscaling.minReplicas=0"), "proxy.enabled: got false with autoscaling.minReplicas 0"),
    (("gateway.autoscaling.minReplicas=9",), "gateway.autoscaling.minReplicas: got 9"),
    (("worker.autoscaling.minReplicas=9",), "worker.autoscaling.minReplicas: got 9"),
    (("gateway.replicas=2",), "gateway.database.kind: got sqlite with several gateway pods"),
    (("worker.mode=deployment",), "worker.mode: got deployment with gateway.database.kind sqlite"),
    (
        ("gateway.database.kind=external",),
        "gateway.existingSecret: got nothing with gateway.database.kind external",
    ),
    (
        ("gateway.database.kind=external", "gateway.existingSecret=s", "gateway.replicas=2"),
        "gateway.objects.kind: got volume with several pods",
    ),
    (("gateway.objects.kind=s3",), 'gateway.objects.url: got "" with gateway.objects.kind s3'),
    (
        ("gateway.database.kind=external", "gateway.existingSecret=s", "gateway.persistence.enabled=true"),
        "gateway.persistence.enabled: got true with gateway.database.kind external",
    ),
    (
        ("worker.mode=deployment", "kafka.trial.enabled=false"),
        "kafka.bootstrapServers: got nothing with worker.mode deployment",
    ),
    (("worker.autoscaling.enabled=true",), "worker.autoscaling.enabled: got true with worker.mode sidecar"),
    (
        ('knowledge.sources=[{"name": "a"}]',),
        "knowledge.sources: a has neither, allowed: either configMap or claim",
    ),
    (('knowledge.sources=[{"name": "a", "configMap": "b", "claim": "c"}]',), "knowledge.sources: a has both"),
    (
        ("proxy.enabled=true", "proxy.tls.mode=mtls"),
        "proxy.tls.existingSecret: got nothing with proxy.tls.mode mtls",
    ),
    (
        ('proxy.tls.allowedClients=["a"]', "proxy.tls.existingSecret=s", "proxy.tls.mode=tls"),
        "proxy.tls.allowedClients: got names with proxy.tls.mode tls",
    ),
    (
        ("proxy.enabled=true", "proxy.retryBufferMiB=512"),
        "proxy.retryBufferMiB: got 512 with a memory limit of 1Gi",
    ),
    (
        ("metrics.podMonitor.enabled=true", "metrics.serviceMonitor.enabled=true"),
        "metrics.serviceMonitor.enabled: got true beside metrics.podMonitor.enabled",
    ),
    (
        ("gateway.enabled=false", "ingress.enabled=true"),
        "ingress.enabled: got true with gateway.enabled false",
    ),
    (
        ("gateway.enabled=false", "httpRoute.enabled=true", 'httpRoute.parentRefs=[{"name": "g"}]'),
        "httpRoute.enabled: got true with gateway.enabled false",
    ),
    (("grpcRoute.enabled=true",), "grpcRoute.parentRefs: got nothing, allowed: at least one Gateway"),
    (
        ("server.settings.exit_timeout_s=9",),
        "server.settings.exit_timeout_s: not here; it follows from server.drain",
    ),
    (("server.settings.engines=/x",), "server.settings.engines: not here; it follows from engine"),
    (
        ('containerSecurityContext.capabilities={"add": ["ALL"]}',),
        "containerSecurityContext.capabilities.add: got ALL",
    ),
    (("traces.endpoint=http://collector",), "traces.endpoint: got http://collector, allowed: with a port"),
]


@pytest.mark.parametrize(
    ("sets", "message"), WRONG, ids=lambda each: " ".join(each)[:60] if isinstance(each, tuple) else ""
)
def test_it_is_refused_by_name(sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(Refused) as refused:
        manifests((), sets)
    assert message in str(refused.value)


def test_there_are_enough_of_them_and_no_message_twice() -> None:
    assert len(WRONG) >= 40
    assert len({message for _, message in WRONG}) == len(WRONG)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        manifests((), ("gateway.replicas=2", "server.profile=gpu", "grpcRoute.enabled=true"))
    for name in ("gateway.database.kind", "server.profile", "grpcRoute.parentRefs"):
        assert name in str(refused.value)


def test_every_rule_of_the_template_is_tried() -> None:
    """Each message that _validate.tpl can give begins with a field; each such field is in the table."""
    text = (CHART / "templates" / "_validate.tpl").read_text()
    fields = set(re.findall(r'append \$faults \(?(?:printf )?"([A-Za-z.]+):', text))
    assert len(fields) > 20
    tried = {message.split(":")[0] for _, message in WRONG}
    assert fields <= tried, fields - tried
