# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents in containers, one for each user: made, started, stopped and removed. Their units do all the rest."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..agent import removal
from ..agent.work import Work, read_work
from ..description.runtime_addresses import network_of, room_of
from ..host import runtimes
from ..host.installation import journals
from ..host.records import Records
from ..host.runtime_network import pinning
from ..host.runtimes import User
from ..system.errors import OpsError, Refused
from ..system.files import ensure_directory, read_text
from ..system.process import run
from ..system.request import receive
from ..system.systemd import Unit, batches
from . import resting, runtime_copies, runtime_disk
from .runtime_files import enable, is_complete, known, link, make_directory, make_places, write, write_variables
from .runtime_host import Host
from .runtime_units import AGENT, FRONT, PODMAN, REST, SOCKET

# Seconds beyond those within which an agent has to be healthy.
_GRACE = 30.0
_POLL_SECONDS = 0.05
# Seconds for the server of webhooks, once that of the API answers.
_WEBHOOK_SECONDS = 3.0
# Bytes of an answer of HTTP up to the end of its status.
_STATUS = 12
# What ExecStopPost= writes: systemd's word for the end, and the status of the container, if it came to that.
_FAILURE = re.compile(r"([a-z-]{1,40})(?: ([A-Z0-9]{1,20}))?")
# Status of an agent's entrypoint, or of podman -> why.
_REASONS = {
    "78": "its description or a secret is wrong",
    "74": "its home could not be converged",
    "125": "podman could not start its container",
}


def boot(host: Host, say: Callable[[str], object]) -> None:
    """Make what the units need in memory, and set what wakes sleeping agents for cron.

    :param say: gets a line for each user for whom that is not possible; the others have theirs
    """
    write(host, say)
    resting.set_wakes(host.users.directory, (user.id for user in known(host, say) if not user.off))


def rest(host: Host, user: User, say: Callable[[str], object]) -> None:
    """Wait until the agent's own work is done, see :func:`resting.rest`."""
    records = host.users.directory

    def look() -> Work:
        return work_of(host, user, agent_of(host, user))

    resting.rest(look, time.sleep, time.time, lambda due: resting.set_wake(records, user.id, due), say)


def agent_of(host: Host, user: User) -> Unit:
    """The unit of the user's agent."""
    name = AGENT.format(user.id)
    return host.manager.units([name])[name]


def work_of(host: Host, user: User, agent: Unit) -> Work:
    """The work that the user's *agent* has."""
    # What an agent that is gone has left is nobody's work.
    since = time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - agent.began) if agent.running else time.time()
    return read_work(user.home(host.data_dir), host.account_of(user), since)


def enrol(host: Host, names: Iterable[str]) -> list[User]:
    """Give *names* a runtime each, which sleeps, unless they have one; returns all of them.

    Killed at any point, it is finished by the next call.

    :raises OpsError: a name cannot be one, there is no room for it, or the agent has moved elsewhere
    """
    names = list(names)
    known = [host.users.find(name) for name in names]
    users = [user for user in known if user and not user.off and is_complete(host, user)]
    if len(users) == len(names):
        # Also while somebody else makes or removes runtimes.
        return users
    with host.users.lock():
        for user in filter(None, known):
            Records(host.ops_dir, user.agent).refuse_moved()
        users = host.users.enrol(names, room_of(network_of(host.settings.network)))
        complete(host, [user for user in users if not is_complete(host, user)])
    return users


def complete(host: Host, users: list[User]) -> None:
    """Make what is missing for a call to wake the agents of *users*; the caller has the lock.

    :raises Refused: the home of one is being restored
    """
    for user in users:
        _refuse_restored(host, user)
    _complete(host, users)


def _refuse_restored(host: Host, user: User) -> None:
    if journals(host.ops_dir, "restore", user.agent):
        raise Refused(
            "is being restored, or that was interrupted",
            where=f"user {user.name}",
            fix="wait for it, or undo it: hermes-ops restore --recover",
        )


