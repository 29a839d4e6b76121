"""The chart's proxy: real Envoy, configured as rendered, before two real servers that one DNS name stands for."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from qwen3vl_client import TLS, Client
from qwen3vl_client.errors import ClientError, InvalidImage, Unavailable, Unreachable
from tritonclient.grpc import service_pb2

from ensemble.gauges import IN_FLIGHT
from tests.certificates import Authority, Pair, write_secret
from tests.helm.chart import CHART, RELEASE, render
from tests.helm.envoy import HEADLESS, LISTENERS, Envoy, Place, command, named, rendered, running
from tests.helm.monitoring import expressions
from tests.helm.names import Names
from tests.helm.pods import Pod, free_ports
from tests.helm.promql import Selector, selectors

pytestmark = pytest.mark.server

HOSTS = ("127.0.0.2", "127.0.0.3")
MTLS = (
    "proxy.tls.mode=mtls",
    "proxy.tls.existingSecret=certificates",
    'proxy.tls.allowedClients=["till.shop.example"]',
    "proxy.accessLog=true",
)
TLS_ONLY = ("proxy.tls.mode=tls", "proxy.tls.existingSecret=certificates")
# Tokens of a stream that outlives what a test does meanwhile.
LONG = 1500
SUCCESS = "nv_inference_request_success"
SERVICE = "inference.GRPCInferenceService"
OPEN = {
    f"{SERVICE}/{call}"
    for call in (
        "ServerLive",
        "ServerReady",
        "ServerMetadata",
        "ModelReady",
        "ModelMetadata",
        "ModelConfig",
        "ModelInfer",
        "ModelStreamInfer",
    )
} | {"grpc.health.v1.Health/Check"}


# --- What runs


@pytest.fixture(scope="module")
def pods(endless_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pod, Pod]]:
    grpc_port, http, metrics = free_ports(3, *HOSTS)
    directory = tmp_path_factory.mktemp("pods")
    made = [Pod(host, (grpc_port, http, metrics), endless_engines, directory / host) for host in HOSTS]
    try:
        for pod in made:
            pod.start()
        for pod in made:
            pod.wait_ready()
        yield made[0], made[1]
    finally:
        with ThreadPoolExecutor() as threads:
            codes = list(threads.map(Pod.terminate, (pod for pod in made if pod.process)))
    assert set(codes) == {0}


@pytest.fixture(scope="module")
def names() -> Iterator[Names]:
    with Names(HEADLESS, *HOSTS) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("shop")


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, names: Names, authority: Authority
) -> Callable[..., Place]:
    """Makes places for proxies, each with free ports and a mounted secret."""

    def make(server: int, dns: int = names.port) -> Place:
        ports = dict(zip((*LISTENERS, "admin"), free_ports(len(LISTENERS) + 1, "127.0.0.1"), strict=True))
        directory = tmp_path_factory.mktemp("proxy")
        write_secret(directory / "tls", authority.sign("model.shop.example"), authority.pem)
        return Place({**ports, "server": server}, dns, directory)

    return make


@pytest.fixture(scope="module")
def proxy(pods: tuple[Pod, Pod], place: Callable[..., Place]) -> Iterator[Envoy]:
    """With mTLS on its public port."""
    with running(rendered(*MTLS), place(pods[0].grpc)) as envoy:
        eventually(lambda: len(healthy(envoy)) == 2)
        yield envoy


@pytest.fixture
def client(proxy: Envoy) -> Iterator[Client]:
    """Within the release, without retries of its own: what fails at the proxy fails here."""
    with Client(proxy.url("internal"), retries=0) as made:
        yield made


def healthy(envoy: Envoy) -> set[str]:
    return {host for host, known in envoy.servers().items() if known["healthy"]}


def eventually(done: Callable[[], object], seconds: float = 15.0) -> float:
    """Waits until it is so; gives the seconds."""
    begun = time.monotonic()
    while not done():
        assert time.monotonic() < begun + seconds, "still not so"
        time.sleep(0.05)
    return time.monotonic() - begun


@contextmanager
def stream(client: Client, tokens: int) -> Iterator[Callable[[], str]]:
    """A stream that has begun; the call reads it to its end and gives the reason of it."""
    with client.stream("Hello", max_tokens=tokens) as answer:
        next(answer)

        def finish() -> str:
            for _ in answer:
                pass
            return str(answer.reply.finish_reason)

        yield finish


# --- The configuration


@pytest.mark.parametrize("sets", [(), TLS_ONLY, MTLS], ids=["none", "tls", "mtls"])
def test_envoy_takes_the_configuration(sets: tuple[str, ...], place: Callable[..., Place]) -> None:
    words = command(rendered(*sets), place(8001), "--mode", "validate")
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    # Also no word about fields that the next version will not know.
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.endswith("OK\n")


@pytest.mark.parametrize(
    ("limit", "size"), [("512Mi", 512 << 20), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9), ("700000k", 7 * 10**8)]
)
def test_the_heap_is_the_memory_limit(limit: str, size: int) -> None:
    text = named(rendered(f"proxy.resources.limits.memory={limit}"), "ConfigMap")["data"]["envoy.yaml"]
    assert re.findall(r"max_heap_size_bytes: (\d+)\n", text) == [str(size)]


def test_one_number_of_draining() -> None:
    objects = rendered("server.drain.inFlightSeconds=90", "server.drain.loadBalancerSeconds=7")
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    assert "fixed_delay: 97s\n" in named(objects, "ConfigMap")["data"]["envoy.yaml"]
    assert pod["terminationGracePeriodSeconds"] >= 97 + 10


def test_a_changed_configuration_makes_new_pods() -> None:
    def checksum(*sets: str) -> str:
        template = named(rendered(*sets), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("proxy.replicas=3")
    assert checksum() != checksum("proxy.streamIdleSeconds=301")


def test_outside_there_is_no_plain_port_beside_tls() -> None:
    services = {
        each["metadata"]["name"]: each["spec"]
        for each in rendered(*MTLS, "proxy.service.type=LoadBalancer")
        if each["kind"] == "Service"
    }
    outside = {
        name: [port["targetPort"] for port in spec["ports"]]
        for name, spec in services.items()
        if "type" in spec
    }
    assert outside == {f"{RELEASE}-qwen3-vl-proxy-external": ["grpc"]}
    assert len(services) == 3


# --- Balancing


def test_requests_are_even(client: Client, pods: tuple[Pod, Pod]) -> None:
    """All run at once, over one connection: short ones one after the other would show which server is quicker."""
    before = [pod.count(SUCCESS) for pod in pods]

    def ask(number: int) -> int:
        if number % 2:
            return client.chat("Hello", max_tokens=100).usage.completion_tokens
        with client.stream("Hello", max_tokens=100) as answer:
            return sum(len(chunk.token_ids) for chunk in answer)

    with ThreadPoolExecutor(60) as threads:
        assert list(threads.map(ask, range(60))) == [100] * 60
    shares = [pod.count(SUCCESS) - past for pod, past in zip(pods, before, strict=True)]
    print(f"shares of 60 requests: {shares}")
    assert sum(shares) == 60
    assert max(shares) <= 30 * 1.15


def test_a_large_request_passes(client: Client) -> None:
    """Larger than what is kept for another try: the server reads it and says what it thinks of it."""
    picture = bytes(20 << 20)
    with pytest.raises(InvalidImage):
        client.chat([{"role": "user", "content": [{"type": "image", "image": picture}]}])


# --- TLS


def test_mtls_takes_our_certificate_only(proxy: Envoy, authority: Authority) -> None:
    stranger = Authority("stranger")
    assert asked(proxy, tls(authority, authority.sign("till.shop.example"))) == "length"
    for refused in (
        tls(authority, None),
        tls(authority, stranger.sign("till.shop.example")),
        tls(authority, authority.sign("other.shop.example")),
        tls(stranger, authority.sign("till.shop.example")),
        False,
    ):
        with pytest.raises(Unreachable):
            asked(proxy, refused)
    # Refused for the reason that each was made for.
    assert proxy.metric("envoy_listener_ssl_fail_verify_no_cert") >= 1
    assert proxy.metric("envoy_listener_ssl_fail_verify_error") >= 1
    assert proxy.metric("envoy_listener_ssl_fail_verify_san") >= 1


def test_without_names_every_certificate_of_the_authority_will_do(
    pods: tuple[Pod, Pod], place: Callable[..., Place], authority: Authority
) -> None:
    objects = rendered("proxy.tls.mode=mtls", "proxy.tls.existingSecret=certificates")
    with running(objects, place(pods[0].grpc)) as envoy:
        assert asked(envoy, tls(authority, authority.sign("other.shop.example"))) == "length"
        with pytest.raises(Unreachable):
            asked(envoy, tls(authority, None))


def test_tls_asks_for_no_certificate(
    pods: tuple[Pod, Pod], place: Callable[..., Place], authority: Authority
) -> None:
    with running(rendered(*TLS_ONLY), place(pods[0].grpc)) as envoy:
        assert asked(envoy, tls(authority, None)) == "length"
        with pytest.raises(Unreachable):
            asked(envoy, tls(Authority("stranger"), None))
        assert handshake(envoy, ssl.TLSVersion.TLSv1_3)[0] == "h2"
        assert handshake(envoy, ssl.TLSVersion.TLSv1_2)[0] == "h2"


def test_a_renewed_certificate_is_taken_while_streams_run(
    pods: tuple[Pod, Pod], place: Callable[..., Place], authority: Authority
) -> None:
    here = place(pods[0].grpc)
    with running(rendered(*TLS_ONLY), here) as envoy:
        old = handshake(envoy, ssl.TLSVersion.TLSv1_3)[1]
        with Client(envoy.url("grpc"), retries=0, tls=tls(authority, None)) as client:
            with stream(client, 300) as end:
                fresh = authority.sign("model.shop.example")
                write_secret(here.directory / "tls", fresh, authority.pem)
                took = eventually(lambda: handshake(envoy, ssl.TLSVersion.TLSv1_3)[1] != old)
                assert end() == "length"
        print(f"new certificate after {took:.2f} s")


def tls(authority: Authority, own: Pair | None) -> TLS:
    return TLS(authority.pem, own.key, own.certificate) if own else TLS(authority.pem)


def asked(envoy: Envoy, secured: TLS | bool) -> str:
    with Client(envoy.url("grpc"), retries=0, timeout=20, tls=secured) as client:
        return str(client.chat("Hello", max_tokens=2).finish_reason)


def handshake(envoy: Envoy, version: ssl.TLSVersion) -> tuple[str | None, bytes | None]:
    """The protocol that was agreed on, and the certificate that was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, port = envoy.url("grpc").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        with context.wrap_socket(plain) as secure:
            return secure.selected_alpn_protocol(), secure.getpeercert(binary_form=True)


