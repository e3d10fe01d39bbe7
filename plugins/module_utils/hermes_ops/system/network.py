# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The owners of this host's TCP sockets: one connection's asked of the kernel, all others read from /proc."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import pwd
import re
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .answer import fits
from .files import Account
from .text import one_line
from .worker import WorkerDied, work

# States of a socket in /proc/net/tcp (Linux, include/net/tcp_states.h).
_ESTABLISHED = "01"
_LISTEN = "0A"
_NET = "/proc/net"
_TABLES = ("tcp", "tcp6")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_UNIT = re.compile(r"/hermes-gateway@([^/]+)\.service(?:/|$)", re.M)
# A user's own manager: below it, that user chooses the names.
_MANAGER = re.compile(r"/user@(\d+)\.service/")
# The most descriptors that an agent's process may have; of a process with more, no socket is known.
MOST_DESCRIPTORS = 65536
# Seconds for reading the tables of sockets, and for reading the processes of one user. An agent can have very many
# sockets and processes.
_SECONDS = 2.0
# Bytes that are read of a process's command line and of its cgroups: the process chooses how long both are.
_MUCH = 4096
# An IPv4 address within IPv6, as the kernel writes it.
_MAPPED = "0000000000000000FFFF0000"
# The addresses of nodes of a tailnet (Tailscale 1.102 net/tsaddr).
_TAILNETS = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd7a:115c:a1e0::/48"))
# Questions about a single socket (sock_diag(7); Linux, include/uapi/linux/{netlink,sock_diag,inet_diag}.h), and
# seconds until the kernel has answered.
_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ANY_STATE = _ANY_COOKIE = 0xFFFFFFFF
_KERNEL_SECONDS = 1.0


@dataclass(frozen=True)
class _Row:
    """A socket in ``/proc/net/tcp`` or ``tcp6``; addresses as they stand there.

    :param uid: the user who made the socket; 0 also for a connection that is not accepted yet
    :param inode: ``0`` for a connection that is not accepted yet
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
    """The sockets that listen.

    The kernel lists listeners before connections (Linux, net/ipv4/tcp_ipv4.c: tcp_seq_start). Reading a table stops at
    its first connection, because an agent can have very many connections.
    """
    deadline = time.monotonic() + _SECONDS
    for table in _TABLES:
        yield from itertools.takewhile(lambda row: row.state == _LISTEN, _rows(deadline, f"{_NET}/{table}"))


def _is_forwarder(row: _Row) -> bool:
    """Whether it is a socket of tailscaled, which forwards a port of the tailnet to the same port of 127.0.0.1.

    It takes that port from nobody. tailscaled runs as root, so no agent can hide a listener this way.
    """
    if row.uid:
        return False
    words = row.local.rpartition(":")[0]
    parts = (words[start : start + 8] for start in range(0, len(words), 8))
    # The kernel writes each word of an address as a number of its own.
    address = ipaddress.ip_address(b"".join(int(part, 16).to_bytes(4, sys.byteorder) for part in parts))
    return any(address in network for network in _TAILNETS)


@dataclass(frozen=True)
class Listener:
    """The users and processes that listen on a port.

    :param uids: the users who made the sockets, as the kernel says
    :param pids: the processes that hold the sockets. Empty when none can be seen; a user can hide its processes
    """

    uids: set[int]
    pids: set[int]


def listeners(ports: Iterable[int], *accounts: Account) -> dict[int, set[int]]:
    """Port -> ids of the processes that listen on it. Parameters as in :func:`look_at_listeners`."""
    return {port: listener.pids for port, listener in look_at_listeners(ports, *accounts).items()}


def look_at_listeners(ports: Iterable[int], *accounts: Account) -> dict[int, Listener]:
    """The listener of each of *ports* that has one.

    :param accounts: users whose processes are also looked at by a worker with that user's rights. In a container even
        root may lack the right to look at another user's processes
    """
    wanted = set(ports)
    if not wanted:
        return {}
    sockets = [row for row in _listening() if row.port in wanted and not _is_forwarder(row)]
    users: dict[int, set[int]] = {}
    for row in sockets:
        users.setdefault(row.port, set()).add(row.uid)
    found: dict[int, set[int]] = {port: set() for port in users}
    _find(sockets, found)
    for account in accounts:
        unseen = [port for port, uids in users.items() if account.uid in uids and not found[port]]
        if unseen and os.geteuid() != account.uid:
            # An agent can stop a worker that runs as its user. The agent's listener stays unseen then, and the other
            # users' processes are still looked at.
            with contextlib.suppress(WorkerDied):
                merge_seen(found, work(account, "system.network:seen_listeners", sorted(unseen)))
    return {port: Listener(uids, found[port]) for port, uids in users.items()}


def seen_listeners(ports: list[int]) -> list[list[int]]:
    """In a worker: the result of :func:`listeners` for JSON, a list of ``[port, process id]``."""
    return [[port, pid] for port, pids in listeners(ports).items() for pid in sorted(pids)]


def merge_seen(found: dict[int, set[int]], seen: object) -> None:
    """Add the answer of a worker (:func:`seen_listeners`) to *found*."""
    for pair in seen if isinstance(seen, list) else []:
        if fits(pair, (int, int)):
            found.get(pair[0], set()).add(pair[1])


def _find(sockets: list[_Row], found: dict[int, set[int]]) -> None:
    """Add to *found* every process that holds one of *sockets* and runs as the user who made the socket.

    Each user's processes are read within a time of their own. A user with a thousand processes full of open files hides
    its own sockets that way, and no other user's.
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
    """The user that a process runs as; -1 when the process has ended or may not be seen."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def sockets_of(pid: int, seconds: float = _SECONDS) -> list[str] | None:
    """One entry for each open descriptor of a process: the inode of a socket, ``""`` for anything else.

    :returns: None when the descriptors may not be seen, or are too many to be read within *seconds*
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
        # The process has ended, or may not be seen.
        return None
    return found


