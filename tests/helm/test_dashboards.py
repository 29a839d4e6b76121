"""The dashboards as Grafana would load them: complete, portable, nothing on top of something else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import render
from tests.helm.monitoring import DASHBOARDS, dashboard, panel_queries
from tests.helm.promql import selectors

UNITS = {"none", "short", "s", "µs", "bytes", "percentunit", "reqps", "watt"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

each_dashboard = pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)


def panels(file: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = dashboard(file)["panels"]
    return found


def test_there_are_two_with_their_own_addresses() -> None:
    assert [file.stem for file in DASHBOARDS] == ["application", "server"]
    assert len({dashboard(file)["uid"] for file in DASHBOARDS}) == 2
    uids = {dashboard(file)["uid"] for file in DASHBOARDS}
    links = [link["url"] for file in DASHBOARDS for link in dashboard(file)["links"]]
    assert {url.removeprefix("/d/").split("?")[0] for url in links} == uids


@each_dashboard
def test_its_schema_is_known_and_it_brings_no_id(file: Path) -> None:
    document = dashboard(file)
    assert document["schemaVersion"] >= 39
    assert "id" not in document, "an id belongs to one Grafana"
    assert document["title"]
    assert document["uid"] == f"qwen3vl-{file.stem}"


@each_dashboard
def test_variables_choose_source_namespace_and_release(file: Path) -> None:
    variables = {each["name"]: each for each in dashboard(file)["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "release"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert all(variables[name]["datasource"] == SOURCE for name in ("namespace", "release"))
    assert 'namespace="$namespace"' in variables["release"]["definition"]


@each_dashboard
def test_no_source_is_named(file: Path) -> None:
    def sources(node: Any) -> list[Any]:
        if isinstance(node, list):
            return [one for item in node for one in sources(item)]
        if not isinstance(node, dict):
            return []
        mine = [node["datasource"]] if "datasource" in node else []
        return mine + [one for item in node.values() for one in sources(item)]

    found = sources(dashboard(file))
    assert found
    assert all(one == SOURCE for one in found)


@each_dashboard
def test_ids_are_unique_and_titles_too(file: Path) -> None:
    ids, titles = [each["id"] for each in panels(file)], [each["title"] for each in panels(file)]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)


@each_dashboard
def test_no_panel_lies_on_another_or_leaves_the_page(file: Path) -> None:
    places = [each["gridPos"] for each in panels(file)]
    for one in places:
        assert one["x"] >= 0
        assert one["x"] + one["w"] <= WIDTH
        assert min(one["w"], one["h"]) > 0
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@each_dashboard
def test_a_panel_has_a_unit_a_description_and_queries(file: Path) -> None:
    for panel in panels(file):
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["description"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@each_dashboard
def test_every_query_asks_for_one_release(file: Path) -> None:
    wanted = {("namespace", "=", '"$namespace"'), ("release", "=", '"$release"')}
    for title, expression in panel_queries(file):
        for selector in selectors(expression):
            assert wanted <= set(selector.matchers), f"{title}: {selector}"


@each_dashboard
def test_a_legend_names_labels_that_its_query_keeps(file: Path) -> None:
    """`sum by (model)` has no {{pod}}: the legend would say "{{pod}}"."""
    for panel in panels(file):
        for target in panel.get("targets", ()):
            expression, legend = target["expr"], target.get("legendFormat", "")
            for label in [part.split("}}")[0].strip() for part in legend.split("{{")[1:]]:
                aggregated = "sum" in expression or "max" in expression
                kept = (
                    expression.split(" by (", 1)[-1].split(")")[0].split(", ")
                    if " by (" in expression
                    else []
                )
                assert not aggregated or label in kept, (panel["title"], legend)


def test_the_chart_installs_them_as_they_are() -> None:
    objects = render(sets=["metrics.dashboards.enabled=true"])
    installed = {
        name: json.loads(text)
        for each in objects
        if each["kind"] == "ConfigMap" and "grafana_dashboard" in each["metadata"]["labels"]
        for name, text in each["data"].items()
    }
    assert installed == {file.name: dashboard(file) for file in DASHBOARDS}
