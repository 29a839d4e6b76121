"""Recording rules, alerts and scaling queries, as promtool judges them: each alert fires, and does not just below."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, NAMESPACE, RELEASE, render
from tests.helm.monitoring import RULES, RUNBOOK, UNIT_TESTS, expressions, rules, scaling_queries
from tests.helm.prometheus import binary
from tests.helm.promql import Selector, selectors

ALERTS, RECORDS = rules("alert"), rules("record")


def promtool(*words: str | Path) -> str:
    done = subprocess.run(
        [str(binary("promtool")), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unit_tests() -> list[Mapping[str, Any]]:
    return [one for file in UNIT_TESTS for one in yaml.safe_load(file.read_text())["tests"]]


def test_rules_are_valid_and_written_as_promtool_likes_them() -> None:
    assert len(RULES) == 5
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_unit_tests_of_rules(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_seen_firing_and_silent(name: str) -> None:
    cases = [
        case for one in unit_tests() for case in one.get("alert_rule_test", ()) if case["alertname"] == name
    ]
    assert any(case["exp_alerts"] for case in cases), "no unit test in which it fires"
    assert any(not case["exp_alerts"] for case in cases), "no unit test in which it stays silent"
    for case in cases:
        for fired in case["exp_alerts"]:
            assert fired["exp_labels"]["namespace"] == "shop"
            told = " ".join(fired["exp_annotations"].values())
            assert "<no value>" not in told
            assert "{{" not in told


@pytest.mark.parametrize("name", RECORDS)
def test_a_recording_rule_has_a_unit_test(name: str) -> None:
    asked = [case["expr"] for one in unit_tests() for case in one.get("promql_expr_test", ())]
    assert any(Selector(name, ()) in selectors(expression) for expression in asked)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_what_and_what_to_do(name: str) -> None:
    (alert,) = ALERTS[name]
    assert re.fullmatch(r"Qwen3VL[A-Z][A-Za-z0-9]+", name)
    assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert told["summary"] != told["description"]
    assert told["runbook_url"] == f"{RUNBOOK}#alert-{name.lower()}"


@pytest.mark.parametrize("language", ["kubernetes.md", "kubernetes.zh-CN.md"])
def test_the_guide_tells_what_to_do_about_every_alert(language: str) -> None:
    text = (CHART.parents[1] / "docs" / language).read_text()
    titles = re.findall(r"^#+ Alert (Qwen3VL\w+)$", text, re.MULTILINE)
    assert sorted(titles) == sorted(ALERTS)


def test_every_recorded_number_is_used() -> None:
    used = {selector.name for text in expressions().values() for selector in selectors(text)}
    assert set(RECORDS) <= used


def test_the_chart_installs_the_rules_as_they_are(tmp_path: Path) -> None:
    objects = render(sets=["metrics.prometheusRule.enabled=true"])
    (installed,) = (each["spec"] for each in objects if each["kind"] == "PrometheusRule")
    assert installed["groups"] == [
        group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(installed))
    promtool("check", "rules", file)


def test_an_alert_can_be_left_out() -> None:
    objects = render(
        sets=["metrics.prometheusRule.enabled=true", 'metrics.prometheusRule.disabled=["Qwen3VLCacheAway"]']
    )
    (installed,) = (each["spec"] for each in objects if each["kind"] == "PrometheusRule")
    names = [
        rule.get("alert", rule.get("record")) for group in installed["groups"] for rule in group["rules"]
    ]
    assert len(names) == sum(map(len, (*ALERTS.values(), *RECORDS.values()))) - 1
    assert "Qwen3VLCacheAway" not in names


def series(name: str, release: str = RELEASE, **labels: str) -> str:
    told = {"namespace": NAMESPACE, "release": release, "pod": "s-0"} | labels
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in told.items()) + "}"


WAITING, IN_USE, TOTAL = "qwen3vl_waiting_sequences", "qwen3vl_kv_blocks_in_use", "qwen3vl_kv_blocks_total"
REQUESTS, BLOCKS = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
SCALING = [
    (
        "openvino",
        "waiting",
        {series(WAITING): 3, series(WAITING, pod="s-1"): 4, series(WAITING, "other"): 50},
        7,
    ),
    ("openvino", "waiting", {}, 0),
    (
        "openvino",
        "kv",
        {series(IN_USE): 30, series(TOTAL): 40, series(IN_USE, "other"): 0, series(TOTAL, "other"): 40},
        75,
    ),
    ("openvino", "kv", {}, 0),
    (
        "tensorrt-llm",
        "waiting",
        {
            series(REQUESTS, request_type="waiting"): 5,
            series(REQUESTS, request_type="active"): 90,
            series(REQUESTS, "other", request_type="waiting"): 70,
        },
        5,
    ),
    ("tensorrt-llm", "waiting", {}, 0),
    (
        "tensorrt-llm",
        "kv",
        {
            series(BLOCKS, kv_cache_block_type="fraction"): 0.25,
            series(BLOCKS, kv_cache_block_type="used"): 900,
            series(BLOCKS, "other", kv_cache_block_type="fraction"): 1,
        },
        25,
    ),
    ("tensorrt-llm", "kv", {}, 0),
]


@pytest.mark.parametrize(("target", "name", "given", "expected"), SCALING)
def test_scaling_asks_for_this_release_and_always_gets_one_number(
    target: str, name: str, given: Mapping[str, float], expected: float, tmp_path: Path
) -> None:
    case = {
        "input_series": [{"series": one, "values": f"{value}x5"} for one, value in given.items()],
        "promql_expr_test": [
            {
                "expr": scaling_queries(target)[name],
                "eval_time": "2m",
                "exp_samples": [{"labels": "{}", "value": expected}],
            }
        ],
    }
    file = tmp_path / "scaling.yaml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", **case}]}))
    promtool("test", "rules", file)