# --- Calls


def calls() -> list[str]:
    """Every call that Triton has, by its own descriptor, and others that a server may have."""
    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    return [f"{service.full_name}/{method.name}" for method in service.methods] + [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        f"{SERVICE}/ModelInfer/",
        f"{SERVICE}/../{SERVICE}/RepositoryIndex",
        f"{SERVICE}%2FRepositoryIndex",
    ]


def test_control_calls_are_refused(proxy: Envoy) -> None:
    assert len(calls()) > 20
    assert set(calls()) > OPEN
    with grpc.insecure_channel(proxy.url("internal")) as channel:
        codes = {call: code_of(channel, call) for call in calls()}
    refused = {
        call for call, code in codes.items() if code == "PERMISSION_DENIED: this call is not open to callers"
    }
    assert set(codes) - refused == OPEN
    # Those that pass reach Triton: an empty request is a good one, or lacks a model.
    assert codes["grpc.health.v1.Health/Check"] == codes[f"{SERVICE}/ServerReady"] == "OK: "
    assert "model" in codes[f"{SERVICE}/ModelInfer"]


def code_of(channel: Any, call: str) -> str:
    try:
        for _ in channel.unary_stream(f"/{call}")(b"", timeout=10):
            pass
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "OK: "


def test_the_header_that_kills_triton_stays_outside(proxy: Envoy) -> None:
    """With it, an error has a code of gRPC; without, it is text in the stream, which the client reads as well."""
    request = service_pb2.ModelInferRequest(model_name="qwen3_vl", raw_input_contents=[b"\4\0\0\0text"])
    request.inputs.add(name="messages", datatype="BYTES", shape=[1])
    with grpc.insecure_channel(proxy.url("internal")) as channel:
        call = channel.unary_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        (answer,) = call(request, timeout=10, metadata=(("triton_grpc_error", "true"),))
    assert "InvalidMessages" in answer.error_message


