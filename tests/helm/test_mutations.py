# ruff: noqa: E501 (one mistake, one line)
"""Mistakes that are easily made, put into the templates one by one: each is noticed. So a green check means something."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helm import schemas
from tests.helm.chart import CHART, Refused, render
from tests.helm.checks import faults
from tests.helm.renderings import RENDERINGS


@dataclass(frozen=True)
class Mistake:
    """`old`, found once in the template, becomes `new`; rendered as `seen`, a fault says `told`."""

    template: str
    old: str
    new: str
    told: str
    seen: str = "gpu-h100 production"


MISTAKES = [
    Mistake("server-services.yaml", "{name: http, port: 8000, targetPort: http}", "{name: http, port: 8080, targetPort: http}", "port 8080 leads to 8000"),
    Mistake("server-services.yaml", "targetPort: metrics", "targetPort: metric", "has no port metric"),
    Mistake("server-services.yaml", "clusterIP: None", "type: ClusterIP", "one pod would get every stream"),
    Mistake("_server.tpl", "- {name: shm, mountPath: /dev/shm}\n- {name: tmp", "- {name: tmp", "64 MiB of /dev/shm"),
    Mistake("_server.tpl", "emptyDir: {medium: Memory, sizeLimit", "emptyDir: {sizeLimit", "is no memory with a limit"),
    Mistake("_server.tpl", '.drain.loadBalancerSeconds) (int .Values.server.drain.inFlightSeconds) 15', '.drain.loadBalancerSeconds) 15', "is below sleep"),
    Mistake("_server.tpl", "sleep: {seconds: {{ .Values.server.drain.loadBalancerSeconds }}}", "sleep: {seconds: 0}", "balancers still send"),
    Mistake("_server.tpl", "path: /v2/health/live, port: http", "path: /v2/health/ready, port: http", "killed by its liveness probe"),
    Mistake("_server.tpl", "startupProbe:\n  httpGet: {path: /v2/health/ready, port: http}", "startupProbe:\n  httpGet: {path: /v2/health/ready, port: https}", "asks port https"),
    Mistake("_server.tpl", '{{- include "qwen3-vl.containerSecurityContext" . | nindent 6 }}\n    resources:', '{}\n    resources:', "may gain privileges"),
    Mistake("_server.tpl", "maxSurge: 0", "maxSurge: 1", "wait for a GPU for ever"),
    Mistake("_server.tpl", "- --engines={{ include", "- --engines=/old/{{ include", "not the engines of key"),
    Mistake("_server.tpl", "    - --check-only\n", "", "builds on a read-only volume", "job"),
    Mistake("server-deployment.yaml", '{{- if not (include "qwen3-vl.server.scaled" .) }}', "{{- if true }}", "has replicas, which ScaledObject"),
    Mistake("server-deployment.yaml", 'matchLabels:\n      {{- include "qwen3-vl.selectorLabels" (dict "root" . "component" "server")', 'matchLabels:\n      {{- include "qwen3-vl.selectorLabels" (dict "root" . "component" "serve")', "does not select its own pods"),
    Mistake("engine-job.yaml", '(printf "engine-%s" (include "qwen3-vl.engine.key" .))', '"engine-job"', "not named by its key", "job"),
    Mistake("_engine.tpl", "- {name: weights, mountPath: /weights, readOnly: true}", "- {name: weight, mountPath: /weights, readOnly: true}", "mounts weight, which is no volume"),
    Mistake("_engine.tpl", "{{ .Values.gpu.resourceName }}: {{ .Values.gpu.count }}", "{}", "gets no GPU"),
    Mistake("_helpers.tpl", "automountServiceAccountToken: false\nenable", "enable", "gets a token of the API"),
    Mistake("_helpers.tpl", "- {name: HOME, value: /tmp}", "- {name: HOME, value: /root}", "HOME='/root', which it cannot write"),
    Mistake("_helpers.tpl", "maxUnavailable: 1\n", "minAvailable: 1\n", "may block the drain of a node"),
    Mistake("_helpers.tpl", "trunc 40 | trimSuffix \"-\" -}}\n{{- end -}}\n{{- end -}}", "trimSuffix \"-\" -}}\n{{- end -}}\n{{- end -}}", "characters", "long release"),
    Mistake("_scaling.tpl", 'namespace="{{ .Release.Namespace }}",release=', "release=", "counts other namespaces"),
    Mistake("_scaling.tpl", "sum(nv_trt_llm_request_metrics{", "sum(nv_trtllm_requests{", "which nobody exports"),
    Mistake("_scaling.tpl", 'name: {{ include "qwen3-vl.fullname" . }}-server', 'name: {{ include "qwen3-vl.fullname" . }}-triton', "which is not there"),
    Mistake("server-scaledobject.yaml", "minReplicaCount:", "minReplicas:", "'minReplicas' was unexpected"),
    Mistake("server-scaledobject.yaml", "threshold: {{ $a.waitingPerReplica | quote }}", "threshold: {{ $a.waitingPerReplica }}", "is not of type 'string'"),
    Mistake("server-hpa.yaml", "minReplicas: {{", "minReplica: {{", "minReplica", "hpa"),
    Mistake("gateway-deployment.yaml", '"/healthz" "/readyz"', '"/healthz" "/ready"', "asks /ready, which nobody answers"),
    Mistake("gateway-deployment.yaml", "type: Recreate", "type: RollingUpdate", "two pods would write one SQLite file", "defaults"),
    Mistake("_gateway.tpl", "$own := add (int .Values.gateway.drain.unreadySeconds) 130 10", "$own := add (int .Values.gateway.drain.unreadySeconds) 30", "cuts streams"),
    Mistake("_gateway.tpl", "-proxy:9002", "-proxy:9003", "is an address that no service has"),
    Mistake("_gateway.tpl", "configMap: {name: {{ include \"qwen3-vl.fullname\" . }}-gateway}", "configMap: {name: {{ include \"qwen3-vl.fullname\" . }}-config}", "which is not there"),
    Mistake("_gateway.tpl", "add (int .Values.worker.drain.inFlightSeconds) 15", "add (int .Values.worker.drain.inFlightSeconds) 1", "below the worker's drain"),
    Mistake("gateway-service.yaml", '"component" "gateway") | nindent 4', '"component" "worker") | nindent 4', "sends to worker"),
    Mistake("networkpolicy.yaml", 'range list "gateway" "worker" "proxy" "loadtest" "test"', 'range list "gateway" "worker" "loadtest" "test"', "policies keep proxy from server:grpc"),
    Mistake("networkpolicy.yaml", "ports: [{port: internal}]", "ports: [{port: intern}]", "opens port intern"),
    Mistake("networkpolicy.yaml", "{{- if not .Values.proxy.enabled }}", "{{- if true }}", "go round the proxy", "proxy"),
    Mistake("_network.tpl", "- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]", "- ports: [{port: 54, protocol: UDP}]", "cannot ask for names"),
    Mistake("_monitors.tpl", "server: [{port: metrics, path: /metrics}]", "server: [{port: metric, path: /metrics}]", "scrapes port metric"),
    Mistake("proxy-deployment.yaml", "httpGet: {path: /drain, port: drain}", "httpGet: {path: /drain, port: admin}", "preStop of proxy asks port admin"),
    Mistake("proxy-deployment.yaml", 'drainSeconds" .)) 15 }}', 'drainSeconds" .)) -60 }}', "below the proxy's drain"),
    Mistake("_proxy.tpl", "-server-headless, port_value: 8001", "-server-headless, port_value: 8000", "the proxy asks port 8000"),
    Mistake("engine-job.yaml", "restartPolicy: Never", "restartPolicy: Always", "never ends", "job"),
    Mistake("server-nodes-secret.yaml", "  secret: {{", "  key: {{", "which has no such key", "ranks over two nodes"),
    Mistake("trials.yaml", "requests: {storage: {{ . }}}", "requests: {storage: 5 GB}", "is no quantity", "kept trials"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: f"{each.template}: {each.told}")
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    chart = tmp_path / "qwen3-vl"
    shutil.copytree(CHART, chart)
    file = chart / "templates" / mistake.template
    text = file.read_text()
    assert text.count(mistake.old) == 1, f"{mistake.old!r} is there {text.count(mistake.old)} times"
    file.write_text(text.replace(mistake.old, mistake.new))
    release = "r" * 53 if mistake.seen == "long release" else "demo"
    values, sets = RENDERINGS.get(mistake.seen, ((), ()))
    try:
        objects = render(values, sets, release=release, chart=chart)
        told = [*faults(objects), *(fault for item in objects for fault in schemas.faults(item, "1.33"))]
    except Refused as refused:
        told = [str(refused)]
    assert any(mistake.told in fault for fault in told), "\n".join(told) or "nothing was noticed"


def test_there_are_enough_of_them() -> None:
    assert len({(each.template, each.old) for each in MISTAKES}) == len(MISTAKES) >= 20
