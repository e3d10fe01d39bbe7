# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has which TCP socket of this host, from /proc alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .answer import fits
from .files import Owner
from .text import printable
from .worker import WorkerDied, work

# States of a socket in /proc/net/tcp (Linux, include/net/tcp_states.h).
_ESTABLISHED = "01"
_LISTEN = "0A"
_NET = "/proc/net"
_TABLES = ("tcp", "tcp6")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_UNIT = re.compile(r"/hermes-gateway@([^/]+)\.service(?:/|$)", re.M)
# Descriptors that a process of an agent may have, and so the most that are read of one.
MOST_DESCRIPTORS = 65536
# Seconds for the table of all sockets, and for the processes of one user: an agent may have very many of both.
_SECONDS = 2.0
# Bytes of a process's command line, and of its cgroups: both are its own to choose.
_MUCH = 4096
# An IPv4 address within IPv6, as the kernel writes it.
_MAPPED = "0000000000000000FFFF0000"


@dataclass(frozen=True)
class _Row:
    """A socket in ``/proc/net/tcp`` or ``tcp6``; addresses as they stand there.

    :param uid: who made it; 0 as well while nobody has accepted the connection
    :param inode: ``0`` while nobody has accepted the connection
    """

    local: str
    remote: str
    state: str
    uid: int
    inode: str

    @property
    def port(self) -> int:
        return int(self.local.rpartition(":")[2], 16)


def _rows(deadline: float, *tables: str) -> Iterator[_Row]:
    """The sockets in *tables* (paths), as many as can be read until *deadline* of the monotonic clock."""
    for table in tables:
        with contextlib.suppress(OSError), open(table, encoding="utf-8") as stream:
            next(stream, None)
            for line in stream:
                if time.monotonic() >= deadline:
                    return
                fields = line.split()
                yield _Row(fields[1], fields[2], fields[3], int(fields[7]), fields[9])


def _listening() -> Iterator[_Row]:
    """The sockets that listen. The kernel writes them before all connections (Linux, net/ipv4/tcp_ipv4.c:
    tcp_seq_start), so reading a table ends where these begin: an agent may have very many of them."""
    deadline = time.monotonic() + _SECONDS
    for table in _TABLES:
        yield from itertools.takewhile(lambda row: row.state == _LISTEN, _rows(deadline, f"{_NET}/{table}"))


@dataclass(frozen=True)
class Listener:
    """Who listens on a port.

    :param uids: the users who made the sockets: the kernel says so of each
    :param pids: the processes that hold the sockets; empty when none can be seen, which a user can bring about
    """

    uids: set[int]
    pids: set[int]


def listeners(ports: Iterable[int], *owners: Owner) -> dict[int, set[int]]:
    """Port -> process ids, see :func:`look_at_listeners`."""
    return {port: listener.pids for port, listener in look_at_listeners(ports, *owners).items()}


def look_at_listeners(ports: Iterable[int], *owners: Owner) -> dict[int, Listener]:
    """Which of *ports* are listened on, and by whom.

    :param owners: users whose processes are looked at with their own rights too: in a container even root may
        lack those to look at another user's
    """
    wanted = set(ports)
    if not wanted:
        return {}
    sockets = [row for row in _listening() if row.port in wanted]
    users: dict[int, set[int]] = {}
    for row in sockets:
        users.setdefault(row.port, set()).add(row.uid)
    found: dict[int, set[int]] = {port: set() for port in users}
    _find(sockets, found)
    for owner in owners:
        unseen = [port for port, uids in users.items() if owner.uid in uids and not found[port]]
        if unseen and os.geteuid() != owner.uid:
            # An agent can stop its worker: then its processes stay unseen, and the look at others goes on.
            with contextlib.suppress(WorkerDied):
                merge_seen(found, work(owner, "system.network:seen_listeners", sorted(unseen)))
    return {port: Listener(uids, found[port]) for port, uids in users.items()}


def seen_listeners(ports: list[int]) -> list[list[int]]:
    """What :func:`listeners` finds, as JSON can say it: ``[port, process id]``."""
    return [[port, pid] for port, pids in listeners(ports).items() for pid in sorted(pids)]


def merge_seen(found: dict[int, set[int]], seen: object) -> None:
    """Add to *found* what a worker saw (:func:`seen_listeners`)."""
    for pair in seen if isinstance(seen, list) else []:
        if fits(pair, (int, int)):
            found.get(pair[0], set()).add(pair[1])


