# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps, as text, the messages that came in while an agent ran on what it then had to leave: a release, or a backup.

The way back sets the database aside that holds them. They are not brought in again: the agent has answered them and may
have acted on them, so a second time is for a person to decide. Hermes could not take them either. 0.18.2 imports no
conversations, and 0.19.0 leaves out each one that exists (hermes_state.py, ``import_sessions``).
"""

from __future__ import annotations

import contextlib
import json
import os

from ..agent.sessions import FILE_NAME, QUERY_SECONDS
from ..system import sqlite
from ..system.errors import OpsError
from ..system.text import moment, number

# JSON, one message a line, in ASCII: a terminal cannot be made to do anything by it.
FILE = "messages.jsonl"
# Bytes of that file: it has to fit into the space that is reserved for going back.
_LARGEST = 4 * 2**20
# Messages from users, without our own questions.
_QUERY = """
    SELECT m.timestamp, m.session_id, s.source, m.content FROM messages m LEFT JOIN sessions s ON s.id = m.session_id
    WHERE m.role = 'user' AND m.timestamp > ? AND instr(coalesce(m.content, ''), ?) = 0 ORDER BY m.timestamp
"""


def save(home: str, since: float, question: str, directory: int) -> int:
    """Write the messages that came in to :data:`FILE`. Runs in workers, before the database of *home* is set aside.

    A database that cannot be read, and a full disk, must not keep an agent from going back.

    :param since: seconds since 1970
    :param question: the prompt of our own health checks
    :param directory: descriptor of the directory for the file
    :returns: how many were written
    """
    written = size = 0
    path = os.path.join(home, FILE_NAME)
    with contextlib.suppress(OpsError, OSError), sqlite.reading(path, seconds=QUERY_SECONDS) as database:
        rows = database.execute(_QUERY, (since, question)) if database else iter(())
        for when, session, source, text in rows:
            said = {"when": moment(number(when) or 0.0), "session": session, "source": source, "text": text}
            line = json.dumps(said, default=repr).encode("ascii") + b"\n"
            size += len(line)
            if size > _LARGEST:
                break
            _append(line, directory, first=not written)
            written += 1
    return written


def saved(directory: int) -> int:
    """How many messages an earlier run has written, which was killed on its way back."""
    with contextlib.suppress(OSError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(FILE, flags, dir_fd=directory), "rb") as stream:
            return stream.read(_LARGEST).count(b"\n")
    return 0


def _append(line: bytes, directory: int, *, first: bool) -> None:
    if first:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(FILE, dir_fd=directory)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if first else 0)
    descriptor = os.open(FILE, flags, 0o600, dir_fd=directory)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def note(agent: str, count: int, directory: str) -> str:
    """What an operator has to know, for the last line of the way back.

    :param count: what :func:`save` returned, at least 1
    :param directory: of the file
    """
    messages, them = ("messages", "them") if count > 1 else ("message", "it")
    return (
        f"{count} {messages} came in meanwhile that {agent} does not know any more: read {them} "
        f"(less {os.path.join(directory, FILE)}), and send again what still counts"
    )
