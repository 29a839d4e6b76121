"""Whether an object is one that Kubernetes would take: strict schemas of each version, closed ones for custom resources.

Kubernetes' own come with the package kubernetes-validate. Those of custom resources (crds/*.json) are ours, written after their
owners' references, and hold only the fields that the chart uses: a further field has to be looked up and added there. A kind that
nobody knows is a fault, where the package only warns.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.helm.chart import Object
from tests.helm.pod_templates import named

CUSTOM = {
    (schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]): schema
    for file in sorted((Path(__file__).parent / "crds").glob("*.json"))
    for schema in (json.loads(file.read_text()),)
}


def faults(item: Object, kubernetes: str) -> Iterator[str]:
    """What the object has that it must not have, or lacks."""
    name = (item["apiVersion"], item["kind"])
    if name in CUSTOM:
        yield from _errors(jsonschema.Draft202012Validator(CUSTOM[name]), item)
        for template in ("leaderTemplate", "workerTemplate"):
            if template in item["spec"].get("leaderWorkerTemplate", {}):
                pod = {"apiVersion": "v1", "kind": "Pod", **item["spec"]["leaderWorkerTemplate"][template]}
                yield from faults(pod | {"metadata": {"name": template, **pod["metadata"]}}, kubernetes)
    elif (validator := _own(*name, kubernetes)) is None:
        yield f"{named(item)}: Kubernetes {kubernetes} knows no {item['kind']} of {item['apiVersion']}"
    else:
        yield from _errors(validator, item)


def _errors(validator: Any, item: Object) -> Iterator[str]:
    for error in validator.iter_errors(item):
        yield f"{named(item)}: {error.json_path}: {error.message[:300]}"


@functools.cache
def _own(api_version: str, kind: str, kubernetes: str) -> Any:
    """Kubernetes' own schema; None for a kind that it does not know."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    place = f"kubernetes-json-schema/v{_release(kubernetes)}-local-strict"
    try:
        schema = utils.schema_contents(f"{place}/{kind.lower()}-{group}.json", kubernetes)
    except FileNotFoundError:
        return None
    registry = Resource.from_contents(schema) @ (_definitions(kubernetes) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(kubernetes: str) -> Any:
    place = f"kubernetes-json-schema/v{_release(kubernetes)}-local-strict"
    return Resource.from_contents(utils.schema_contents(f"{place}/_definitions.json", kubernetes))


def _release(kubernetes: str) -> str:
    """The last release of a minor version whose schemas are there."""
    return str([release for release in utils.all_versions() if utils.major_minor(release) == kubernetes][-1])
