# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tenants of a namespace are, as the cluster says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..hermes_ops.system.answer import fits
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import printable, table
from .cluster import CALLS, Cluster
from .declared import amount
from .objects import CONTAINER, NAME, REMOVE, annotations
from .readiness import by_label, is_ready, reason

# Worst first.
_STATES = ("not ready", "absent", "ready")
# The part of a volume from which on it is nearly full.
_FULL = 0.9


@dataclass(frozen=True)
class Seen:
    """A tenant that is there.

    :param state: ``ready``, ``not ready``, or ``absent``: only its volume is there
    :param why: why it is not ready, or until when its volume stays, or that it is nearly full; empty
    :param image: with which it runs
    :param restarts: of its agent, since its pod was made
    :param node: on which it runs
    :param volume: the size of its volume, as it was asked for
    :param memory: bytes that it cannot do without; None: not known
    :param request: bytes that it is given
    :param full: the part of its volume that is used, 0 to 1; None: not known
    """

    name: str
    state: str
    why: str = ""
    image: str = ""
    restarts: int = 0
    node: str = ""
    volume: str = ""
    memory: int | None = None
    request: int = 0
    full: float | None = None


@dataclass(frozen=True)
class _Measured:
    """Of the tenants' pods, by their names.

    :param memory: bytes
    :param full: the part of its volume that is used
    """

    memory: dict[str, int] = field(default_factory=dict)
    full: dict[str, float] = field(default_factory=dict)


def look(cluster: Cluster) -> list[Seen]:
    """All tenants of the namespace, those with trouble first."""
    keepers = by_label(cluster, "apps/v1", "StatefulSet")
    volumes = by_label(cluster, "v1", "PersistentVolumeClaim")
    pods = by_label(cluster, "v1", "Pod")
    measured = _measure(cluster, {label: pods[label] for label in pods if is_ready(keepers.get(label))})
    found = [
        _seen(keepers.get(label), volumes.get(label), pods.get(label), measured)
        for label in keepers.keys() | volumes.keys()
    ]
    return sorted(found, key=lambda each: (_STATES.index(each.state), not each.why, each.name))


def _measure(cluster: Cluster, ready: dict[str, dict[str, Any]]) -> _Measured:
    """What the nodes of *ready* pods measure of them, as far as they answer and we may ask."""
    measured = _Measured()
    on: defaultdict[str, set[str]] = defaultdict(set)
    for pod in ready.values():
        # One that was made after the look at its StatefulSet may have none.
        if node := pod["spec"].get("nodeName"):
            on[node].add(pod["metadata"]["name"])

    def ask(node: str) -> Any:
        try:
            return cluster.measured(node)
        except OpsError:
            return None

    with ThreadPoolExecutor(CALLS) as pool:
        answers = dict(zip(on, pool.map(ask, on)))
    for node, answer in answers.items():
        for pod in _entries(_below(answer, "pods")):
            name = _below(pod, "podRef", "name")
            if (
                not isinstance(name, str)
                or name not in on[node]
                or _below(pod, "podRef", "namespace") != cluster.namespace
            ):
                continue
            # At first it is 0.
            if used := _bytes(_below(pod, "memory", "workingSetBytes")):
                measured.memory[name] = used
            for volume in _entries(_below(pod, "volume")):
                used, left = (_bytes(_below(volume, f"{what}Bytes")) for what in ("used", "available"))
                if _below(volume, "pvcRef") and used and left is not None:
                    # As df does it: what is kept for root is neither.
                    measured.full[name] = used / (used + left)
    return measured


def _below(found: Any, *keys: str) -> Any:
    """What is below *keys* in a node's answer, which may be anything; None: there is nothing."""
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _entries(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _bytes(found: Any) -> int | None:
    return found if fits(found, int) and found >= 0 else None


def _seen(
    keeper: dict[str, Any] | None, volume: dict[str, Any] | None, pod: dict[str, Any] | None, measured: _Measured
) -> Seen:
    one = keeper or volume or {}
    notes = annotations(one)
    name = printable(notes.get(NAME, one["metadata"]["name"]))
    claim = (volume or {}).get("spec", {}).get("resources", {}).get("requests", {}).get("storage", "")
    if keeper is None:
        day = notes.get(REMOVE)
        return Seen(name, "absent", f"its volume stays until {day}" if day else "its volume is left", volume=claim)
    # Others may have put more beside it.
    container = next(each for each in keeper["spec"]["template"]["spec"]["containers"] if each["name"] == CONTAINER)
    ready = is_ready(keeper)
    status = (pod or {}).get("status", {})
    where = f"{keeper['metadata']['name']}-0"
    full = measured.full.get(where)
    why = f"its volume is {full:.0%} full" if full is not None and full >= _FULL else ""
    return Seen(
        name,
        "ready" if ready else "not ready",
        why if ready else reason(pod),
        container["image"],
        sum(each.get("restartCount", 0) for each in status.get("containerStatuses", ())),
        (pod or {}).get("spec", {}).get("nodeName", ""),
        claim,
        measured.memory.get(where),
        int(amount(container["resources"]["requests"]["memory"], name)),
        full,
    )


HEADINGS = ("RESTARTS", "MEMORY", "VOLUME", "NODE", "IMAGE")


def cells(seen: Seen) -> tuple[str, ...]:
    """What is below :data:`HEADINGS`."""
    return str(seen.restarts), _memory(seen), _volume(seen), seen.node, seen.image


def counts(found: Sequence[Seen]) -> dict[str, int]:
    """How many there are of each state."""
    states = Counter(each.state for each in found)
    return {state: states[state] for state in reversed(_STATES)}


def lines(found: Sequence[Seen]) -> Iterator[str]:
    """*found* as a table, and how many there are of each state."""
    rows = [("TENANT", "STATE", *HEADINGS), *((each.name, each.state, *cells(each)) for each in found)]
    for line, each in zip(table(rows), (None, *found)):
        yield f"{line}  ({each.why})" if each and each.why else line
    yield ", ".join(f"{number} {state}" for state, number in counts(found).items())


def _memory(seen: Seen) -> str:
    """Of what it is given, if it is known."""
    return "" if seen.memory is None else f"{seen.memory / 2**20:.0f}/{seen.request / 2**20:.0f}Mi"


def _volume(seen: Seen) -> str:
    return seen.volume if seen.full is None else f"{seen.full:.0%} of {seen.volume}"
