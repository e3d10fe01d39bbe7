# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of an agent's home, made by a worker while its gateway runs, and checked by another."""

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
from ..host.installation import Installation
from ..release.observe import stamp_of
from ..supervise import gateway
from ..system.errors import OpsError
from ..system.files import Owner, ensure_directory, failure, sync_directory
from ..system.process import run_filter
from ..system.worker import Limits, Worker, work
from . import extracting, space, tarstream
from .archives import free_name, pattern
from .extracting import Manifest
from .settings import AGE

# Seconds to wait for another backup.
LOCK_TIMEOUT = 900.0
# Seconds that a large home may take; also while it goes over a network.
_SECONDS, _SECONDS_AWAY = 2 * 3600.0, 12 * 3600.0
# Seconds without a byte, after which a stream is given up.
_STALLED = 900.0
_MEMORY = 1024 * 2**20
_PARTIAL = ".partial"
AGE_TIMEOUT = 60.0


class Made(NamedTuple):
    """A new archive, and what it says of itself."""

    path: str
    manifest: Manifest


def create(host: Installation, agent: Agent, directory: str, *, env: str = "exclude") -> Made:
    """Make an archive of the agent's home in *directory*. It gets its name only after it was read to its end.

    :param agent: one of ``host.agents``
    :param env: ``.env`` is left out (``exclude``), in it as it is (``include``), or encrypted: ``age:<recipient>``
    :returns: mode 0600, complete, checked and on disk
    :raises OpsError: it could not be made, and nothing of it is left
    """
    with _alone(host) as lock:
        if not os.path.isdir(directory):
            ensure_directory(directory, mode=0o700)
        # What a killed one left.
        for name in os.listdir(directory):
            if re.fullmatch(pattern(agent.name) + re.escape(_PARTIAL), name):
                os.unlink(os.path.join(directory, name))
        path = free_name(directory, agent.name)
        partial = path + _PARTIAL
        try:
            _write(host, agent, partial, env, lock)
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
    """Write the same, not compressed, to *out*; it is checked on its way.

    :raises OpsError: it ended early; what *out* has is no backup
    :raises BrokenPipeError: nobody reads *out*
    """
    with _alone(host) as lock, contextlib.ExitStack() as stack:
        source, end = _pipe(stack)
        check, copy = _pipe(stack)
        collector = _collector(host, agent, end.fileno(), "", env, _SECONDS_AWAY, lock)
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
            # What is read no longer was refused; why, it says itself.
            with contextlib.suppress(BrokenPipeError):
                copy.write(data)
        else:
            raise OpsError(f"wrote nothing for {_STALLED:g} s", where=agent.home)
        copy.close()
        collector.result()
        return checking.result()


def _pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    read, write = os.pipe()
    return (
        stack.enter_context(os.fdopen(read, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write, "wb", buffering=0)),
    )


def _write(host: Installation, agent: Agent, path: str, env: str, lock: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        space.check_space(descriptor, path, 0)
        _collector(host, agent, descriptor, path, env, _SECONDS, lock).result()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _collector(
    host: Installation, agent: Agent, descriptor: int, where: str, env: str, seconds: float, lock: int
) -> Worker:
    """A worker that writes an archive to *descriptor*.

    :param lock: it holds that, too: should we be killed, nobody begins anew beside it
    """
    # Of the archive, and of a copy of a database on its way into it.
    limit = space.free(descriptor) if where else resource.RLIM_INFINITY
    limits = Limits(seconds=seconds, memory=_MEMORY, file=limit)
    owner = host.owner_of(agent)
    sealed = _sealed(owner, agent.home, env)
    about = _about(host, agent, env)
    arguments = (descriptor, where, agent.home, about, env == "include", sealed, bool(where))
    return Worker(owner, "backup.collecting:collect", arguments, limits, [descriptor, lock], agent.home)


def _sealed(owner: Owner, home: str, env: str) -> str | None:
    """``.env`` of *home*, encrypted where *env* says so.

    By age(1), as root: as the agent's user it could be traced by the agent. To age it is a row of bytes; by standard
    input, so that nothing of it is in a list of processes or in a file.
    """
    if not env.startswith(AGE):
        return None
    said = work(owner, "backup.collecting:env_of", home, where=home)
    if said is None:
        return None
    try:
        text = base64.b64decode(said, validate=True)
    except (TypeError, ValueError):
        raise OpsError("what was read of .env has no meaning", where=home) from None
    return run_filter(["age", "--armor", "--recipient", env[len(AGE) :]], text, timeout=AGE_TIMEOUT).decode()


def _about(host: Installation, agent: Agent, env: str) -> dict[str, Any]:
    release = gateway.current_release(host.root)
    stamp = stamp_of(host.root, release)
    return {
        "agent": agent.name,
        "host": socket.gethostname(),
        "created": time.time(),
        "kit": __version__,
        "release": release,
        "version": stamp.get("version"),
        "env": "encrypt" if env.startswith(AGE) else env,
    }


def refuse_unfinished(host: Installation) -> None:
    """:raises OpsError: when a home may be half of what it was"""
    for job in ("restore", "separate"):
        if host.unfinished(job):
            raise OpsError(
                f"a {job} is under way or was interrupted",
                fix=f"wait for it, or have it undone: hermes-ops {job} --recover",
            )


@contextlib.contextmanager
def _alone(host: Installation) -> Iterator[int]:
    """Be the only one who makes a backup; yields the lock."""
    with host.lock("backup", timeout=LOCK_TIMEOUT) as lock:
        refuse_unfinished(host)
        yield lock
