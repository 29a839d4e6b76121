"""The other machines of an engine: as given, or as LeaderWorkerSet names the pods of a group.

It knows names. LeaderWorkerSet sets LWS_LEADER_ADDRESS (NAME-0.SUBDOMAIN.NAMESPACE), LWS_GROUP_SIZE and LWS_WORKER_INDEX in every
pod of a group; its workers are NAME-0-1.SUBDOMAIN.NAMESPACE and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
ADDRESS, SIZE, INDEX = "LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"


class HostsError(ValueError):
    """No hosts: the field, what it is, what is allowed."""


def others(given: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The machines beside this one.

    Args:
        given: names with commas between; None: the environment's. "" is none, whatever the environment says.
        environment: where LeaderWorkerSet's variables may be.
    """
    if given is None:
        return _group(environment)
    hosts = tuple(word.strip() for word in given.split(",") if word.strip())
    for host in hosts:
        # `mpirun` takes a colon for the number of ranks.
        if not _HOST.fullmatch(host):
            raise HostsError(f"--nodes: got {host!r}; allowed: names and IPv4 addresses with commas between")
    if len(set(hosts)) < len(hosts):
        raise HostsError(f"--nodes: got {given!r}; allowed: each machine once")
    return hosts


def _group(environment: Mapping[str, str]) -> tuple[str, ...]:
    address, size = environment.get(ADDRESS, ""), environment.get(SIZE, "1")
    if not address:
        return ()
    if not size.isdigit() or int(size) < 1:
        raise HostsError(f"{SIZE}: got {size!r}; allowed: a number of pods, as LeaderWorkerSet sets it")
    if environment.get(INDEX, "0") != "0":
        raise HostsError(
            f"{INDEX}: got {environment[INDEX]}; allowed: 0, the leader serves; here runs `python -m ensemble node`"
        )
    name, dot, rest = address.partition(".")
    hosts = tuple(f"{name}-{index}{dot}{rest}" for index in range(1, int(size)))
    if not all(map(_HOST.fullmatch, hosts)):
        raise HostsError(f"{ADDRESS}: got {address!r}; allowed: a host name")
    return hosts
