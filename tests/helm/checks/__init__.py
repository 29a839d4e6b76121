"""What must hold for every rendering of the chart, whatever the values: functions from objects to faults in words.

The tests run them on every way to install it and on random values; the table of mutations shows that each mistake is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.helm.chart import Object
from tests.helm.checks import containers, engines, life, policies, wiring

Check = Callable[[list[Object]], Iterator[str]]

CHECKS: tuple[Check, ...] = (
    containers.mounts_have_volumes,
    containers.claims_ask_for_room,
    life.jobs_end,
    wiring.selectors_match,
    wiring.ports_exist,
    containers.probes_ask_what_is_answered,
    life.grace_holds_the_drain,
    life.scalers_own_the_replicas,
    life.scaling_asks_for_this_release,
    wiring.names_and_labels_fit,
    containers.nobody_is_root,
    containers.programs_have_a_place_to_write,
    containers.shared_memory_is_counted,
    containers.containers_have_limits,
    wiring.references_exist,
    wiring.addresses_lead_to_services,
    policies.policies_let_through_who_speaks,
    life.budgets_let_nodes_drain,
    engines.gpus_are_asked_for,
    engines.engines_lie_under_their_key,
    life.stateful_pods_are_single,
    life.gpu_rollouts_need_no_spare,
)


def faults(objects: list[Object]) -> list[str]:
    """All that is wrong, in words."""
    return [fault for check in CHECKS for fault in check(objects)]
