# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets workers check archives or extract them to a directory, because their content comes from an agent."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

from ..supervise import health
from ..system.errors import OpsError
from ..system.files import Account, failure
from ..system.text import one_line
from ..system.worker import Limits, Worker, WorkerDied

# For reading an archive: seconds for a large one on a slow disk; its size does not change the memory.
LIMITS = Limits(seconds=2 * 3600.0, memory=1024 * 2**20, answer=4 * 2**20)
# Most characters of a text that are shown.
_TEXT = 4096
# An archive that belongs to no agent is read as the user without rights.
_NOBODY = "nobody"


@dataclass(frozen=True)
class Manifest:
    """What an archive says about itself. A worker of the agent's user wrote it, so it proves nothing.

    :param created: seconds since 1970
    :param release: the release of Hermes, and ``version`` its version; None: there was none, or an image
    :param env: how ``.env`` is included: ``exclude``, ``include``, ``encrypt``
    :param members: the number of members: files, directories, links, and the archive's own
    :param problems: path -> why the archive does not have it as it was in the home
    :param left_out: path -> why it was left out although its name belongs to a backup
    :param schemas: path of a database -> its schema version
    :param learnt: what the home that it would replace has learnt since, see :func:`learnt.since`
    :param sealed_env: ``.env``, encrypted by age
    :param env_inside: ``.env`` was extracted
    """

    agent: str
    host: str
    created: float
    kit: str
    release: str | None
    version: str | None
    env: str
    members: int
    problems: dict[str, str]
    left_out: dict[str, str]
    schemas: dict[str, int]
    learnt: list[str]
    sealed_env: bytes | None = None
    env_inside: bool = False

    @classmethod
    def of(cls, answer: Any, where: str) -> Manifest:
        """The manifest in the *answer* of a worker, its form checked, its texts bounded and on one line each."""
        try:
            known = {field.name for field in fields(cls)}
            values = {key: _plain(value) for key, value in answer.items() if key in known}
            sealed = answer.get("sealed_env")
            manifest = cls(**{**values, "sealed_env": None if sealed is None else base64.b64decode(sealed)})
            texts = [manifest.agent, manifest.host, manifest.kit, manifest.env, *manifest.learnt]
            texts += [each for each in (manifest.release, manifest.version) if each is not None]
            texts += [*manifest.problems.values(), *manifest.left_out.values()]
            numbers = [manifest.created, manifest.members, *manifest.schemas.values()]
            if not all(isinstance(text, str) for text in texts) or not all(type(n) in (int, float) for n in numbers):
                raise TypeError
            return manifest
        except (AttributeError, TypeError, ValueError):
            raise WorkerDied("was read, but the worker's answer has the wrong form", where=where) from None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value[:_TEXT])
    if isinstance(value, dict):
        return {_plain(key): _plain(below) for key, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, list) else value


def verify(path: str) -> Manifest:
    """Read the archive *path* from its first byte to its last and verify its checksum.

    :raises OpsError: it is damaged, incomplete, or holds something that no backup holds
    """
    with opened(path) as file:
        return checking(file.fileno(), path).result()


class Checking:
    """An archive that a worker is checking or extracting."""

    def __init__(self, worker: Worker, where: str) -> None:
        self.worker, self.where = worker, where

    def result(self) -> Manifest:
        """:raises OpsError: see :func:`verify`"""
        return Manifest.of(self.worker.result(), self.where)

    def end(self) -> None:
        self.worker.end()


def checking(descriptor: int, where: str, account: Account | None = None, home: str | None = None) -> Checking:
    """Begin to check the archive that can be read from *descriptor*.

    :param account: the user that reads it; None: one without rights
    :param home: of *account*, to be compared with the archive; None: nothing is compared
    """
    reader = account or (Account.named(_NOBODY) if os.geteuid() == 0 else Account.current())
    arguments = (descriptor, where, _against(home))
    return Checking(Worker(reader, "backup.reading:check", arguments, LIMITS, [descriptor], where), where)


def compare(source: str | BinaryIO, account: Account, home: str | None) -> Manifest:
    """Like :func:`verify`, and also find what *home* has learnt since.

    :param source: path of an archive, or the stream itself
    :param home: of *account*; None: nothing is compared
    """
    with _source(source) as (descriptor, where):
        return checking(descriptor, where, account, home).result()


def extract(
    source: str | BinaryIO,
    directory: str,
    account: Account,
    *,
    links_out: bool = False,
    home: str | None = None,
    descriptors: Sequence[int] = (),
) -> Manifest:
    """Extract the home in an archive to *directory*, which must be missing or empty, all of it as *account*.

    :param source: path of an archive, or the stream itself
    :param links_out: also make links that lead out of the home; a home that is only tried must not have them
    :param home: the home that it is to replace, for :attr:`Manifest.learnt`
    :param descriptors: locks that the worker must hold until it ends
    :raises OpsError: like :func:`verify`; discard what *directory* holds by then
    """
    with _source(source) as (descriptor, where):
        return extraction(
            descriptor, where, directory, account, links_out=links_out, home=home, descriptors=descriptors
        ).result()


def extraction(
    descriptor: int,
    where: str,
    directory: str,
    account: Account,
    *,
    links_out: bool = False,
    home: str | None = None,
    descriptors: Sequence[int] = (),
) -> Checking:
    """Begin to :func:`extract` the archive that can be read from *descriptor*."""
    arguments = (descriptor, where, directory, links_out, _against(home))
    worker = Worker(account, "backup.reading:extract", arguments, LIMITS, [descriptor, *descriptors], where)
    return Checking(worker, where)


def _against(home: str | None) -> list[str] | None:
    return [home, health.REPLY_PROMPT] if home else None


@contextlib.contextmanager
def _source(source: str | BinaryIO) -> Iterator[tuple[int, str]]:
    if isinstance(source, str):
        with opened(source) as file:
            yield file.fileno(), source
    else:
        yield source.fileno(), "the stream"


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file of an archive, for a worker to read.

    :raises OpsError: when there is no such file
    """
    try:
        # A pipe in its place must not block us.
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise failure("read", path, error) from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OpsError("is not a regular file", where=path, fix="name an archive: hermes-ops backups")
        yield file
