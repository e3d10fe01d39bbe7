# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tenants of a namespace are, as the cluster says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..hermes_ops.system.text import printable
from .cluster import Cluster
from .objects import NAME, REMOVE, annotations
from .readiness import by_label, is_ready, reason

# Worst first.
_STATES = ("not ready", "absent", "ready")


@dataclass(frozen=True)
class Seen:
    """A tenant that is there.

    :param state: ``ready``, ``not ready``, or ``absent``: only its volume is there
    :param why: why it is not ready, or until when its volume stays; empty
    :param image: with which it runs
    :param restarts: of its agent, since its pod was made
    :param node: on which it runs
    :param volume: the size of its volume
    """

    name: str
    state: str
    why: str = ""
    image: str = ""
    restarts: int = 0
    node: str = ""
    volume: str = ""


def look(cluster: Cluster) -> list[Seen]:
    """All tenants of the namespace, those with trouble first."""
    keepers = by_label(cluster, "apps/v1", "StatefulSet")
    volumes = by_label(cluster, "v1", "PersistentVolumeClaim")
    pods = by_label(cluster, "v1", "Pod")
    found = [
        _seen(keepers.get(label), volumes.get(label), pods.get(label)) for label in keepers.keys() | volumes.keys()
    ]
    return sorted(found, key=lambda each: (_STATES.index(each.state), each.name))


def _seen(keeper: dict[str, Any] | None, volume: dict[str, Any] | None, pod: dict[str, Any] | None) -> Seen:
    one = keeper or volume or {}
    notes = annotations(one)
    name = printable(notes.get(NAME, one["metadata"]["name"]))
    claim = (volume or {}).get("spec", {}).get("resources", {}).get("requests", {}).get("storage", "")
    if keeper is None:
        day = notes.get(REMOVE)
        return Seen(name, "absent", f"its volume stays until {day}" if day else "its volume is left", volume=claim)
    (container,) = keeper["spec"]["template"]["spec"]["containers"]
    ready = is_ready(keeper)
    status = (pod or {}).get("status", {})
    return Seen(
        name,
        "ready" if ready else "not ready",
        "" if ready else reason(pod),
        container["image"],
        sum(each.get("restartCount", 0) for each in status.get("containerStatuses", ())),
        (pod or {}).get("spec", {}).get("nodeName", ""),
        claim,
    )


def lines(found: Sequence[Seen]) -> Iterator[str]:
    """*found* as a table, and how many there are of each state."""
    rows = [("TENANT", "STATE", "RESTARTS", "VOLUME", "NODE", "IMAGE")]
    rows += [(each.name, each.state, str(each.restarts), each.volume, each.node, each.image) for each in found]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row, each in zip(rows, (None, *found)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        yield f"{line}  ({each.why})" if each and each.why else line
    states = Counter(each.state for each in found)
    yield ", ".join(f"{states[state]} {state}" for state in reversed(_STATES))
