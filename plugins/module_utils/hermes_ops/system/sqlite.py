# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens SQLite databases that others write, for reading.

For workers only: a damaged or hostile file can crash SQLite or trap it in a loop. Not every such loop can be
interrupted from here; the worker's deadline ends the rest.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from .errors import OpsError

# Raised by SQLite for a file that is damaged or no database. Its error message may quote bytes that are not UTF-8.
ERRORS = (sqlite3.Error, UnicodeDecodeError)

# SQLite opens these files along with a database, and would block if one were a named pipe.
_BESIDE = ("", "-journal", "-wal", "-shm")
# Virtual machine steps between two checks of the clock; they take a fraction of a millisecond.
_STEPS = 10_000
# The authorizer's action code for a recursive query (SQLITE_RECURSIVE in sqlite3.h), which Python does not name.
_RECURSIVE = 33


@contextlib.contextmanager
def reading(
    path: str, *, seconds: float, wait: float = 5.0, immutable: bool = False
) -> Iterator[sqlite3.Connection | None]:
    """The database at *path*; None when there is no such file.

    It is opened read-only, because SQLite before 3.51.3 can corrupt a database when it resets the write-ahead log, and
    the host may have such a version. A reader neither writes nor resets the log, so it does no harm beside the writer.
    Tables are read, views are refused: a view could compute for ever. Text that is not UTF-8 is read with replacement
    characters.

    :param seconds: time that all queries together may take
    :param wait: seconds to wait for a lock of another process
    :param immutable: nobody writes the file; locks and the write-ahead log are ignored
    :raises OpsError: it cannot be read, or reading it takes too long
    """
    try:
        if not _is_there(path):
            yield None
            return
        options = "mode=ro&immutable=1" if immutable else "mode=ro"
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(path)}?{options}", uri=True, timeout=wait, isolation_level=None)
        ) as database:
            database.text_factory = lambda data: data.decode("utf-8", "replace")
            # A worker has no directory for temporary files, which SQLite makes to sort what is large.
            database.execute("PRAGMA temp_store = MEMORY")
            # The schema may be as hostile as the rows.
            database.execute("PRAGMA trusted_schema = OFF")
            database.set_authorizer(_authorize)
            deadline = time.monotonic() + seconds
            database.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            yield database
    except ERRORS as error:
        what = f"took longer than {seconds:g} s" if "interrupted" in str(error) else str(error)
        raise OpsError(
            f"cannot be read ({what})", where=path, fix="see what Hermes reports about it: hermes doctor"
        ) from None


def _is_there(path: str) -> bool:
    for suffix in _BESIDE:
        try:
            mode = os.lstat(path + suffix).st_mode
        except FileNotFoundError:
            if not suffix:
                return False
            continue
        except OSError as error:
            raise OpsError(
                f"cannot be read ({error.strerror})", where=path, fix="give its directory the right owner and mode"
            ) from None
        if not stat.S_ISREG(mode):
            raise OpsError("is not a regular file", where=path + suffix, fix="move it away")
    return True


def _authorize(action: int, _first: Any, _second: Any, _database: Any, source: Any) -> int:
    """:param source: the view or trigger that causes the access; None: our own query"""
    return sqlite3.SQLITE_DENY if source is not None or action == _RECURSIVE else sqlite3.SQLITE_OK
