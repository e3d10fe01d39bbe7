# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway's process, as the kernel sees it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from ..system import network
from ..system.text import number
from ..system.typed import size
from .findings import Finding, Settings

# Platforms for which the gateway's process keeps an outgoing connection open while they are connected (0.18.2 and
# 0.19.0, plugins/platforms: Discord's and Slack's web sockets, Telegram's long poll).
OUTBOUND = {"discord", "slack", "telegram"}


@dataclass(frozen=True)
class Process:
    """A gateway's process, as the kernel sees it.

    :param descriptors: number of open file descriptors; -1 when we may not see them
    :param connected: whether it has a TCP connection that it opened itself; None when we cannot see that
    :param memory: bytes that the kernel cannot reclaim, for the whole unit if the supervisor measures it
    """

    descriptors: int
    connected: bool | None
    memory: int


def look_at_process(pid: int, unit_memory: int | None) -> Process:
    """Look at a gateway's process.

    :param unit_memory: memory of its unit according to systemd (``MemoryCurrent``); None: not measured
    """
    memory = _statm(pid)
    if unit_memory is not None:
        # The kernel reclaims inactive page cache when it needs memory.
        memory = max(0, unit_memory - _inactive_file(pid))
    descriptors, connected = sockets(pid)
    return Process(descriptors, connected, memory)


def sockets(pid: int) -> tuple[int, bool | None]:
    """How many descriptors a process has open, and whether it is connected; ``(-1, None)`` when we may not see them.

    Inside a container, even root may be unable to see those of another user. A worker of that user can.
    """
    inodes = network.sockets_of(pid)
    return (-1, None) if inodes is None else (len(inodes), network.is_connected(pid, inodes))


def _statm(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="utf-8") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _inactive_file(pid: int) -> int:
    """Bytes of inactive page cache in the unit's cgroup (version 2); 0 when unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
            (path,) = [line[3:].strip() for line in stream if line.startswith("0::")]
        with open(f"/sys/fs/cgroup{path}/memory.stat", encoding="utf-8") as stream:
            return int(next(line.split()[1] for line in stream if line.startswith("inactive_file ")))
    return 0


def memory_findings(memory: int, settings: Settings, agent: str) -> list[Finding]:
    if memory <= size(settings.memory, "memory"):
        return []
    return [
        Finding(
            "memory",
            f"the unit uses {memory / 2**30:.1f} GiB of memory, more than {settings.memory}",
            "restart it, and declare limits.memory so that it cannot take the host with it",
            agent=agent,
        )
    ]


def deaf_platforms(state: dict[str, Any], process: Process) -> list[str]:
    """Platforms whose state is connected, although the process has no outgoing connection."""
    if process.connected is not False:
        return []
    return sorted(name for name in OUTBOUND & set(state["platforms"]) if _is_connected(state["platforms"][name]))


def _is_connected(platform: dict[str, Any]) -> bool:
    return platform.get("state") == "connected"


def frozen_for(heartbeat: Any, pid: int, now: float) -> float:
    """Seconds since the last heartbeat of the gateway's event loop; 0.0 when unknown.

    :param heartbeat: ``state/gateway.heartbeat``, written every 30 s by the loop itself (since 0.19.0,
        gateway/shutdown_watchdog.py)
    :param now: time on the monotonic clock, which all processes of the host share
    """
    if not isinstance(heartbeat, dict) or heartbeat.get("pid") != pid:
        return 0.0
    written = number(heartbeat.get("monotonic"))
    return max(0.0, now - written) if written is not None else 0.0