def _complete(host: Host, users: list[User]) -> None:
    if not users:
        return
    make_places()
    ensure_directory(os.path.join(host.data_dir, runtimes.VOLUMES), mode=0o711)
    for user in users:
        if not os.path.lexists(user.directory(host.data_dir)):
            # Nothing of theirs is due.
            resting.record(host.users.directory, user.id, None)
        make_directory(host, user)
        write_variables(host, user)
        enable(user)
    for some in batches([SOCKET.format(user.id) for user in users]):
        host.manager.call("start", *some)


def ensure(host: Host, name: str) -> dict[str, Any]:
    """Give the user *name* a runtime if there is none, and wait until the agent is healthy.

    :returns: see :func:`report`
    :raises OpsError: it is not healthy in time
    """
    (user,) = enrol(host, [name])
    _wake(host, user)
    (found,) = report(host, [user])
    if found["state"] != "running":
        raise OpsError(
            f"could not be started: {found['reason'] or 'it was stopped meanwhile'}",
            where=f"user {user.name}",
            fix=f"read its log: hermes-ops runtime logs -- {shlex.quote(user.name)}",
        )
    return found


def start(host: Host, user: User) -> None:
    """Have calls wake the user's agent again, also while its home is being restored, and wake it.

    Whether that succeeded is in its state.
    """
    with host.users.lock():
        host.users.enrol([user.name], room_of(network_of(host.settings.network)))
        _complete(host, [] if is_complete(host, user) else [user])
    _wake(host, user)


def _wake(host: Host, user: User) -> None:
    agent, front = AGENT.format(user.id), FRONT.format(user.id)
    units = host.manager.units([agent, front])
    if units[agent].active != "active":
        if units[front].active == "active" and units[agent].dead:
            # It is left of an agent that has ended, and only refuses calls. Somebody else may do the same now.
            host.manager.call("stop", front, check=False)
        wake(host, user)


def wake(host: Host, user: User) -> bool:
    """Start the user's agent as any caller does; returns whether it is healthy.

    A front that was started without a call would never be idle.
    """
    # It may have to wait for its turn for as long.
    return _answers(socket.AF_UNIX, user.socket, 2 * host.settings.start + _GRACE)


def report(host: Host, users: Iterable[User]) -> list[dict[str, Any]]:
    """What there is to say of each of *users*.

    :returns: ``user``, ``id``, ``container``, ``url``, ``uid``, ``state`` (``running``, ``starting``, ``asleep``: the
        next call wakes it, ``failed``: the next call tries again, ``off``: it was stopped), ``since`` (seconds that it
        has run; 0), ``reason`` (why it could not be started; None) and ``disk`` (per cent of ``runtimes_disk`` that
        are in use; None: there is no limit)
    """
    users = list(users)
    limited = bool(host.settings.disk) and runtime_disk.in_force(host)
    names = [unit.format(user.id) for user in users for unit in (SOCKET, AGENT)]
    units = host.manager.units(names)
    found = []
    for user in users:
        listening, agent = units[SOCKET.format(user.id)], units[AGENT.format(user.id)]
        reason = reason_of(user)
        if listening.dead and not user.off:
            reason = reason or f"its socket is {listening.active}: ensure starts it again"
        found.append(
            {
                "user": user.name,
                "id": user.id,
                "container": user.container,
                "url": host.url_of(user),
                "uid": host.account_of(user).uid,
                "state": _state(user, agent, reason),
                "since": int(agent.age) if agent.running else 0,
                "reason": reason,
                "disk": runtime_disk.usage(host, host.account_of(user).uid).percent if limited else None,
            }
        )
    return found


def _state(user: User, agent: Unit, reason: str | None) -> str:
    if agent.active == "active":
        return "running"
    if agent.active == "activating":
        return "starting"
    if user.off:
        return "off"
    return "failed" if reason else "asleep"


def reason_of(user: User) -> str | None:
    """Why the user's agent could not be started the last time; None: it could."""
    text = read_text(user.failed, 200)
    if text is None:
        return None
    match = _FAILURE.fullmatch(text.strip())
    result, status = match.groups() if match else (None, None)
    if result == "timeout":
        return "it was not healthy in time" if status else "too many others were being started all the time"
    return _REASONS.get(status, f"it ended with status {status}") if status else "it did not end well"