def most_sockets() -> str:
    """Who has the most sockets open, in words, for people. A socket may hold a port without listening there.

    Each user's processes are read within a time of their own.
    """
    found: dict[int, int] = {}
    left: dict[int, float] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        uid = _real_user_of(pid)
        if left.setdefault(uid, _SECONDS) > 0:
            began = time.monotonic()
            found[uid] = found.get(uid, 0) + sum(map(bool, sockets_of(pid, left[uid]) or ()))
            left[uid] -= time.monotonic() - began
    uid = max(found, key=lambda each: found[each])
    return f"{_user_name(uid)} has the most sockets, {found[uid]}" if found[uid] else "nobody has a socket that we see"


def _real_user_of(pid: int) -> int:
    """Like :func:`_user_of`, also of a process that gives its directory to root (PR_SET_DUMPABLE)."""
    match = re.search(r"^Uid:\t(\d+)", _beginning(pid, "status").decode("utf-8", "replace"), re.M)
    return int(match[1]) if match else -1


def is_connected(pid: int, sockets: Iterable[str]) -> bool | None:
    """Whether one of a process's *sockets* (inodes) is a TCP connection that the process opened itself.

    :returns: None when this host has more connections than can be read in time
    """
    deadline = time.monotonic() + _SECONDS
    mine = set(sockets) - {""}
    tables = [f"/proc/{pid}/net/{table}" for table in _TABLES]
    ours = [row for row in _rows(deadline, *tables) if row.inode in mine]
    ports = {row.port for row in ours if row.state == _LISTEN}
    connected = any(row.state == _ESTABLISHED and row.port not in ports for row in ours)
    return connected or (None if time.monotonic() >= deadline else False)


