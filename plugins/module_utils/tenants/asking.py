# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tenants are asked for by the kit in their own containers: texts, and archives that come to the controller."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..hermes_ops.agent import tell
from ..hermes_ops.backup import archives, extracting, space
from ..hermes_ops.cli import EXIT_OK, EXIT_UNHEALTHY
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.files import ensure_directory, failure, sync_directory
from ..hermes_ops.system.text import printable
from .cluster import Cluster, at_once
from .declared import amount, label_of
from .execute import WHOLE, Command, Ended, execute, running, said
from .objects import NAME, annotations
from .readiness import by_label

_KIT = ("hermes-ops", "agent")
# Seconds beyond those that a command gives itself.
_MARGIN = 90.0
# Bytes of a bundle, and of what is in it; the kit makes none as large.
_BUNDLE, _UNPACKED = 32 * 2**20, 64 * 2**20
_PARTIAL = ".partial"
# Bytes after which the free space is looked at.
_LOOK = 2**20
_VOLUME = ("v1", "PersistentVolumeClaim")


@dataclass(frozen=True)
class Fetched:
    """What tenants are asked for that is a file.

    :param verify: raises if it is damaged; it is called with the path
    :param statuses: with which the command may end
    """

    command: Command
    verify: Callable[[str], object]
    statuses: tuple[int, ...] = (EXIT_OK,)


@dataclass
class Answers:
    """What tenants answered.

    :param lines: a tenant's name -> its answer, printable
    :param paths: a tenant's name -> the file that came from it
    :param errors: a tenant's name -> why there is no answer, or what is wrong with it
    """

    lines: dict[str, list[str]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    errors: dict[str, OpsError] = field(default_factory=dict)


def memory_query(query: str, limit: int) -> Command:
    """Search what an agent knows."""
    given = query.encode()
    return Command((*_KIT, "memory", "-", f"--bytes={len(given)}", f"--limit={limit}"), given)


def telling(topic: str, text: str, webhook: str, timeout: float, *, check: bool) -> Command:
    """Give an agent context.

    :param timeout: seconds that it may take to answer
    :raises OpsError: there is nothing to tell, or too much
    """
    given = f"{' '.join(topic.split())}\n{text}".encode()
    tell.parse(given, None)
    words = (*_KIT, "tell", f"--bytes={len(given)}", f"--webhook={webhook}", f"--timeout={timeout:g}")
    return Command((*words, "--check") if check else words, given, seconds=timeout + _MARGIN)


def bundle() -> Fetched:
    """A bundle for triage."""
    return Fetched(Command((*_KIT, "debug"), most=_BUNDLE, seconds=300.0), _unpack)


def backup() -> Fetched:
    """An archive of the home. With a problem in a file, there is one all the same."""
    return Fetched(
        Command((*_KIT, "backup"), most=sys.maxsize, seconds=WHOLE), extracting.verify, (EXIT_OK, EXIT_UNHEALTHY)
    )


def ask(cluster: Cluster, names: Sequence[str], command: Command) -> Answers:
    """Have *command* run for tenants, and its output as text.

    :param names: empty: all that are there
    """
    pods, errors = running(cluster, names)
    answers = Answers(errors=errors)

    def one(name: str) -> tuple[Ended, str]:
        with io.BytesIO() as out:
            ended = execute(cluster, pods[name], command, out)
            return ended, printable(out.getvalue().decode("utf-8", "replace"))

    for name, done, error in at_once(pods, one):
        if error:
            answers.errors[name] = error
        elif done:
            ended, text = done
            answers.lines[name] = text.splitlines()
            _judge(answers, name, ended)
    return answers


def fetch(cluster: Cluster, names: Sequence[str], wanted: Fetched, directory: str) -> Answers:
    """Have a file of each tenant in *directory*, which only the present user can read.

    :param names: empty: all that are there
    """
    pods, errors = running(cluster, names)
    answers = Answers(errors=errors)
    if not pods:
        return answers
    if not os.path.isdir(directory):
        ensure_directory(directory, mode=0o700)
    _check_directory(directory)
    volumes = {annotations(each).get(NAME): each for each in by_label(cluster, *_VOLUME).values()}

    def one(name: str) -> tuple[Ended, str]:
        path = archives.free_name(directory, label_of(name))
        return _fetch(cluster, pods[name], _bounded(wanted, volumes.get(name), name), path), path

    for name, done, error in at_once(pods, one):
        if error:
            answers.errors[name] = error
        elif done:
            ended, path = done
            if ended.status in wanted.statuses:
                answers.paths[name] = path
            _judge(answers, name, ended)
    return answers


def lines(answers: Answers, named: str) -> Iterable[str]:
    """*answers* for people.

    :param named: what the files are
    """
    for name in sorted({*answers.lines, *answers.paths, *answers.errors}):
        if name in answers.paths:
            yield f"{printable(name)}: {named}: {answers.paths[name]}"
        elif name in answers.lines:
            yield f"{printable(name)}:"
            yield from (f"  {line}" for line in answers.lines[name])
        if name in answers.errors:
            yield f"{printable(name)}: ERROR: {printable(str(answers.errors[name]))}"


def _judge(answers: Answers, name: str, ended: Ended) -> None:
    """Add what is wrong."""
    if ended.status != EXIT_OK:
        answers.errors[name] = OpsError(said(ended), where=f"tenant {name}")


def _fetch(cluster: Cluster, pod: str, wanted: Fetched, path: str) -> Ended:
    """Write to *path* what the command wrote, if it is whole."""
    # A name that nobody else knows: what lies there is not ours.
    partial = f"{path}.{secrets.token_hex(8)}{_PARTIAL}"
    try:
        file = _File(partial)
        try:
            with io.BufferedWriter(file, _LOOK) as out:
                ended = execute(cluster, pod, wanted.command, out)
                out.flush()
                os.fsync(out.fileno())
            if ended.status in wanted.statuses:
                wanted.verify(partial)
                os.rename(partial, path)
                sync_directory(os.path.dirname(path))
            return ended
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    except OSError as error:
        raise failure("written", path, error) from None


def _check_directory(path: str) -> None:
    """:raises OpsError: others could exchange what is in it"""
    mode = os.stat(path).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise OpsError("can be written by everybody", where=path, fix="name another directory, or: chmod o-w")


def _bounded(wanted: Fetched, volume: dict[str, Any] | None, name: str) -> Fetched:
    """*wanted*, of which there is no more than the tenant's volume can hold: one tenant fills no disk."""
    if volume is None:
        return wanted
    held = int(amount(volume["spec"]["resources"]["requests"]["storage"], name)) + _BUNDLE
    return replace(wanted, command=replace(wanted.command, most=min(wanted.command.most, held)))


class _File(io.FileIO):
    """A new file for nobody else's eyes, which leaves free on its disk what has to stay free."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "xb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600))

    def write(self, data: Any) -> int:
        disk = os.statvfs(self.fileno())
        if disk.f_bavail * disk.f_frsize < len(data) + space.RESERVE:
            raise space.no_room(str(self.name), len(data))
        return super().write(data)


def _unpack(path: str) -> None:
    """:raises OpsError: the bundle is damaged"""
    try:
        left = _UNPACKED
        with gzip.open(path) as stream:
            while data := stream.read(2**20):
                left -= len(data)
                if left < 0:
                    raise OpsError(f"unpacks to more than {_UNPACKED} bytes", where=path, fix="do not unpack it")
    except (OSError, EOFError, zlib.error) as error:
        raise OpsError(f"is damaged: {error}", where=path, fix="run it again") from None