# --- Servers come and go


def test_no_new_request_fails_when_a_server_dies(client: Client, proxy: Envoy, pods: tuple[Pod, Pod]) -> None:
    """DNS still names it, as it does for seconds. What it had begun is lost with it: a half answer is not asked again."""
    stop, died = threading.Event(), threading.Event()
    results: list[tuple[bool, str]] = []

    def load() -> None:
        while not stop.is_set():
            new = died.is_set()
            try:
                client.chat("Hello", max_tokens=4)
                results.append((new, ""))
            except ClientError as error:
                results.append((new, repr(error)))
            # Both servers share two cores with their callers; one of them has to start.
            time.sleep(0.1)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(results) >= 12)
        pods[1].kill()
        died.set()
        at_once = len(results)
        eventually(lambda: len(results) >= at_once + 30)
        pods[1].start()
        eventually(lambda: healthy(proxy) == {HOSTS[0]})
        pods[1].wait_ready()
        back = eventually(lambda: pods[1].count(SUCCESS) >= 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    fresh = [error for new, error in results if new]
    lost = [error for new, error in results if not new and error]
    print(
        f"after the death {len(fresh)} new requests; {len(lost)} that ran were lost; asked again {back:.1f} s after it was ready"
    )
    assert [error for error in fresh if error] == []
    assert len(fresh) > 30
    assert len(lost) <= 6


def test_a_pod_that_leaves_finishes_its_streams(
    client: Client, proxy: Envoy, pods: tuple[Pod, Pod], names: Names
) -> None:
    with ExitStack() as stack:
        ends = [stack.enter_context(stream(client, LONG)) for _ in range(6)]
        assert proxy.servers()[HOSTS[1]]["rq_active"] > 0
        names.addresses.remove(HOSTS[1])
        took = eventually(lambda: HOSTS[1] not in proxy.servers())
        assert pods[1].count(IN_FLIGHT) > 0
        assert [end() for end in ends] == ["length"] * 6
    before = pods[1].count(SUCCESS)
    for _ in range(6):
        client.chat("Hello", max_tokens=2)
    assert pods[1].count(SUCCESS) == before
    names.addresses.append(HOSTS[1])
    eventually(lambda: len(healthy(proxy)) == 2)
    print(f"forgotten {took:.1f} s after its name went")


@pytest.mark.parametrize("missing", [False, True], ids=["no address", "no name"])
def test_without_servers_callers_are_told_at_once(place: Callable[..., Place], missing: bool) -> None:
    """As long as none is started, or all are gone (scale to zero)."""
    with Names(HEADLESS, missing=missing) as nobody:
        with running(rendered(), place(8001, nobody.port)) as envoy:
            with Client(envoy.url("grpc"), retries=0) as client:
                assert not client.ready()
                begun = time.monotonic()
                with pytest.raises(Unreachable):
                    client.chat("Hello")
                assert time.monotonic() - begun < 2
            # The client asks whether anybody lives before it sends its question: this wakes servers up.
            assert envoy.metric("envoy_cluster_grpc_total", 'grpc_method="ServerLive"') == 1
            assert nobody.asked


# --- Watching and ending


def asked_of_envoy() -> list[Selector]:
    """What rules, dashboards and scaling select of the proxy, without the labels that Prometheus adds."""
    scaled = [
        each
        for each in render(values=[CHART / "values" / "scale-to-zero.yaml"])
        if each["kind"] == "ScaledObject"
    ]
    queries = [
        trigger["metadata"].get("query", "") for each in scaled for trigger in each["spec"]["triggers"]
    ]
    found = {
        Selector(each.name, tuple(one for one in each.matchers if one[0] not in ("namespace", "release")))
        for query in (*expressions().values(), *queries)
        for each in selectors(query)
        if each.name.startswith("envoy_")
    }
    return sorted(found, key=str)


def test_rules_dashboards_and_scaling_ask_for_metrics_that_are_there(client: Client, proxy: Envoy) -> None:
    client.chat("Hello", max_tokens=2)
    wanted = asked_of_envoy()
    assert len(wanted) >= 5
    series = proxy.metrics()
    absent = [str(each) for each in wanted if not any(matches(each, line) for line in series)]
    assert absent == []
    # A page for Prometheus alone would be missed by a ServiceMonitor.
    assert proxy.get("/metrics")[1].count("envoy_cluster_upstream_rq_total{") == 2


def matches(wanted: Selector, series: str) -> bool:
    name, _, rest = series.partition("{")
    labels = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    return name == wanted.name and all(
        re.fullmatch(value[1:-1], labels.get(label, "")) for label, _, value in wanted.matchers
    )


def test_the_days_that_a_certificate_has_left(
    proxy: Envoy, pods: tuple[Pod, Pod], place: Callable[..., Place]
) -> None:
    """The alert reads them; where there is no certificate, it must not fire."""
    assert proxy.metric("envoy_server_days_until_first_cert_expiring") <= 1
    with running(rendered(), place(pods[0].grpc)) as plain:
        assert plain.metric("envoy_server_days_until_first_cert_expiring") > 1000


def test_questions_are_counted_apart_from_health(proxy: Envoy) -> None:
    """What wakes servers up: the gateway asks for health all the time, which must not."""

    def arrivals(call: str) -> float:
        return proxy.metric("envoy_cluster_grpc_total", f'grpc_method="{call}"')

    def chat() -> None:
        # Envoy counts a call at its end, and closing waits for that.
        with Client(proxy.url("internal"), retries=0) as client:
            client.chat("Hello", max_tokens=2)

    def ready() -> None:
        with Client(proxy.url("internal"), retries=0) as client:
            assert client.ready()

    chat()
    ready()
    asked_before, ready_before = arrivals("ModelStreamInfer"), arrivals("ServerReady")
    ready()
    assert (arrivals("ModelStreamInfer"), arrivals("ServerReady")) == (asked_before, ready_before + 1)
    chat()
    assert arrivals("ModelStreamInfer") == asked_before + 1


def test_admin_stays_inside(proxy: Envoy) -> None:
    for path in (
        "/",
        "/config_dump",
        "/clusters",
        "/quitquitquit",
        "/healthcheck/fail",
        "/stats",
        "/ready/../config_dump",
    ):
        assert proxy.get(path)[0] == 404
    assert proxy.get("/ready", method="POST")[0] == 404
    assert proxy.get("/ready") == (200, "LIVE\n")


def test_the_log_tells_no_secrets(client: Client, proxy: Envoy) -> None:
    client.chat("My number is 5550123", max_tokens=2)

    def lines() -> list[dict[str, Any]]:
        text = proxy.output.read_text()
        assert "5550123" not in text
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def answered() -> list[dict[str, Any]]:
        return [
            line
            for line in lines()
            if line["path"] == f"/{SERVICE}/ModelStreamInfer" and line["grpc"] == "OK"
        ]

    eventually(answered)
    line = answered()[-1]
    assert line["code"] == 200
    assert line["duration_ms"] >= line["first_byte_ms"] > 0
    assert line["bytes_received"] > 0
    assert line["server"].split(":")[0] in HOSTS


def test_too_many_requests_are_refused(pods: tuple[Pod, Pod], place: Callable[..., Place]) -> None:
    with running(rendered("proxy.limits.maxRequests=1"), place(pods[0].grpc)) as envoy:
        # Two ports: on one connection, the second request would wait for the first.
        with Client(envoy.url("internal"), retries=0) as second:
            second.ready()
            with Client(envoy.url("grpc"), retries=0) as first, stream(first, 600) as end:
                with pytest.raises(Unavailable):
                    second.chat("Hello", max_tokens=2)
                assert end() == "length"
            # Envoy counts calls, and closing has waited for the end of the first one.
            assert second.chat("Hello", max_tokens=2).finish_reason == "length"


def test_a_deleted_pod_drains(pods: tuple[Pod, Pod], place: Callable[..., Place]) -> None:
    """The hook holds kubelet for the configured time; what runs goes on, what comes is answered and told to go."""
    objects = rendered("server.drain.loadBalancerSeconds=1", "server.drain.inFlightSeconds=3")
    (container,) = named(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    hook = container["lifecycle"]["preStop"]["httpGet"]
    ended: list[float] = []
    with running(objects, place(pods[0].grpc)) as envoy:
        with Client(envoy.url("grpc"), retries=0) as client, stream(client, LONG) as end:
            begun = time.monotonic()

            def pre_stop() -> None:
                assert envoy.get(hook["path"], hook["port"]) == (200, "drained")
                ended.append(time.monotonic() - begun)

            kubelet = threading.Thread(target=pre_stop)
            kubelet.start()
            eventually(lambda: envoy.get("/ready")[0] == 503, seconds=2)
            assert client.chat("Hello", max_tokens=2).finish_reason == "length"
            eventually(
                lambda: envoy.metric("envoy_http_downstream_cx_drain_close", '"model"') >= 1, seconds=2
            )
            assert client.chat("Hello", max_tokens=2).finish_reason == "length"
            assert envoy.metric("envoy_http_downstream_rq_active", '"model"') >= 1
            assert end() == "length"
            kubelet.join()
    assert 4 <= ended[0] < 6


def test_requests_for_a_dead_server_go_to_another(
    client: Client, proxy: Envoy, pods: tuple[Pod, Pod]
) -> None:
    """It dies idle, so nothing but a refused connection tells of it. The last test: the server stays dead."""
    assert healthy(proxy) == set(HOSTS)
    before = proxy.metric("envoy_cluster_upstream_rq_retry_success", 'envoy_cluster_name="server"')
    pods[1].kill()
    for _ in range(20):
        assert client.chat("Hello", max_tokens=2).finish_reason == "length"
    retried = proxy.metric("envoy_cluster_upstream_rq_retry_success", 'envoy_cluster_name="server"') - before
    print(f"{retried:.0f} of 20 requests were sent to another server")
    assert retried >= 1
