# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads Hermes' database of conversations, and never writes it.

Facts from hermes_state.py of 0.18.2 and 0.19.0, the same in both: the tables ``sessions`` and ``messages``, and the
full-text index ``messages_fts`` over the text and the tool calls of a message.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..system import sqlite

FILE_NAME = "state.db"
# Seconds that reading may take. The file belongs to the agent, and may be large or damaged.
QUERY_SECONDS = 30.0

# Messages that were taken back (active and compacted both 0) are hidden, as in Hermes' own search.
_COLUMNS = """
    SELECT m.timestamp, m.role, m.content, s.id, s.source
    FROM messages m JOIN sessions s ON s.id = m.session_id
"""
_VISIBLE = "(m.active = 1 OR m.compacted = 1)"


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    :param when: seconds since 1970
    :param role: ``user``, ``assistant``, ``tool``, …
    :param session: id of the conversation
    :param source: the platform of the conversation: ``cli``, ``discord``, ``webhook``, …
    """

    when: float
    role: str
    text: str
    session: str
    source: str


def reading(home: str) -> AbstractContextManager[sqlite3.Connection | None]:
    """In a worker: the agent's database in *home*; None when there is none.

    :raises OpsError: see :func:`sqlite.reading`
    """
    return sqlite.reading(os.path.join(home, FILE_NAME), seconds=QUERY_SECONDS)


def search(home: str, words: Sequence[str], limit: int) -> list[Message]:
    """The newest messages that hold all *words*, in any order and case.

    Hermes' index is searched for whole words. If it finds none, all messages are searched for the text (parts of words,
    scripts without spaces).

    :raises OpsError: see :func:`reading`
    """
    with reading(home) as database:
        if database is None:
            return []
        indexed = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'messages_fts'").fetchone()
        found = _indexed(database, words, limit) if indexed else []
        return found or _scanned(database, words, limit)


def _indexed(database: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Message]:
    # Each word is quoted, so that FTS5 takes nothing in it for an operator.
    match = " ".join('"' + word.replace('"', '""') + '"' for word in words)
    condition = f"m.id IN (SELECT rowid FROM messages_fts WHERE messages_fts MATCH ?) AND {_VISIBLE}"
    try:
        return _messages(database, condition, [match], limit)
    except sqlite3.OperationalError as error:
        # This SQLite lacks FTS5 or the tokenizer. The caller then scans the messages instead.
        if "no such" in str(error):
            return []
        raise


def _scanned(database: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Message]:
    escaped = [word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for word in words]
    condition = " AND ".join(["m.content LIKE ? ESCAPE '\\'"] * len(escaped))
    return _messages(database, f"{condition} AND {_VISIBLE}", [f"%{word}%" for word in escaped], limit)


def last_words(home: str, chat: str) -> str | None:
    """The agent's last message in the conversation *chat* once that has ended; None while it goes on.

    :param chat: ``sessions.chat_id``. For a webhook call it is ``webhook:<subscription>:<request id>``, and the
        conversation ends with the answer (0.18.2 and 0.19.0 gateway/platforms/webhook.py)
    :returns: ``""`` when the conversation ended without a message of the agent
    :raises OpsError: see :func:`reading`
    """
    with reading(home) as database:
        if database is None:
            return None
        ended = database.execute("SELECT ended_at FROM sessions WHERE chat_id = ?", [chat]).fetchone()
        if ended is None or ended[0] is None:
            return None
        condition = "s.chat_id = ? AND m.role = 'assistant' AND COALESCE(m.content, '') != ''"
        said = _messages(database, condition, [chat], 1)
        return said[0].text if said else ""


def has_begun(home: str, chat: str) -> bool:
    """Whether the conversation *chat* has begun: Hermes accepts calls that it then drops, e.g. while it stops.

    :param chat: as for :func:`last_words`
    :raises OpsError: see :func:`reading`
    """
    with reading(home) as database:
        found = database and database.execute("SELECT 1 FROM sessions WHERE chat_id = ?", [chat]).fetchone()
        return found is not None


def last_said(home: str, question: str) -> float:
    """In a worker: the time of the last user message without *question*, in seconds since 1970; 0.0 for none.

    :raises OpsError: see :func:`reading`
    """
    query = "SELECT max(timestamp) FROM messages WHERE role = 'user' AND instr(coalesce(content, ''), ?) = 0"
    with reading(home) as database:
        when = database.execute(query, [question]).fetchone()[0] if database else None
        return _moment(when)


def _messages(database: sqlite3.Connection, condition: str, values: list[str], limit: int) -> list[Message]:
    rows = database.execute(f"{_COLUMNS} WHERE {condition} ORDER BY m.timestamp DESC, m.id DESC LIMIT {limit}", values)
    return [Message(_moment(when), *(str(value or "") for value in rest)) for when, *rest in rows]


def _moment(when: object) -> float:
    """A time from the database; 0.0 when it is not a finite number."""
    return float(when) if isinstance(when, (int, float)) and math.isfinite(when) else 0.0
