# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares and corrects the parts of a home, in a worker as the agent's user."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ..system.answer import Maybe
from ..system.errors import OpsError
from ..system.files import failure
from . import config, dotenv, env, home, ownership, webhooks
from .part import TEXT, Changed, Part

# The parts, in the order in which they are corrected; each is a module with `decide` and `RECORD_FORM`.
PARTS: dict[str, Any] = {"home": home, "config": config, "env": env, "webhooks": webhooks}
# The parts that are a file, with its name. For each of them a record of what was applied is kept, under its name.
FILES = {"config": config.FILE_NAME, "env": dotenv.FILE_NAME, "webhooks": webhooks.FILE_NAME}
# Attempts to write a part, since the agent may write the same file meanwhile.
ATTEMPTS = 5

# The forms of what `look` and `apply` return, see :func:`answer.fits`.
LOOK_FORM = {"parts": {str: dict}, "found": Maybe(ownership.FOUND)}
APPLY_FORM = {"parts": {str: dict}, "more": {str: [str]}, "error": Maybe((str, TEXT, TEXT))}


def look(path: str, requests: Mapping[str, Any], seeks: bool) -> dict[str, Any]:
    """Compare the home at *path* with the declaration; nothing is changed.

    :param requests: part -> its declaration and its record
    :param seeks: whether to search the home for files of root
    :returns: ``parts``, and as ``found`` the result of :func:`ownership.find`
    """
    parts = {name: _look(path, name, *request).said() for name, request in requests.items()}
    skipped = requests["home"][0]["skipped"] if seeks and "home" in requests else ()
    return {"parts": parts, "found": ownership.find(path, skipped) if seeks else None}


def apply(path: str, requests: Mapping[str, Any], requested: list[str]) -> dict[str, Any]:
    """Correct the parts, one after the other.

    :param requested: the reasons for a restart that are recorded. A part that needs one for another reason is not
        changed: a change must not take effect before the restart that it needs is recorded
    :returns: ``parts``: those that were corrected; ``more``: the reasons that are not recorded, by part; ``error``:
        the error that stopped the work, or None
    """
    done: dict[str, Any] = {}
    more: dict[str, list[str]] = {}
    for name, (declared, record) in requests.items():
        try:
            part, reasons = _apply(path, name, declared, record, requested)
        except OpsError as error:
            return {"parts": done, "more": more, "error": [error.what, error.where, error.fix]}
        if reasons:
            more[name] = reasons
        else:
            done[name] = part.said()
    return {"parts": done, "more": more, "error": None}


def _look(path: str, name: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    file = place(path, name)
    # A file of root will be given to the agent's user, but cannot be read before that.
    files = (path, os.path.join(path, home.SOUL)) if name == "home" else (file,)
    for each in files:
        if not _readable(each):
            link = "a symbolic link to what " if os.path.islink(each) else "something that "
            return Part.unpredictable(file, f"{os.path.basename(each)} is {link}the agent's user may not read")
    return _decide(path, name, declared, record)


def _readable(path: str) -> bool:
    """Whether the file or directory *path* may be read, or does not exist."""
    try:
        return os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(os.stat(path).st_mode) else 0))
    except PermissionError:
        return False
    except OSError:
        return True


def _decide(path: str, name: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    """:raises OpsError: for every failure that the content of the agent's files can cause"""
    file = place(path, name)
    try:
        return PARTS[name].decide(path, declared, record)
    except OSError as error:
        raise failure("read", error.filename or file, error) from None
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise OpsError(
            f"holds data that cannot be used ({type(error).__name__})",
            where=file,
            fix="repair it; it was left as it is",
        ) from None


def _apply(
    path: str, name: str, declared: Mapping[str, Any], record: Mapping[str, Any], requested: list[str]
) -> tuple[Part, list[str]]:
    """Correct a part, unless it needs a restart for reasons that are not recorded yet.

    :returns: the part, and these reasons; if there are any, nothing was changed
    """
    for _attempt in range(ATTEMPTS):
        part = _decide(path, name, declared, record)
        if part.unpredicted:
            raise OpsError(part.unpredicted, where=part.path)
        reasons = [reason for reason in part.restart if reason not in requested]
        if reasons:
            return part, reasons
        try:
            for step in part.steps:
                step()
            return part, []
        except Changed:
            continue
        except OSError as error:
            raise failure("written", error.filename or part.path, error) from None
    raise OpsError("is being changed by another process", where=part.path, fix="stop that process, and run again")


def place(path: str, name: str) -> str:
    """The file or directory of the part *name* of the home at *path*."""
    return os.path.join(path, FILES[name]) if name in FILES else path
