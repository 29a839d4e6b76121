"""schemathesis against the API's own description: no 500, only described statuses, types and bodies, keys asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.gateway.api.conftest import Running, running

EXAMPLES = 10
# That a picture is a picture is not in the schema, so a body that fits it may still be refused with 400.
EXCLUDED = [positive_data_acceptance]


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("schema")) as gateway:
        yield gateway


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "fits-not"])
def test_the_description_is_true(listening: Running, mode: GenerationMode) -> None:
    described = httpx.get(f"{listening.url}/openapi.json").json()
    for operations in described["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)  # keys have a test of their own, for every route
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=listening.url)
    headers = {"Authorization": "Bearer acme-agent"}
    paths, told, calls = set(), [], 0
    # Streams of events end when a ticket or a hand-off does; they have tests of their own.
    for found in schema.exclude(path_regex="/events$").get_all_operations():
        operation = found.ok()
        paths.add(operation.path)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            nonlocal calls
            calls += 1
            case.call_and_validate(headers=headers, excluded_checks=EXCLUDED, timeout=20)

        try:
            check()
        except (Exception, FailureGroup) as error:
            if type(error).__name__ == "Unsatisfiable":  # nothing about this operation can be wrong
                continue
            told.append(f"{operation.label}: {[str(one) for one in getattr(error, 'exceptions', [error])]}")
    assert not told, "\n\n".join(told)
    assert len(paths) >= 18
    assert calls >= 5 * len(paths), calls
