# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backs up and restores the home of an agent in a container of its own, from inside of it.

A restore only renames, beside the home. The directories that exist show how far it has come::

    .hermes-ops-arriving/  what is being extracted
    .hermes-ops-leaving/   the home until now, until the other one is in its place and this is the former one
    .hermes-ops-former/    the home before the last restore; one is kept
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from ..agent import webhooks
from ..host.records import Records
from ..supervise import entrypoint, gateway
from ..supervise.entrypoint import Container
from ..system import trees
from ..system.errors import OpsError
from ..system.files import failure, lock, sync_directory
from . import extracting, making, tarstream
from .extracting import Manifest
from .restore import refuse_newer
from .selection import ENV, OURS

# Beside the home. Two backups at one time would remove each other's copies of databases.
_LOCK = ".hermes-ops-backing-up"
_ARRIVING, _LEAVING, _FORMER = (f"{OURS}{word}" for word in ("arriving", "leaving", "former"))
_ENV = "exclude"
# Seconds to wait for another backup.
_TIMEOUT = 60.0
_INPUT = "standard input"


def send(container: Container, root: str, out: BinaryIO) -> Manifest:
    """Write an archive of the home to *out*, in the form of those of a host, and check it on its way.

    :param root: the directory of the releases
    :raises OpsError: it failed; what *out* has received is no backup
    """
    agent = container.declared.agent
    about = making.about(agent.name, root, gateway.current_release(root), _ENV)
    with lock(os.path.join(container.data_dir, _LOCK), timeout=_TIMEOUT) as held:
        subject = making.Subject(container.account, agent.home, about, _ENV, held)
        return making.send(subject, out, packed=True)


def restore(container: Container, source: BinaryIO, size: int | None, *, force: bool) -> Manifest:
    """Replace the home by the one in an archive. No gateway runs on the volume meanwhile.

    The home until now becomes the former one. ``.env`` belongs to the place, so the present one stays. Whenever this is
    killed, the home is the old one or the new one as soon as :func:`recover` was called.

    :param source: where the archive comes from; read to its end in any case, so that its sender learns of an error
    :param size: bytes of the archive; None: all that comes
    :param force: restore even if the home has learnt something since the backup
    :raises OpsError: nothing was restored; says why
    """
    pieces = _pieces(source, size)
    try:
        with _changing(container) as home:
            manifest = _extract(container, home, pieces, force=force)
            arriving = _beside(home, _ARRIVING)
            _keep_env(home, arriving)
            _replace(container, arriving)
            return manifest
    finally:
        for _piece in pieces:
            pass


def put_back(container: Container) -> None:
    """Have the home be the former one again, and the home until now the former one.

    :raises OpsError: there is none, or a gateway runs on the volume
    """
    with _changing(container) as home:
        former = _beside(home, _FORMER)
        if not os.path.lexists(former):
            raise OpsError("there is no former home", where=former, fix="restore an archive")
        _replace(container, former)


def recover(container: Container) -> None:
    """After a restore that was killed, have the home be a whole one. No gateway runs on the volume yet.

    :raises OpsError: a directory cannot be renamed
    """
    home = container.declared.agent.home
    leaving = _beside(home, _LEAVING)
    try:
        if os.path.lexists(leaving) and not os.path.lexists(home):
            os.rename(leaving, home)
    except OSError as error:
        raise failure("renamed", leaving, error) from None
    # What is left only takes space, and must not keep an agent from starting.
    with contextlib.suppress(OpsError, OSError):
        _end(home)
        trees.remove(_beside(home, _ARRIVING))


@contextlib.contextmanager
def _changing(container: Container) -> Iterator[str]:
    """The path of the home, of which nobody else makes use meanwhile."""
    home = container.declared.agent.home
    if os.path.ismount(home) or home == container.data_dir:
        raise OpsError(
            "is a volume, and cannot be replaced as a whole",
            where=home,
            fix="have HERMES_HOME be a directory in the volume, as without it",
        )
    entrypoint.alone(container)
    recover(container)
    try:
        yield home
    except OSError as error:
        raise failure("replaced", home, error) from None


def _replace(container: Container, other: str) -> None:
    """Have the directory *other* be the home, and the home until now the former one."""
    home = container.declared.agent.home
    # The next start is to believe no file to be the one that it wrote. It also finds out whether the agent has damaged
    # its records, and does without them.
    with contextlib.suppress(OpsError):
        webhooks.forget_time(
            Records(os.path.join(container.data_dir, entrypoint.RECORDS), container.declared.agent.name)
        )
    if os.path.lexists(home):
        os.rename(home, _beside(home, _LEAVING))
    os.rename(other, home)
    sync_directory(os.path.dirname(home))
    _end(home)


def _end(home: str) -> None:
    """Have what left be the former home."""
    leaving, former = _beside(home, _LEAVING), _beside(home, _FORMER)
    if os.path.lexists(leaving):
        trees.remove(former)
        os.rename(leaving, former)


def _extract(container: Container, home: str, pieces: Iterator[bytes], *, force: bool) -> Manifest:
    """Extract the home in an archive beside *home*, and check it to its last byte."""
    against = home if os.path.isdir(home) and not force else None
    arriving = _beside(home, _ARRIVING)
    with contextlib.ExitStack() as stack:
        read, write = os.pipe()
        end = stack.enter_context(os.fdopen(write, "wb", buffering=0))
        try:
            extraction = extracting.extraction(read, _INPUT, arriving, container.account, links_out=True, home=against)
        finally:
            os.close(read)
        stack.callback(extraction.end)
        # If it no longer reads, it has refused the archive; its result gives the reason.
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                end.write(piece)
            end.close()
        manifest = extraction.result()
    refuse_newer(manifest)
    return manifest


def _pieces(source: BinaryIO, size: int | None) -> Iterator[bytes]:
    """What comes from *source*.

    :raises OpsError: it ended early
    """
    left = size
    while left is None or left > 0:
        piece = source.read(tarstream.CHUNK if left is None else min(tarstream.CHUNK, left))
        if not piece:
            break
        left = None if left is None else left - len(piece)
        yield piece
    if left:
        raise OpsError(f"ended {left} bytes early", where=_INPUT, fix="run it again")


def _keep_env(home: str, arriving: str) -> None:
    """Have ``.env`` and its copies be those of *home*."""
    for name in os.listdir(arriving):
        if name.startswith(ENV):
            trees.remove(os.path.join(arriving, name))
    for name in os.listdir(home) if os.path.isdir(home) else ():
        path = os.path.join(home, name)
        if name.startswith(ENV) and stat.S_ISREG(os.lstat(path).st_mode):
            shutil.copy2(path, os.path.join(arriving, name), follow_symlinks=False)


def _beside(home: str, name: str) -> str:
    return os.path.join(os.path.dirname(home), name)
