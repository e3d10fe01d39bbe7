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

from ..system.errors import OpsError
from ..system.files import Account, read_text
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.services import plan_active, plan_gone
from ..system.systemd import Manager
from . import settings
from .jobs import UNIT_DIRECTORY

UNIT = "hermes-metadata.service"
PATH = f"{UNIT_DIRECTORY}/{UNIT}"
RULES = os.path.join(settings.DIRECTORY, "metadata.nft")
# Addresses at which clouds hand out a machine's credentials.
IPV4, IPV6 = "169.254.169.254", "fd00:ec2::254"
# Numbers that users may take in user namespaces (subuid(5)).
SUBORDINATE = "/etc/subuid"
_RANGE = re.compile(r"([^:\s]+):(\d{1,10}):(\d{1,10})", re.ASCII)
_NFT = "/usr/sbin/nft"
_TABLE = "inet hermes_metadata"

_SERVICE = f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Wall between the Hermes agents and the metadata service
# Before there is a network, and again when that service has flushed all rules.
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
After=local-fs.target nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
# nft replaces the table in one step, also when it is there.
ExecStart={_NFT} --file {RULES}
ExecReload={_NFT} --file {RULES}

[Install]
WantedBy=sysinit.target
"""


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
    if user.isdigit():
        return int(user)
    try:
        return Account.named(user).uid
    except OpsError:
        return None


def render(uids: Iterable[int], ranges: str = "") -> str:
    """The rules that keep the users *uids* from the metadata service; *ranges* as for :func:`numbers`."""
    users = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in numbers(uids, ranges))
    rules = [
        f"        meta skuid {{ {users} }} {family} daddr {address} reject\n"
        for family, address in (("ip", IPV4), ("ip6", IPV6))
    ]
    # Named first, so that there is a table to delete.
    return f"""\
# Written by the Ansible collection alwayson.hermes.
table {_TABLE}
delete table {_TABLE}
table {_TABLE} {{
    chain output {{
        type filter hook output priority filter; policy accept;
{"".join(rules) if users else ""}    }}
}}
"""


def plan_present(uids: Iterable[int], manager: Manager) -> Plan:
    """Compare the host with one on which the users *uids* cannot reach the metadata service."""
    plan = Plan()
    plan.add_file(RULES, render(uids, read_text(SUBORDINATE) or ""), mode=0o600)
    plan_active(plan, manager, UNIT, unit_files={PATH: _SERVICE}, reads=[RULES])
    if not plan.changed and os.path.exists(_NFT) and not stands():
        plan.add(Difference(f"table {_TABLE}", None, "present"), lambda: manager.call("restart", UNIT))
    return plan


def plan_absent(manager: Manager) -> Plan:
    """Compare the host with one that has no such rules."""
    plan = Plan()
    plan_gone(plan, manager, UNIT, [PATH, RULES])
    if plan.changed:
        plan.actions.append(lambda: run([_NFT, "delete", "table", *_TABLE.split()], timeout=20, check=False))
    return plan


def present() -> bool:
    """Whether the rules are declared."""
    return os.path.exists(RULES)


def stands() -> bool:
    """Whether the rules are in force."""
    try:
        return run([_NFT, "list", "table", *_TABLE.split()], timeout=20, check=False).ok
    except OpsError:
        return False
