# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps agents' users from the metadata service, which hands out the credentials of the machine.

The units have ``IPAddressDeny=`` for it, which needs BPF and holds for units only. These rules of nftables hold for
everything that runs as such a user: a terminal, a unit of a user's manager, a job of cron.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from ..system.files import read_text
from ..system.plan import Plan
from ..system.systemd import Manager
from . import settings
from .accounts import number_of_user
from .nftables import Table

TABLE = Table(
    name="hermes_metadata",
    unit="hermes-metadata.service",
    description="Wall between the Hermes agents and the metadata service",
    rules=os.path.join(settings.DIRECTORY, "metadata.nft"),
)
# Addresses at which clouds hand out a machine's credentials.
IPV4, IPV6 = "169.254.169.254", "fd00:ec2::254"
# Numbers that users may take in user namespaces (subuid(5)).
SUBORDINATE = "/etc/subuid"
_RANGE = re.compile(r"([^:\s]+):(\d{1,10}):(\d{1,10})", re.ASCII)


def numbers(uids: Iterable[int], ranges: str) -> list[tuple[int, int]]:
    """The first and last of the numbers that the users *uids* can have, without overlaps, which nft refuses.

    :param ranges: the content of :data:`SUBORDINATE`. A user takes its numbers there in a user namespace, as a
        container without root does (newuidmap(1))
    """
    uids = set(uids)
    found = [(uid, uid) for uid in uids]
    for line in ranges.splitlines():
        match = _RANGE.fullmatch(line.strip())
        if match and int(match[3]) and _uid(match[1]) in uids:
            found.append((int(match[2]), int(match[2]) + int(match[3]) - 1))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1]:
            before = merged.pop()
            first, last = before[0], max(last, before[1])
        merged.append((first, last))
    return merged


def _uid(user: str) -> int | None:
    """The number of *user*, a name or a number; None: there is no such user."""
    return int(user) if user.isdigit() else number_of_user(user)


def render(uids: Iterable[int], ranges: str = "") -> str:
    """The rules that keep the users *uids* from the metadata service; *ranges* as for :func:`numbers`."""
    users = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in numbers(uids, ranges))
    rules = [
        f"meta skuid {{ {users} }} {family} daddr {address} reject" for family, address in (("ip", IPV4), ("ip6", IPV6))
    ]
    return TABLE.render(inet={"output": rules if users else []})


def plan_present(uids: Iterable[int], manager: Manager) -> Plan:
    """Compare the host with one on which the users *uids* cannot reach the metadata service."""
    return TABLE.plan_present(render(uids, read_text(SUBORDINATE) or ""), manager)