def _find(sockets: list[_Row], found: dict[int, set[int]]) -> None:
    """Add to *found* every process that holds one of *sockets*, of the user who made it.

    Each user's processes have a time of their own: who has a thousand of them with all the files that they may open
    hides what they hold, and nobody else's.
    """
    ports = {row.inode: row.port for row in sockets}
    left = dict.fromkeys((row.uid for row in sockets), _SECONDS)
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()) if sockets else ():
        uid = _user_of(pid)
        if left.get(uid, 0.0) > 0:
            began = time.monotonic()
            for inode in sockets_of(pid, left[uid]) or ():
                if inode in ports:
                    found[ports[inode]].add(pid)
            left[uid] -= time.monotonic() - began


def _user_of(pid: int) -> int:
    """The user that a process runs as; -1 when it is gone, or not ours to see."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def sockets_of(pid: int, seconds: float = _SECONDS) -> list[str] | None:
    """Of each open descriptor of a process the inode, when it is a socket, else ``""``.

    :returns: None when we may not see them, or there are too many to be read within *seconds*
    """
    deadline = time.monotonic() + seconds
    found = []
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                if len(found) >= MOST_DESCRIPTORS or time.monotonic() >= deadline:
                    return None
                with contextlib.suppress(FileNotFoundError):
                    match = _SOCKET.match(os.readlink(entry.path))
                    found.append(match[1] if match else "")
    except OSError:
        # It may be gone meanwhile, or not ours to see.
        return None
    return found


def is_connected(pid: int, sockets: Iterable[str]) -> bool | None:
    """Whether one of a process's *sockets* (inodes) is a TCP connection that it opened itself; None when there are more
    connections on this host than can be read."""
    deadline = time.monotonic() + _SECONDS
    mine = set(sockets) - {""}
    tables = [f"/proc/{pid}/net/{table}" for table in _TABLES]
    ours = [row for row in _rows(deadline, *tables) if row.inode in mine]
    ports = {row.port for row in ours if row.state == _LISTEN}
    connected = any(row.state == _ESTABLISHED and row.port not in ports for row in ours)
    return connected or (None if time.monotonic() >= deadline else False)


def accepted_by(connection: socket.socket, deadline: float) -> int | None:
    """The user id of whoever accepted our *connection* to a server on this host; None when nobody did.

    A port can change hands between a look at who listens and a connection. A connection cannot: this one is the very
    process's that will read what we send.

    :param deadline: of the monotonic clock; nothing is read after it
    """
    local, remote = (_written(name, connection.family) for name in (connection.getpeername(), connection.getsockname()))
    wanted = {(local, remote)}
    if connection.family == socket.AF_INET:
        # A server that listens on both families has it among those of IPv6.
        wanted.add((_MAPPED + local, _MAPPED + remote))
    while True:
        for row in _rows(deadline, *(f"{_NET}/{table}" for table in _TABLES)):
            if (row.local, row.remote) in wanted and row.inode != "0":
                return row.uid
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.01)


def _written(address: tuple, family: int) -> str:
    """*address* as the kernel writes it in /proc/net/tcp: words of 32 bits, each in the byte order of the machine."""
    packed = socket.inet_pton(family, address[0].partition("%")[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def command_line(pid: int) -> list[str]:
    """The first words of a process's command line; empty when it is gone."""
    return [word.decode("utf-8", "replace") for word in _beginning(pid, "cmdline").split(b"\0") if word]


def gateway_of(pid: int) -> str | None:
    """The agent whose unit, of any scope, a process belongs to."""
    match = _UNIT.search(_cgroups(pid))
    return match[1] if match else None


def _cgroups(pid: int) -> str:
    return _beginning(pid, "cgroup").decode("utf-8", "replace")


def _beginning(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as stream:
            return stream.read(_MUCH)
    except OSError:
        return b""


def outsiders(pids: set[int], agents: set[str]) -> set[int]:
    """Those of *pids* that belong to none of the gateways of *agents*, and have not ended meanwhile."""
    return {pid for pid in pids if gateway_of(pid) not in agents and command_line(pid)}


def describe(pids: set[int], uids: Iterable[int] = ()) -> str:
    """``pid 12 (nginx)`` for people.

    :param uids: the users who are named when there are no *pids*
    """
    named = []
    for pid in sorted(pids)[:5]:
        gateway, words = gateway_of(pid), command_line(pid)
        program = printable(os.path.basename(words[0])[:64]) if words else "gone"
        named.append(f"pid {pid} ({f'the gateway of agent {printable(gateway)}' if gateway else program})")
    users = " or ".join(_user_name(uid) for uid in sorted(uids)[:5])
    return ", ".join(named) or f"a process{f' of user {users}' if users else ''} that cannot be seen"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
