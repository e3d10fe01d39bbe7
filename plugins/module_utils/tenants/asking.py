# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tenants are asked for by the kit in their own containers: texts, and archives that come to the controller."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ..hermes_ops.agent import tell
from ..hermes_ops.backup import archives, extracting, space
from ..hermes_ops.cli import EXIT_OK, EXIT_UNHEALTHY
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.files import ensure_directory, failure, sync_directory
from ..hermes_ops.system.text import printable
from .cluster import Cluster, at_once
from .declared import label_of
from .execute import WHOLE, Command, Ended, execute, running, said

_KIT = ("hermes-ops", "agent")
# Seconds beyond those that a command gives itself.
_MARGIN = 90.0
# Bytes of a bundle, and of what is in it; the kit makes none as large.
_BUNDLE, _UNPACKED = 32 * 2**20, 64 * 2**20
_PARTIAL = ".partial"


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

    def one(name: str) -> tuple[Ended, str]:
        path = archives.free_name(directory, label_of(name))
        return _fetch(cluster, pods[name], wanted, path), path

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
    partial = path + _PARTIAL
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                disk = os.statvfs(descriptor)
                room = max(0, disk.f_bavail * disk.f_frsize - space.RESERVE)
                command = replace(wanted.command, most=min(wanted.command.most, room))
                ended = execute(cluster, pod, command, out)
                out.flush()
                os.fsync(descriptor)
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
