# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives, checked or put into a directory by a worker: what is in them comes from an agent."""

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
from ..system.files import Owner, failure
from ..system.text import printable
from ..system.worker import Limits, Worker, WorkerDied

# What reading an archive may take: seconds of a large one on a slow disk; memory is the same for all.
LIMITS = Limits(seconds=2 * 3600.0, memory=1024 * 2**20, answer=4 * 2**20)
# Characters of a text that is shown.
_TEXT = 4096
# What is not an agent's own is read as the user who may nothing.
_NOBODY = "nobody"


@dataclass(frozen=True)
class Manifest:
    """What an archive says of itself; made by an agent's worker, so no more than that.

    :param created: seconds since 1970
    :param release: and its version, where there was one
    :param env: how ``.env`` is in it: ``exclude``, ``include``, ``encrypt``
    :param members: how many files, directories and links
    :param problems: path -> why what is in it is not what was in the home
    :param left_out: path -> why it is not in it although its name belongs to a backup
    :param schemas: path of a database -> the version of its schema
    :param learnt: what the home that it would replace knows since then, see :func:`learnt.since`
    :param sealed_env: ``.env`` as age encrypted it
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
        """What a worker answered, if it has the form of one, printable and bounded."""
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
            raise WorkerDied("was read, and what came of it has not the form of an answer", where=where) from None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value[:_TEXT])
    if isinstance(value, dict):
        return {_plain(key): _plain(below) for key, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, list) else value


def verify(path: str) -> Manifest:
    """Read the archive *path* from its first byte to its last and compare all with its checksum.

    :raises OpsError: it is damaged, incomplete, or holds what no backup holds
    """
    with opened(path) as file:
        return checking(file.fileno(), path).result()


class Checking:
    """An archive that is being checked, by a worker that may nothing else."""

    def __init__(self, worker: Worker, where: str) -> None:
        self.worker, self.where = worker, where

    def result(self) -> Manifest:
        """:raises OpsError: see :func:`verify`"""
        return Manifest.of(self.worker.result(), self.where)

    def end(self) -> None:
        self.worker.end()


def checking(descriptor: int, where: str, owner: Owner | None = None, home: str | None = None) -> Checking:
    """Begin to check the archive that comes out of *descriptor*.

    :param owner: of *home*, which it would replace; None: nobody's
    """
    reader = owner or (Owner.named(_NOBODY) if os.geteuid() == 0 else Owner.current())
    arguments = (descriptor, where, _against(home))
    return Checking(Worker(reader, "backup.reading:check", arguments, LIMITS, [descriptor], where), where)


def compare(source: str | BinaryIO, owner: Owner, home: str | None) -> Manifest:
    """Like :func:`verify`, and say what *home* has learnt since.

    :param source: path of an archive, or the stream itself
    :param home: of *owner*; None: that is not asked
    """
    with _source(source) as (descriptor, where):
        return checking(descriptor, where, owner, home).result()


def extract(
    source: str | BinaryIO,
    directory: str,
    owner: Owner,
    *,
    links_out: bool = False,
    home: str | None = None,
    descriptors: Sequence[int] = (),
) -> Manifest:
    """Put the home in an archive into *directory*, which must not exist or be empty, as *owner* throughout.

    :param source: path of an archive, or the stream itself
    :param links_out: make links that lead out of the home, too; a home that is only tried must not have them
    :param home: the home that it is to replace, for :attr:`Manifest.learnt`
    :param descriptors: locks that must be held until it ends
    :raises OpsError: like :func:`verify`; what *directory* holds by then is to be thrown away
    """
    with _source(source) as (descriptor, where):
        arguments = (descriptor, where, directory, links_out, _against(home))
        worker = Worker(owner, "backup.reading:extract", arguments, LIMITS, [descriptor, *descriptors], where)
        return Manifest.of(worker.result(), where)


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
        # A pipe in its place must not make us wait.
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise failure("read", path, error) from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OpsError("is not a regular file", where=path, fix="name an archive: hermes-ops backups")
        yield file
