"""Ways to install the chart that the checks run over: every profile, the combinations that users are told of, and each option
that adds objects.
"""

from __future__ import annotations

from pathlib import Path

from tests.helm.chart import CHART

_VALUES = CHART / "values"
GPU = (
    "target=tensorrt-llm",
    "server.profile=gpu",
    "engine.weights=bf16",
    "images.server.repository=qwen3vl-gpu",
)
HUB = ("weights.source=huggingface", "weights.repository=Qwen/Qwen3-VL-8B-Instruct")
MANY = ('engine.cache.accessModes=["ReadWriteMany"]', 'weights.claim.accessModes=["ReadWriteMany"]')
TLS = ("proxy.enabled=true", "proxy.tls.existingSecret=model-tls")

Rendering = tuple[tuple[Path, ...], tuple[str, ...]]


def _profiles(*names: str) -> tuple[Path, ...]:
    return tuple(_VALUES / f"{name}.yaml" for name in names)


RENDERINGS: dict[str, Rendering] = {
    "defaults": ((), ()),
    **{file.stem: ((file,), ()) for file in sorted(_VALUES.glob("*.yaml"))},
    **{
        f"{gpu} {more}": (_profiles(gpu, more), ())
        for gpu in ("gpu-h100", "gpu-mig")
        for more in ("airgap", "openshift", "production", "scale-to-zero")
    },
    "job": ((), (*GPU, *HUB, *MANY, "engine.mode=job")),
    "init with several servers": ((), (*GPU, *HUB, *MANY, "engine.mode=init", "server.replicas=3")),
    "engines in a claim": ((), (*GPU, "engine.cache.existingClaim=engines")),
    "no engines": ((), (*GPU, *HUB, "engine.mode=none", "server.profile=gpu-pytorch")),
    "ranks over two nodes": (
        (),
        (*GPU, "engine.tpSize=4", "gpu.count=2", "engine.cache.existingClaim=engines"),
    ),
    "weights from s3": (
        (),
        (
            *GPU,
            *MANY,
            "engine.mode=job",
            "weights.source=s3",
            "weights.repository=models/8b",
            "weights.existingSecret=s3",
        ),
    ),
    "own builder": ((), (*HUB, "engine.mode=init", "images.builder.repository=qwen3vl-gpu-builder", *GPU)),
    "proxy": ((), ("proxy.enabled=true", "proxy.accessLog=true", "proxy.service.type=LoadBalancer")),
    "tls": ((), (*TLS, "proxy.tls.mode=tls")),
    "mtls": ((), (*TLS, "proxy.tls.mode=mtls", 'proxy.tls.allowedClients=["gateway.shop"]')),
    "hpa": ((), ("autoscaling.mode=hpa",)),
    "keda": ((), ("autoscaling.mode=keda",)),
    "keda over nodes": (
        (),
        (
            *GPU,
            "engine.tpSize=4",
            "gpu.count=2",
            "engine.cache.existingClaim=engines",
            "autoscaling.mode=keda",
        ),
    ),
    "monitors of services": ((), ("metrics.serviceMonitor.enabled=true", "proxy.enabled=true")),
    "rules and dashboards": ((), ("metrics.prometheusRule.enabled=true", "metrics.dashboards.enabled=true")),
    "routes": (
        (),
        (
            "httpRoute.enabled=true",
            'httpRoute.parentRefs=[{"name": "edge", "namespace": "gateways"}]',
            "grpcRoute.enabled=true",
            'grpcRoute.parentRefs=[{"name": "edge"}]',
            "ingress.enabled=true",
            "ingress.tlsSecret=chat-tls",
        ),
    ),
    "load test": ((), ("loadtest.enabled=true", "loadtest.ladder=users=8")),
    "load test with a page": ((), ("loadtest.enabled=true", "proxy.enabled=true")),
    "model only": ((), ("gateway.enabled=false",)),
    "nothing optional": (
        (),
        (
            "gateway.enabled=false",
            "tests.enabled=false",
            "networkPolicy.enabled=false",
            "server.pdb.enabled=false",
            "serviceAccount.create=false",
        ),
    ),
    "kept trials": ((), ("gateway.persistence.enabled=true", "kafka.trial.storageSize=5Gi")),
    "no tickets": ((), ("kafka.trial.enabled=false", "worker.mode=off")),
    "articles": (
        (),
        (
            'knowledge.sources=[{"name": "own", "configMap": "articles", "scope": "after_sales"},'
            ' {"name": "bank", "claim": "bank-articles", "path": "zh", "tenant": "bank"}]',
        ),
    ),
    "strangers kept out": (
        (),
        (
            'networkPolicy.clientsFrom=[{"namespaceSelector": {"matchLabels": {"team": "web"}}}]',
            'networkPolicy.metricsFrom=[{"namespaceSelector": {"matchLabels": {"team": "watch"}}}]',
            "proxy.enabled=true",
        ),
    ),
    "traces": ((), ("traces.endpoint=http://otel-collector.monitoring.svc:4318",)),
    "mirrored images": ((), ("global.imageRegistry=registry.example.com:5000/mirror",)),
}