def stop(host: Host, user: User) -> None:
    """Stop the user's agent once its work in progress is done, at most after its drain time.

    No call wakes it until the next :func:`enrol`.
    """
    with host.users.lock():
        _stop(host, user)


def _stop(host: Host, user: User) -> None:
    host.users.write(replace(user, off=True))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link(user))
    _halt(host, user)


def halt(host: Host, user: User) -> None:
    """Stop the user's agent as :func:`stop` does, but until the next boot at most, and for :func:`start`."""
    with host.users.lock():
        _halt(host, user)


def _halt(host: Host, user: User) -> None:
    # Before and after: a wake would start the agent again, and a rest that ends sets one.
    resting.forget_wake(host.users.directory, user.id)
    units = [unit.format(user.id) for unit in (SOCKET, FRONT, REST, AGENT)]
    host.manager.call("stop", *units, timeout=host.settings.supervised.drain + 2 * _GRACE)
    host.manager.call("reset-failed", *units, check=False)
    resting.forget_wake(host.users.directory, user.id)


def remove(host: Host, user: User, *, purge: bool) -> None:
    """Remove the user's runtime; if *purge*, also the data and all copies of them on this host.

    Without *purge*, another ``ensure`` goes on with them.

    Killed at any point, it is finished by the next call; at the end of a purge, by that of an orphan.

    :raises Refused: the home is being restored
    """
    directory, aside = user.directory(host.data_dir), []
    if purge and not os.path.isdir(os.path.dirname(directory)):
        raise OpsError("is not there", where=os.path.dirname(directory), fix="mount the volume with the users' data")
    with host.users.lock():
        _refuse_restored(host, user)
        _stop(host, user)
        run([PODMAN, "rm", "--force", "--ignore", "--time=0", user.container], timeout=60.0)
        shutil.rmtree(f"{runtimes.USERS}/{user.id}", ignore_errors=True)
        for path in (user.failed, user.webhooks):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if purge:
            if os.path.lexists(directory):
                aside = [runtime_copies.set_aside(host, directory)]
            aside += runtime_copies.purge(host, user.id)
            records = Records(host.ops_dir, user.agent)
            if records.exist():
                # Copies of the user's files, from a restore.
                records.remove()
            runtime_disk.release(host, user)
            host.users.forget(user)
    for path in aside:
        # The user decides how long this takes. Killed here, it is an orphan.
        removal.remove(path, host.account_of(user))


def await_health(host: Host, user: User, process: int) -> None:
    """Wait until the agent answers. systemd has a time limit.

    :param process: the container's; once it is gone there is nothing to wait for
    :raises OpsError: it is gone
    """
    for command in pinning(network_of(host.settings.network)):
        run(command, timeout=_GRACE)
    address, agent = str(host.address_of(user)), host.settings.supervised
    while not _answers(socket.AF_INET, (address, agent.api.port), 5.0):
        if not os.path.exists(f"/proc/{process}"):
            raise OpsError("ended before it was healthy", where=f"user {user.name}", fix="read its log")
        time.sleep(_POLL_SECONDS)
    # A subscription of the agent's own can keep this server down, and the agent is of use without it.
    deadline = time.monotonic() + _WEBHOOK_SECONDS
    while agent.webhook.enabled and time.monotonic() < deadline:
        if _answers(socket.AF_INET, (address, agent.webhook.port), 1.0):
            break
        time.sleep(_POLL_SECONDS)
    resting.awake(host.users.directory, user.id)
    for path in (user.starting, user.failed):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _answers(family: int, address: Any, seconds: float) -> bool:
    """Whether the agent at *address* says within *seconds* that it is healthy. Only the status that it says is read."""
    deadline, said = time.monotonic() + seconds, b""
    try:
        with socket.socket(family) as connection:
            connection.settimeout(seconds)
            connection.connect(address)
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            # By the deadline: an agent may send each byte just before a time limit of its own would be over.
            while len(said) < _STATUS and (part := receive(connection, deadline, _STATUS - len(said))):
                said += part
            return said[8:] == b" 200"
    except OSError:
        return False
