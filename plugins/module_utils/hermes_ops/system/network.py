# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens on which TCP port of this host, from /proc alone."""

from __future__ import annotations

import contextlib
import os
import re

from .files import Owner, acting_as

_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_UNIT = re.compile(r"/hermes-gateway@([^/]+)\.service(?:/|$)", re.M)


def listeners(ports: set[int], *owners: Owner) -> dict[int, set[int]]:
    """Which of *ports* are listened on, and by whom.

    :param owners: users whose processes are looked at with their own rights too: in a container even root may
        lack those to look at another user's
    :returns: port -> process ids; an empty set when the process cannot be seen
    """
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = stream.read().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            port = int(fields[1].rsplit(":", 1)[1], 16)
            if fields[3] == _LISTEN and port in ports:
                inodes[fields[9]] = port
    found: dict[int, set[int]] = {port: set() for port in inodes.values()}
    _find(inodes, found)
    for owner in owners:
        if not all(found.values()):
            with acting_as(owner):
                _find(inodes, found)
    return found


def _find(inodes: dict[str, int], found: dict[int, set[int]]) -> None:
    """Add to *found* every process that holds one of the sockets *inodes*."""
    if not inodes:
        return
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        # It may be gone meanwhile, or not ours to see.
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                match = _SOCKET.match(os.readlink(entry.path))
                if match and match.group(1) in inodes:
                    found[inodes[match.group(1)]].add(pid)


def command_line(pid: int) -> list[str]:
    """The words of a process's command line; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return [word.decode("utf-8", "replace") for word in stream.read().split(b"\0") if word]
    except OSError:
        return []


def gateway_of(pid: int) -> str | None:
    """The profile whose unit, of any scope, a process belongs to."""
    match = _UNIT.search(_cgroups(pid))
    return match[1] if match else None


def _cgroups(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""


def outsiders(pids: set[int], profiles: set[str]) -> set[int]:
    """Those of *pids* that belong to none of the gateways of *profiles*, and have not ended meanwhile."""
    return {pid for pid in pids if gateway_of(pid) not in profiles and command_line(pid)}


def describe(pids: set[int]) -> str:
    """``pid 12 (nginx)`` for people."""
    named = []
    for pid in sorted(pids):
        gateway, words = gateway_of(pid), command_line(pid)
        program = os.path.basename(words[0]) if words else "gone"
        named.append(f"pid {pid} ({f'the gateway of profile {gateway}' if gateway else program})")
    return ", ".join(named) or "a process that cannot be seen"
