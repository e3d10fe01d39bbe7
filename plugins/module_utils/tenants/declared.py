# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of tenants: a template that all share, and what differs for each. All of it is checked here, before
the cluster is asked for anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_network
from typing import Any

from ..hermes_ops.description.agent import Agent
from ..hermes_ops.description.declaration import merge
from ..hermes_ops.description.runtime_ids import hex_of
from ..hermes_ops.description.runtime_keys import key_of
from ..hermes_ops.description.runtimes import contained
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import number
from ..hermes_ops.system.typed import parse

# Of a tenant's objects. A StatefulSet's pods carry its name with a dash and ten characters as a label, which may have
# 63 characters, and ours a prefix.
PREFIX = "hermes-"
_LONGEST = 63 - len("-0123456789") - len(PREFIX)
# A quantity of Kubernetes, without the exponents that nobody writes.
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS = {
    **{"": Decimal(1), "m": Decimal("0.001")},
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate("kMGT", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", 1)},
}
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REFUSED = {"limits": "declare limits of the tenant, beside agent"}


@dataclass(frozen=True)
class Resources:
    """What a tenant's container is given, and what it may use, as quantities of Kubernetes."""

    cpu: str
    memory: str

    def check(self, where: str) -> None:
        for name in ("cpu", "memory"):
            if amount(getattr(self, name), f"{where}.{name}") <= 0:
                raise OpsError("is nothing", where=f"{where}.{name}", fix="write more than 0")


@dataclass(frozen=True)
class Tenant:
    """One tenant, with all that follows from the template and what differs.

    :param name: as declared; the id from which the key of its API is derived
    :param entry: what its agent is, an entry of ``hermes_agents``
    :param volume: the size of its volume
    :param storage_class: of the volume; empty: the cluster's default
    :param priority_class: of the pod; empty: the cluster's default
    :param version: of the key
    :param present: whether it is to be there
    :param purge: whether its volume goes with it
    """

    name: str
    image: str
    entry: dict[str, Any] = field(repr=False)
    secret: str = field(repr=False)
    requests: Resources
    limits: Resources
    volume: str
    storage_class: str
    node_selector: dict[str, str]
    tolerations: tuple[dict[str, Any], ...]
    priority_class: str = ""
    version: int = 1
    present: bool = True
    purge: bool = False

    @property
    def label(self) -> str:
        """By which its objects are called: a part of a DNS label."""
        return label_of(self.name)

    @property
    def object(self) -> str:
        """The name of each of its objects."""
        return f"{PREFIX}{self.label}"

    @property
    def key(self) -> str:
        """With which its API is called: the rule of users' keys (docs/runtimes-keys.md)."""
        return key_of(self.secret, hex_of(self.name), self.version)

    @cached_property
    def agent(self) -> Agent:
        """What a supervisor has to know of the agent.

        :raises OpsError: the description cannot work here
        """
        return contained(self.entry, f"tenant {self.name}: agent", _REFUSED)

    def check(self) -> None:
        """:raises OpsError: something of it cannot be"""
        where = f"tenant {self.name}"
        self.requests.check(f"{where}: requests")
        self.limits.check(f"{where}: limits")
        for name in ("cpu", "memory"):
            asked, most = getattr(self.requests, name), getattr(self.limits, name)
            if amount(asked, where) > amount(most, where):
                raise OpsError(
                    f"is {asked}, more than its limit of {most}",
                    where=f"{where}: requests.{name}",
                    fix="ask for less, or raise the limit",
                )
        if amount(self.volume, f"{where}: volume") < 64 * 2**20:
            raise OpsError(f"is {self.volume}", where=f"{where}: volume", fix="write 64Mi or more")
        if not self.image or re.search(r"\s", self.image):
            raise OpsError(f"is {self.image!r}", where=f"{where}: image", fix="name the image of the agent")
        # Derived here, so that a mistake in it is one before anything changed.
        _agent, _key = self.agent, self.key


@dataclass(frozen=True)
class Declared:
    """All tenants of a namespace.

    :param callers: names of the namespaces whose pods may call the tenants
    :param egress: private ranges that agents may reach; public addresses are open
    :param keep: for how long the volume of a tenant stays that is absent
    :param canaries: names of the tenants that are updated first; empty: the first of those that change
    :param batch: how many tenants an update may make unavailable at a time
    """

    namespace: str
    tenants: tuple[Tenant, ...]
    callers: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    keep: timedelta = timedelta(days=30)
    canaries: tuple[str, ...] = ()
    batch: int = 10


def resolve(namespace: str, template: Mapping[str, Any], tenants: Sequence[Any], **more: Any) -> Declared:
    """Check and complete what is declared.

    :param template: the fields of :class:`Tenant` that all share, and ``agent``
    :param tenants: mappings with a name, and what differs from *template*
    :param more: the other fields of :class:`Declared`
    :raises OpsError: for the first mistake; names tenant and key
    """
    if not _LABEL.fullmatch(namespace):
        raise OpsError(f"is {namespace!r}", where="namespace", fix="write lower-case letters, digits and dashes")
    found: dict[str, Tenant] = {}
    for place, declared in enumerate(tenants, 1):
        where = f"hermes_tenants: entry {place}"
        if not isinstance(declared, Mapping) or not isinstance(declared.get("name"), str):
            raise OpsError("has no name", where=where, fix="write {name: …}, and what differs from the others")
        tenant = _tenant(template, declared, where)
        other = found.get(tenant.label)
        if other:
            same = "is declared twice" if other.name == tenant.name else f"would be called like {other.name!r}"
            what = f"{tenant.name!r} {same}: its objects are {tenant.object}"
            raise OpsError(what, where=where, fix="remove one, or give it another name")
        tenant.check()
        found[tenant.label] = tenant
    declared_all = Declared(namespace, tuple(found.values()), **more)
    for name in declared_all.callers:
        if not _LABEL.fullmatch(name):
            raise OpsError(f"{name!r} is no namespace", where="callers", fix="name namespaces, such as kube-system")
    for each in declared_all.egress:
        try:
            ip_network(each)
        except ValueError:
            raise OpsError(f"{each!r} is no range", where="egress", fix="write one such as 192.0.2.7/32") from None
    names = {tenant.name for tenant in declared_all.tenants}
    for name in declared_all.canaries:
        if name not in names:
            raise OpsError(f"{name!r} is no tenant", where="canaries", fix="name tenants as they are declared")
    if declared_all.batch < 1:
        raise OpsError(f"is {declared_all.batch}", where="batch", fix="write 1 or more")
    return declared_all


def _tenant(template: Mapping[str, Any], declared: Mapping[str, Any], where: str) -> Tenant:
    for name in ("entry", "secret", "present"):
        if name in declared:
            raise OpsError(f"{name!r} is not a setting", where=where, fix="declare what differs from the template")
    values = {**template, **declared}
    state = values.pop("state", "present")
    if state not in ("present", "absent"):
        raise OpsError(f"is {state!r}", where=f"{where}: state", fix="write present or absent")
    for name in ("agent", "requests", "limits"):
        values[name] = merge(template[name], _mapping(declared.get(name, {}), f"{where}: {name}"))
    for name in ("requests", "limits"):
        # YAML has numbers for some quantities.
        values[name] = {key: str(value) if number(value) is not None else value for key, value in values[name].items()}
    entry = values.pop("agent")
    return parse(Tenant, {**values, "entry": entry, "present": state == "present"}, where)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OpsError("is no mapping", where=where, fix="write keys and values")
    return value


def label_of(name: str) -> str:
    """What stands for the tenant *name* in the names of its objects.

    :raises OpsError: there is nothing that could
    """
    hex_of(name)
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if not label or len(label) > _LONGEST:
        raise OpsError(
            f"{name!r} cannot be the name of objects in Kubernetes",
            where="hermes_tenants",
            fix=f"use a name with 1 to {_LONGEST} letters, digits and dashes",
        )
    return label


def amount(quantity: str, where: str) -> Decimal:
    """A quantity of Kubernetes as a number: cores, or bytes.

    :raises OpsError: it is none
    """
    match = _QUANTITY.fullmatch(str(quantity))
    if not match:
        raise OpsError(f"is {quantity!r}", where=where, fix="write one such as 500m or 1Gi")
    return Decimal(match[1]) * _FACTORS[match[2] or ""]
