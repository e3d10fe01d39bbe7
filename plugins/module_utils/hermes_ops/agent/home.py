# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's home: its directories, modes, and declared persona."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from ..description.schema import MEMORY_LIMITS
from ..system.errors import OpsError
from ..system.files import failure, read_text, write_atomic
from ..system.plan import Difference
from .part import FILE_MODE, Part, replace

HOME_MODE = 0o700
# This part has no record.
RECORD_FORM: dict[str, Any] = {}
# The directories that Hermes makes when it creates a profile (0.19.0 hermes_cli/profiles.py: _PROFILE_DIRS). A gateway
# refuses a profile whose home does not exist.
DIRECTORIES = ("cron", "home", "logs", "memories", "plans", "sessions", "skills", "skins", "workspace")
# Files that hold secrets or the persona. Hermes 0.19.0 leaves some of them world-readable: the subscriptions after
# `hermes import`, and the archives of `hermes backup`.
PRIVATE_FILES = (".env", "SOUL.md", "auth.json", "config.yaml", "webhook_subscriptions.json")
PRIVATE_SUFFIXES = (".zip",)
SOUL = "SOUL.md"
SEEDS = {"user": "memories/USER.md", "memory": "memories/MEMORY.md"}
# Bytes of the largest SOUL.md that is read.
LARGEST = 2**20


def check_declared(declared: Mapping[str, str | None]) -> None:
    """:raises OpsError: the initial text of a memory file is longer than Hermes keeps"""
    for key, relative in SEEDS.items():
        text = declared[key]
        if text is not None and len(text) > MEMORY_LIMITS[relative]:
            raise OpsError(
                f"has {len(text)} characters; Hermes keeps {MEMORY_LIMITS[relative]}",
                where=relative,
                fix="shorten it, or put the rest into a skill",
            )


def decide(home: str, declared: Mapping[str, Any], _record: Mapping[str, Any]) -> Part:
    """Compare the home with the declaration; see :mod:`part`.

    :param declared: ``soul``: the content of SOUL.md, which is kept as declared; None leaves the file to the agent.
        ``user`` and ``memory``: the initial content of memories/USER.md and MEMORY.md; a file that exists belongs to
        the agent and is not changed
    :raises OpsError: when something other than a directory is in the way
    """
    part = Part(home)
    for path in (home, *(os.path.join(home, directory) for directory in DIRECTORIES)):
        _decide_directory(part, path)
    _decide_soul(part, os.path.join(home, SOUL), declared["soul"])
    for key, relative in SEEDS.items():
        _decide_seed(part, os.path.join(home, relative), declared[key])
    _decide_modes(part, home)
    return part


def _decide_directory(part: Part, path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        part.add(Difference(path, None, "directory"), lambda: os.makedirs(path, HOME_MODE, exist_ok=True))
        return
    # A link to a directory is accepted: the agent's user may keep skills or workspace elsewhere.
    if not stat.S_ISDIR(status.st_mode) and not os.path.isdir(path):
        raise OpsError("is not a directory", where=path, fix="move it away")
    if stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
        part.add(_mode_difference(path, status, HOME_MODE), lambda: _chmod(path, HOME_MODE))


def _decide_soul(part: Part, path: str, text: str | None) -> None:
    if text is None:
        return
    text = _ended(text)
    present = read_text(path, LARGEST)
    if present != text:
        part.add(Difference(path, present, text), lambda: replace(path, present, text))


def _decide_seed(part: Part, path: str, text: str | None) -> None:
    if text is not None and not os.path.lexists(path):
        text = _ended(text)
        part.add(Difference(path, None, text), lambda: write_atomic(path, text, mode=FILE_MODE))


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _decide_modes(part: Part, home: str) -> None:
    try:
        with os.scandir(home) as entries:
            names = [entry.name for entry in entries if _is_private(entry.name)]
    except FileNotFoundError:
        return
    for name in sorted(names):
        path = os.path.join(home, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue  # the running agent removed it meanwhile
        if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
            part.add(_mode_difference(path, status, FILE_MODE), lambda path=path: _chmod(path, FILE_MODE))


def _is_private(name: str) -> bool:
    return name in PRIVATE_FILES or name.endswith(PRIVATE_SUFFIXES)


def _mode_difference(path: str, status: os.stat_result, mode: int) -> Difference:
    return Difference(f"{path} mode", f"{stat.S_IMODE(status.st_mode):04o}", f"{mode:04o}")


def _chmod(path: str, mode: int) -> None:
    try:
        os.chmod(path, mode)
    except OSError as error:
        raise failure("given its mode", path, error) from None
