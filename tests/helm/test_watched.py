"""A real Prometheus watches the running system: real Triton, gateway, worker, broker and cache, under the chart's rules.

What rules and dashboards ask for must be there under that name and with those labels, and healthy parts raise no alert.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helm.chart import NAMESPACE, RELEASE
from tests.helm.monitoring import (
    DASHBOARDS,
    ENVOY,
    KUBERNETES,
    NVIDIA,
    PROMETHEUS,
    RULES,
    expressions,
    panel_queries,
    rules,
    scaling_queries,
)
from tests.helm.prometheus import Prometheus, Sample, Target, scraping
from tests.helm.promql import Selector, selectors
from tests.waiting import until

pytestmark = pytest.mark.server

ELSEWHERE = NVIDIA | ENVOY | KUBERNETES
QUESTIONS = ("route", "=~", '"/v1/chat/completions|/v1/tickets|/api/predict"')
UNHEARD_OF_WHEN_WELL = {
    Selector("cs_http_requests_total", (QUESTIONS, ("status", "=~", '"5.."'))),
    Selector("cs_messages_total", (("result", "=", '"failed"'),)),
}
"""Series that begin with the first failure."""
EMPTY_WHEN_WELL = {"Failures by model"}
WAIT_S = 30.0


@dataclass(frozen=True)
class Watched:
    """The running system, and who watches it."""

    prometheus: Prometheus
    names: frozenset[str]

    def ask(self, expression: str) -> list[Sample]:
        """A query, with a dashboard's variables filled in."""
        for variable, value in (
            ("$namespace", NAMESPACE),
            ("$release", RELEASE),
            ("$__rate_interval", "30s"),
        ):
            expression = expression.replace(variable, value)
        return self.prometheus.query(expression)

    def wait(self, expression: str) -> list[Sample]:
        """The same, until there is a number."""
        end = time.monotonic() + WAIT_S
        while not (found := [one for one in self.ask(expression) if not math.isnan(one.value)]):
            assert time.monotonic() < end, f"no number: {expression}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def watched(demo_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    ready, output = directory / "ready.json", directory / "output"
    command = [sys.executable, "-m", "gateway", "dev", "--engines", str(demo_engines), "--free-ports"]
    command += ["--state", str(directory / "run"), "--ready-file", str(ready)]
    with output.open("wb") as file:
        stack = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        until(lambda: ready.exists() or stack.poll() is not None, 120)
        assert ready.exists(), output.read_text()
        urls = json.loads(ready.read_text())["urls"]
        triton = json.loads((directory / "run" / "triton.ready.json").read_text())
        targets = [
            Target(f"http://{triton['host']}:{triton['metrics_port']}/metrics", "server", "metrics"),
            Target(urls["metrics"], "gateway", "http"),
            Target(f"{urls['worker']}/metrics", "worker", "worker"),
        ]
        with scraping(directory, targets, NAMESPACE, RELEASE, RULES) as prometheus:
            # Rates need a number before and one after.
            until(lambda: len(prometheus.query("up == 1")) == len(targets), WAIT_S)
            for _ in range(2):
                use(urls["page"])
                time.sleep(1.5)
            time.sleep(1.5)
            yield Watched(prometheus, prometheus.names())
    finally:
        stack.send_signal(signal.SIGINT)
        code = stack.wait(60)
    assert code == 0, output.read_text()


def use(url: str) -> None:
    """One streamed answer, one in the tutorial's form, one ticket."""
    body: Mapping[str, Any] = {
        "model": "qwen3_vl",
        "messages": [{"role": "user", "content": "手机黑屏怎么办？"}],
    }
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        assert "[DONE]" in http.post("/v1/chat/completions", json={**body, "stream": True}).text
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        made = http.post("/v1/tickets", json=body)
        assert made.status_code == 202
        ticket = f"/v1/tickets/{made.json()['ticket_id']}"
        until(lambda: http.get(ticket).json()["state"] in ("answered", "handed_off"), 60)


def test_every_metric_is_exported_or_documented_by_its_maker(watched: Watched) -> None:
    asked: dict[str, str] = {}
    for place, expression in expressions().items():
        for selector in selectors(expression):
            asked.setdefault(selector.name, place)
    records = set(rules("record"))
    missing = {
        name: place
        for name, place in asked.items()
        if name not in watched.names | ELSEWHERE | PROMETHEUS | records
    }
    assert missing == {}
    assert not watched.names & ELSEWHERE, "these are exported here: check them like all others"
    assert set(asked) >= (ELSEWHERE - {"envoy_http_downstream_rq_total"}), "listed and not used"


def test_labels_that_rules_select_by_exist(watched: Watched) -> None:
    absent = set()
    for kind in ("alert", "record"):
        for several in rules(kind).values():
            for rule in several:
                for selector in selectors(rule["expr"]):
                    if selector.name not in ELSEWHERE and not watched.ask(f"count({selector})"):
                        absent.add(selector)
    assert absent == UNHEARD_OF_WHEN_WELL


@pytest.mark.parametrize("name", rules("record"))
def test_a_recorded_number_is_there(watched: Watched, name: str) -> None:
    several = rules("record")[name]
    for rule in several:
        matchers = "".join(f',{label}="{value}"' for label, value in rule.get("labels", {}).items())
        (sample,) = watched.wait(f'{name}{{namespace="{NAMESPACE}",release="{RELEASE}"{matchers}}}')
        assert sample.value >= 0


def test_recorded_numbers_say_what_happened(watched: Watched) -> None:
    assert [one.value for one in watched.wait("qwen3vl:servers")] == [1]
    assert [one.value for one in watched.wait("qwen3vl:release")] == [1]
    ratios = {one.labels["sli"]: one.value for one in watched.wait("qwen3vl:bad_ratio:rate5m")}
    assert ratios["gateway"] == ratios["model"] == 0
    assert watched.wait("sum(qwen3vl_requests)")[0].value >= 4


def test_nothing_that_is_well_raises_an_alert(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    states = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert {name: rule.get("lastError") for name, rule in states.items() if rule["health"] == "err"} == {}
    assert set(rules("alert")) <= set(states)
    assert [
        name for name, rule in states.items() if rule["type"] == "alerting" and rule["state"] != "inactive"
    ] == []


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_panel_shows_a_number(watched: Watched, file: Path) -> None:
    empty = set()
    for title, expression in panel_queries(file):
        if {selector.name for selector in selectors(expression)} & ELSEWHERE:
            assert watched.ask(expression) == []
        elif not watched.ask(expression):
            empty.add(title)
    assert empty <= EMPTY_WHEN_WELL


@pytest.mark.parametrize("target", ["openvino", "tensorrt-llm"])
def test_scaling_gets_one_number(watched: Watched, target: str) -> None:
    queries = scaling_queries(target)
    assert {"waiting", "kv"} <= set(queries)
    for name, expression in queries.items():
        (sample,) = watched.ask(expression)
        assert sample.labels == {}
        assert 0 <= sample.value < 100, name
