# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Hermes remembers of its conversations, read and never written.

Facts from hermes_state.py of 0.18.2 and 0.19.0, the same in both: the tables ``sessions`` and ``messages``, and the
full-text index ``messages_fts`` over what a message says and which tools it calls.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from ..system.errors import OpsError
from ..system.files import Owner, acting_as

# What a database may raise that is damaged, or not one at all: SQLite's words about it may be no text either.
DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)

FILE_NAME = "state.db"
# Seconds that one look may take. The file is the agent's: a view in it may compute for ever.
QUERY_SECONDS = 30.0
# Between two looks at the clock; a fraction of a millisecond.
_STEPS = 10_000

# Messages that were taken back are hidden (active and compacted both 0), as Hermes' own search does.
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
    :param source: where it was held: ``cli``, ``discord``, ``webhook``, …
    """

    when: float
    role: str
    text: str
    session: str
    source: str


@contextlib.contextmanager
def reading(home: str, owner: Owner) -> Iterator[sqlite3.Connection | None]:
    """The database of the profile in *home*, opened with *owner*'s rights; None when there is none.

    It is opened read-only: a reader neither writes nor resets the write-ahead log, so the host's SQLite, which may be
    one that can corrupt a database there (before 3.51.3), does no harm beside the gateway's own.

    :raises OpsError: when it is no database that Hermes 0.18 or later made, or reading it takes too long
    """
    path = os.path.join(home, FILE_NAME)
    with acting_as(owner):
        if not os.path.lexists(path):
            yield None
            return
        # A pipe in its place must not make us wait.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OpsError("is not a regular file", where=path, fix="move it away")
        try:
            with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=5)) as database:
                database.text_factory = lambda data: data.decode("utf-8", "replace")
                # Its schema is the agent's too.
                database.execute("PRAGMA trusted_schema = OFF")
                deadline = time.monotonic() + QUERY_SECONDS
                database.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
                yield database
        except DATABASE_ERRORS as error:
            raise OpsError(
                f"cannot be read ({error})", where=path, fix="see what Hermes says of it: hermes doctor"
            ) from None


def search(home: str, owner: Owner, words: Sequence[str], limit: int) -> list[Message]:
    """The newest messages that hold all *words*, in any order and case.

    By whole words where Hermes' index knows them, else anywhere in the text (parts of words, scripts without spaces).

    :raises OpsError: see :func:`reading`
    """
    with reading(home, owner) as database:
        if database is None:
            return []
        indexed = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'messages_fts'").fetchone()
        found = _indexed(database, words, limit) if indexed else []
        return found or _scanned(database, words, limit)


def _indexed(database: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Message]:
    # Quoted, so that nothing in a word is an operator of FTS5.
    match = " ".join('"' + word.replace('"', '""') + '"' for word in words)
    condition = f"m.id IN (SELECT rowid FROM messages_fts WHERE messages_fts MATCH ?) AND {_VISIBLE}"
    try:
        return _messages(database, condition, [match], limit)
    except sqlite3.OperationalError as error:
        # An SQLite without FTS5, or without the tokenizer, reads the messages themselves all the same.
        if "no such" in str(error):
            return []
        raise


def _scanned(database: sqlite3.Connection, words: Sequence[str], limit: int) -> list[Message]:
    escaped = [word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for word in words]
    condition = " AND ".join(["m.content LIKE ? ESCAPE '\\'"] * len(escaped))
    return _messages(database, f"{condition} AND {_VISIBLE}", [f"%{word}%" for word in escaped], limit)


def last_words(home: str, owner: Owner, chat: str) -> str | None:
    """What the agent said last in the conversation *chat* once that has ended; None while it goes on.

    :param chat: ``sessions.chat_id``; of a webhook call ``webhook:<subscription>:<request id>``, whose conversation
        ends with its answer (0.18.2 and 0.19.0 gateway/platforms/webhook.py)
    :returns: ``""`` when it ended without a word
    :raises OpsError: see :func:`reading`
    """
    with reading(home, owner) as database:
        if database is None:
            return None
        ended = database.execute("SELECT ended_at FROM sessions WHERE chat_id = ?", [chat]).fetchone()
        if ended is None or ended[0] is None:
            return None
        condition = "s.chat_id = ? AND m.role = 'assistant' AND COALESCE(m.content, '') != ''"
        said = _messages(database, condition, [chat], 1)
        return said[0].text if said else ""


def _messages(database: sqlite3.Connection, condition: str, values: list[str], limit: int) -> list[Message]:
    rows = database.execute(f"{_COLUMNS} WHERE {condition} ORDER BY m.timestamp DESC, m.id DESC LIMIT {limit}", values)
    return [
        Message(float(when) if isinstance(when, (int, float)) else 0.0, *(str(value or "") for value in rest))
        for when, *rest in rows
    ]
