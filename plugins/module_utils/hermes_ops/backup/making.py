# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backs up an agent's home while its gateway runs: one worker writes the archive, another one checks it."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import resource
import select
import socket
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from .. import __version__
from ..description.agent import Agent
from ..host.installation import Installation, refuse_unfinished
from ..release.observe import stamp_of
from ..supervise import gateway, runtime_agents
from ..system.errors import OpsError
from ..system.files import Account, ensure_directory, failure, sync_directory
from ..system.process import run_filter
from ..system.worker import Limits, Worker, work
from . import extracting, space, tarstream
from .archives import free_name, pattern
from .extracting import Manifest
from .settings import AGE

# Seconds to wait for another backup.
LOCK_TIMEOUT = 900.0
# Seconds that the backup of a large home may take: to a file, and over a network.
_SECONDS, _SECONDS_AWAY = 2 * 3600.0, 12 * 3600.0
# Seconds without data after which a stream is given up.
_STALLED = 900.0
_MEMORY = 1024 * 2**20
_PARTIAL = ".partial"
AGE_TIMEOUT = 60.0


class Subject(NamedTuple):
    """A home that is backed up.

    :param account: whose it is
    :param about: what the archive says about itself, see :data:`tarstream.ABOUT_KEYS`
    :param env: see :func:`create`
    :param lock: of backups, which workers inherit: if this process is killed, no backup starts beside them
    """

    account: Account
    home: str
    about: dict[str, Any]
    env: str
    lock: int


class Made(NamedTuple):
    """A new archive and its manifest."""

    path: str
    manifest: Manifest


def create(host: Installation, agent: Agent, directory: str, *, env: str = "exclude") -> Made:
    """Make an archive of the agent's home in *directory*. It gets its final name only after it was checked.

    :param agent: one of ``host.agents``, or one of a user (:mod:`runtime_agents`)
    :param env: ``.env`` is left out (``exclude``), in plain text (``include``), or encrypted: ``age:<recipient>``
    :returns: the archive: mode 0600, complete, checked and on disk
    :raises OpsError: it could not be made, and no part of it is left
    """
    with _alone(host, agent) as lock:
        if not os.path.isdir(directory):
            ensure_directory(directory, mode=0o700)
        # Leftovers of killed runs.
        for name in os.listdir(directory):
            if re.fullmatch(pattern(agent.name) + re.escape(_PARTIAL), name):
                os.unlink(os.path.join(directory, name))
        path = free_name(directory, agent.name)
        partial = path + _PARTIAL
        try:
            _write(_subject(host, agent, env, lock), partial)
            manifest = extracting.verify(partial)
            os.rename(partial, path)
            sync_directory(directory)
        except OSError as error:
            raise failure("written", path, error) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    return Made(path, manifest)


def stream(host: Installation, agent: Agent, out: BinaryIO, *, env: str = "exclude") -> Manifest:
    """Write an archive, not compressed, to *out*, and check it on its way. Parameters as in :func:`create`.

    :raises OpsError: it failed; what *out* has received is no backup
    :raises BrokenPipeError: nobody reads *out*
    """
    with _alone(host, agent) as lock:
        return send(_subject(host, agent, env, lock), out)


def send(subject: Subject, out: BinaryIO, *, packed: bool = False) -> Manifest:
    """See :func:`stream`.

    :param packed: compress it
    """
    with contextlib.ExitStack() as stack:
        source, end = _pipe(stack)
        check, copy = _pipe(stack)
        collector = _collector(subject, end.fileno(), "", _SECONDS_AWAY, packed)
        stack.callback(collector.end)
        end.close()
        checking = extracting.checking(check.fileno(), "the stream")
        stack.callback(checking.end)
        check.close()
        poll = select.poll()
        poll.register(source, select.POLLIN | select.POLLHUP)
        while poll.poll(_STALLED * 1000):
            data = os.read(source.fileno(), tarstream.CHUNK)
            if not data:
                break
            out.write(data)
            # If the check no longer reads, it has refused the archive; its result gives the reason.
            with contextlib.suppress(BrokenPipeError):
                copy.write(data)
        else:
            raise OpsError(f"wrote nothing for {_STALLED:g} s", where=subject.home)
        copy.close()
        collector.result()
        return checking.result()


def _pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    read, write = os.pipe()
    return (
        stack.enter_context(os.fdopen(read, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write, "wb", buffering=0)),
    )


def _write(subject: Subject, path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        space.check_space(descriptor, path, 0)
        _collector(subject, descriptor, path, _SECONDS, True).result()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _collector(subject: Subject, descriptor: int, where: str, seconds: float, packed: bool) -> Worker:
    """A worker that writes an archive to *descriptor*."""
    # Limits the archive, and the copy that the worker makes of a database.
    limit = space.free(descriptor) if where else resource.RLIM_INFINITY
    limits = Limits(seconds=seconds, memory=_MEMORY, file=limit)
    account, home, about, env, lock = subject
    sealed = _sealed(account, home, env)
    arguments = (descriptor, where, home, about, env == "include", sealed, packed)
    return Worker(account, "backup.collecting:collect", arguments, limits, [descriptor, lock], home)


def _sealed(account: Account, home: str, env: str) -> str | None:
    """``.env`` of *home*, encrypted, if *env* names a recipient; else None.

    age(1) runs as root, because the agent could trace a process of its own user. age does not interpret the content.
    It gets the content by standard input, so that nothing of it is in a process list or a file.
    """
    if not env.startswith(AGE):
        return None
    said = work(account, "backup.collecting:env_of", home, where=home)
    if said is None:
        return None
    try:
        text = base64.b64decode(said, validate=True)
    except (TypeError, ValueError):
        raise OpsError(".env was read, but the worker's answer is not base64", where=home) from None
    return run_filter(["age", "--armor", "--recipient", env[len(AGE) :]], text, timeout=AGE_TIMEOUT).decode()


def _subject(host: Installation, agent: Agent, env: str, lock: int) -> Subject:
    # A user's agent runs what is in its image.
    release = None if runtime_agents.is_users(agent.name) else gateway.current_release(host.root)
    return Subject(host.account_of(agent), agent.home, about(agent.name, host.root, release, env), env, lock)


def about(name: str, root: str, release: str | None, env: str) -> dict[str, Any]:
    """What the archive of the agent *name* says about itself.

    :param release: below *root*, with which the agent runs
    """
    stamp = stamp_of(root, release)
    return {
        "agent": name,
        "host": socket.gethostname(),
        "created": time.time(),
        "kit": __version__,
        "release": release,
        "version": stamp.get("version"),
        "env": "encrypt" if env.startswith(AGE) else env,
    }


@contextlib.contextmanager
def _alone(host: Installation, agent: Agent) -> Iterator[int]:
    """Hold the lock of backups; yields its descriptor."""
    with host.lock("backup", timeout=LOCK_TIMEOUT) as lock:
        refuse_unfinished(host, agent)
        yield lock