def accepted_by(connection: socket.socket, deadline: float) -> int | None:
    """The user id of the process that accepted our *connection* to a server on this host.

    A port can change hands between a look at its listener and a connection. A connection cannot: the process that
    accepted it reads everything that is sent over it.

    :param deadline: of the monotonic clock; nothing is read after the deadline
    :returns: None when no process accepted the connection, or its row was not reached, before the deadline
    """
    ends = connection.getpeername(), connection.getsockname()
    local, remote = (_written(name, connection.family) for name in ends)
    wanted = {(local, remote)}
    if connection.family == socket.AF_INET:
        # The connections of a server that listens on both families are listed under IPv6.
        wanted.add((_MAPPED + local, _MAPPED + remote))
    while True:
        # An agent can have more connections than the tables can be read in time.
        found = _ask_kernel(connection.family, *ends)
        if found is None:
            rows = _rows(deadline, *(f"{_NET}/{table}" for table in _TABLES))
            found = next(((row.uid, row.inode) for row in rows if (row.local, row.remote) in wanted), (0, "0"))
        if found[1] != "0":
            return found[0]
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.01)


def _ask_kernel(family: int, local: tuple, remote: tuple) -> tuple[int, str] | None:
    """User id and inode of the socket whose connection leads from *local* to *remote*, among however many others.

    :returns: None when the kernel knows none, or answers no such question
    """
    addresses = b"".join(socket.inet_pton(family, end[0].partition("%")[0]).ljust(16, b"\0") for end in (local, remote))
    question = (
        struct.pack("=BBxxI", family, socket.IPPROTO_TCP, _ANY_STATE)
        + struct.pack("!HH", local[1], remote[1])
        + addresses
        + struct.pack("=III", 0, _ANY_COOKIE, _ANY_COOKIE)
    )
    head = struct.pack("=IHHII", 16 + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
            kernel.settimeout(_KERNEL_SECONDS)
            kernel.sendto(head + question, (0, 0))
            answer, (sender, _groups) = kernel.recvfrom(_MUCH)
        kind, ports = struct.unpack_from("=4xH", answer)[0], struct.unpack_from("!HH", answer, 20)
        uid, inode = struct.unpack_from("=II", answer, 80)
    except (OSError, struct.error):
        return None
    # Where there is no such connection, the kernel names the socket that listens.
    if sender != 0 or kind != _SOCK_DIAG_BY_FAMILY or ports != (local[1], remote[1]):
        return None
    return uid, str(inode)


def _written(address: tuple, family: int) -> str:
    """*address* in the form of /proc/net/tcp: words of 32 bits, each in the byte order of the machine."""
    packed = socket.inet_pton(family, address[0].partition("%")[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def command_line(pid: int) -> list[str]:
    """The first words of a process's command line; empty when the process has ended."""
    return [word.decode("utf-8", "replace") for word in _beginning(pid, "cmdline").split(b"\0") if word]


def gateway_of(pid: int) -> str | None:
    """The agent whose gateway's unit (of any scope) a process belongs to; None when it belongs to none."""
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
    """The processes of *pids* that belong to no gateway of *agents* and have not ended."""
    return {pid for pid in pids if gateway_of(pid) not in agents and command_line(pid)}


def describe(pids: set[int], uids: Iterable[int] = ()) -> str:
    """*pids* in words, for people: ``pid 12 (nginx)``.

    :param uids: the users who are named when *pids* is empty
    """
    named = []
    for pid in sorted(pids)[:5]:
        gateway, words = gateway_of(pid), command_line(pid)
        program = one_line(os.path.basename(words[0])[:64]) if words else "gone"
        if gateway:
            program = f"the gateway of agent {one_line(gateway)}"
            manager = _MANAGER.search(_cgroups(pid))
            program += f", says user {_user_name(int(manager[1]))}" if manager else ""
        named.append(f"pid {pid} ({program})")
    users = " or ".join(_user_name(uid) for uid in sorted(uids)[:5])
    return ", ".join(named) or f"a process{f' of user {users}' if users else ''} that cannot be seen"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
