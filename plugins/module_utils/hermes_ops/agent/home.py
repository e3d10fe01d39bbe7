# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's home: there, with the right modes and owner, and with the persona that is declared."""

from __future__ import annotations

import contextlib
import os
import stat

from ..description.declaration import MEMORY_LIMITS, PROFILES_DIRECTORY
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, ensure_directory, open_directory, read_text, remove_tree, write_atomic
from ..system.network import command_line
from ..system.plan import Difference, Plan
from .state import read_state

HOME_MODE = 0o700
FILE_MODE = 0o600
# What Hermes makes itself when it creates a profile (0.19.0 hermes_cli/profiles.py: _PROFILE_DIRS); a gateway
# refuses a profile whose home does not exist.
DIRECTORIES = ("cron", "home", "logs", "memories", "plans", "sessions", "skills", "skins", "workspace")
# Files that hold secrets or the persona. Hermes leaves some of them world-readable, e.g. the subscriptions after
# `hermes import`, and what `hermes backup` writes (0.19.0).
PRIVATE_FILES = (".env", "SOUL.md", "auth.json", "config.yaml", "webhook_subscriptions.json")
PRIVATE_SUFFIXES = (".zip",)


def plan_profile(
    home: str,
    owner: Owner,
    *,
    soul: str | None,
    user_profile: str | None,
    memory: str | None,
) -> Plan:
    """Compare the home with what is declared.

    :param soul: content of SOUL.md, which stays as declared; None leaves it to the agent
    :param user_profile: content that memories/USER.md starts with; a file that exists is the agent's
    :param memory: likewise for memories/MEMORY.md
    :raises OpsError: when something else than a directory stands in the way, or a seed is too long
    """
    plan = Plan()
    for relative, text in (("memories/USER.md", user_profile), ("memories/MEMORY.md", memory)):
        if text is not None and len(text) > MEMORY_LIMITS[relative]:
            raise OpsError(
                f"has {len(text)} characters; Hermes keeps {MEMORY_LIMITS[relative]}",
                where=relative,
                fix="shorten it, or put the rest into a skill",
            )
    # First, for the rest is done with the owner's rights.
    _plan_owners(plan, home, owner)
    # Before the home exists, only root can look where it will be.
    with acting_as(owner if os.path.isdir(home) else Owner.current()):
        for path in (home, *(os.path.join(home, directory) for directory in DIRECTORIES)):
            _plan_directory(plan, path, owner)
        _plan_text(plan, os.path.join(home, "SOUL.md"), soul, owner)
        _plan_seed(plan, os.path.join(home, "memories", "USER.md"), user_profile, owner)
        _plan_seed(plan, os.path.join(home, "memories", "MEMORY.md"), memory, owner)
        _plan_modes(plan, home, owner)
    return plan


def plan_removal(home: str, owner: Owner, directory: str | None = None) -> Plan:
    """Remove an agent with all its data.

    :param directory: the agent's own directory, which is its user's, in one of root's; the home may lie elsewhere
    :raises OpsError: when the home holds profiles of Hermes, which are others' data
    """
    plan = Plan()
    with acting_as(owner), contextlib.suppress(OSError):
        if others := sorted(os.listdir(os.path.join(home, PROFILES_DIRECTORY))):
            raise OpsError(
                f"holds profiles of its own: {', '.join(others)}",
                where=home,
                fix=f"move or remove what lies in {home}/{PROFILES_DIRECTORY} by hand",
            )
    for path in filter(None, (home, directory)):
        if os.path.lexists(path):
            # What root left in it, the agent's user could not remove.
            plan.add(Difference(path, "present", None), lambda path=path: _give_back(path, owner))
            plan.actions.append(lambda path=path: _remove(path, owner))
    return plan


def running(home: str, owner: Owner) -> int:
    """The process id of the gateway that runs on *home*, 0 when none does."""
    pid = read_state(home, owner).get("pid", 0)
    # The file stays behind after a crash, and its number may be somebody else's by now.
    return pid if any("hermes" in word for word in command_line(pid)) else 0


def _plan_directory(plan: Plan, path: str, owner: Owner) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        plan.add(Difference(path, None, "directory"), lambda: _make_directory(path, owner))
        return
    # The agent's user may keep e.g. skills or workspace elsewhere, behind a link.
    if not stat.S_ISDIR(status.st_mode) and not os.path.isdir(path):
        raise OpsError("is not a directory", where=path, fix="move it away")
    if stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
        plan.add(_mode_difference(path, status, HOME_MODE), lambda: _chmod(path, HOME_MODE, owner))


def _plan_text(plan: Plan, path: str, text: str | None, owner: Owner) -> None:
    if text is None:
        return
    text = _ended(text)
    # One of root's is about to be given back, and cannot be read yet.
    unreadable = os.path.lexists(path) and not os.access(path, os.R_OK, effective_ids=True)
    present = "(unreadable)" if unreadable else read_text(path)
    if present != text:
        plan.add(Difference(path, present, text), lambda: _write(path, text, owner))


def _plan_seed(plan: Plan, path: str, text: str | None, owner: Owner) -> None:
    if text is not None and not os.path.lexists(path):
        text = _ended(text)
        plan.add(Difference(path, None, text), lambda: _seed(path, text, owner))


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _plan_modes(plan: Plan, home: str, owner: Owner) -> None:
    try:
        entries = sorted(os.listdir(home))
    except FileNotFoundError:
        return
    for name in entries:
        if name not in PRIVATE_FILES and not name.endswith(PRIVATE_SUFFIXES):
            continue
        path = os.path.join(home, name)
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
            plan.add(_mode_difference(path, status, FILE_MODE), lambda path=path: _chmod(path, FILE_MODE, owner))


def _plan_owners(plan: Plan, home: str, owner: Owner) -> None:
    """Files that a ``sudo hermes`` left behind stop the agent later: give them back."""
    if os.geteuid() != 0 or owner.uid == 0 or not os.path.isdir(home):
        return
    foreign = _foreign(home, owner)
    for path, uid in foreign:
        plan.differences.append(Difference(f"{path} owner", str(uid), str(owner.uid)))
    if foreign:
        plan.actions.append(lambda: _give_back(home, owner))


def _foreign(home: str, owner: Owner, *, mend: bool = False) -> list[tuple[str, int]]:
    """What lies in the home and is not its owner's, with its owner's number.

    By descriptors throughout: the agent may rename and link in its home while root looks.

    :param mend: give it to the owner
    """
    found = []
    top = open_directory(home)
    try:
        for directory, subdirectories, names, descriptor in os.fwalk(".", dir_fd=top):
            # Of Hermes' profiles in an adopted home each may be another agent's.
            if directory == "." and PROFILES_DIRECTORY in subdirectories:
                subdirectories.remove(PROFILES_DIRECTORY)
            for entry in (".", *subdirectories, *names):
                try:
                    status = os.lstat(entry, dir_fd=descriptor)
                except FileNotFoundError:
                    continue  # the running agent removed it meanwhile
                # A file with another name elsewhere may be somebody's who never saw this home.
                linked = status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
                if status.st_uid == owner.uid or linked:
                    continue
                found.append((os.path.normpath(os.path.join(home, directory, entry)), status.st_uid))
                if mend:
                    os.chown(entry, owner.uid, owner.gid, dir_fd=descriptor, follow_symlinks=False)
    finally:
        os.close(top)
    return list(dict.fromkeys(found))


def _give_back(home: str, owner: Owner) -> None:
    # The removal of the home may have taken the agent's directory with it.
    if os.geteuid() == 0 and os.path.isdir(home):
        _foreign(home, owner, mend=True)


def _remove(path: str, owner: Owner) -> None:
    if not os.path.isdir(path):
        return
    with acting_as(owner):
        os.chmod(path, HOME_MODE)
        for name in os.listdir(path):
            remove_tree(os.path.join(path, name))
    # The directory around it may be root's.
    parent, name = os.path.split(path)
    descriptor = open_directory(parent)
    try:
        os.rmdir(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _mode_difference(path: str, status: os.stat_result, mode: int) -> Difference:
    return Difference(f"{path} mode", f"{stat.S_IMODE(status.st_mode):04o}", f"{mode:04o}")


def _make_directory(path: str, owner: Owner) -> None:
    # With the agent's own rights, so that a link in its home leads nowhere it could not go itself. Only the home
    # may have to be made by root.
    with acting_as(owner):
        try:
            os.makedirs(path, HOME_MODE, exist_ok=True)
            return
        except PermissionError:
            pass
    parent, name = os.path.split(path)
    if not os.path.isdir(parent):
        ensure_directory(parent, mode=0o755)
    descriptor = open_directory(parent)
    try:
        os.mkdir(name, HOME_MODE, dir_fd=descriptor)
        os.chown(name, owner.uid, owner.gid, dir_fd=descriptor, follow_symlinks=False)
    finally:
        os.close(descriptor)


def _write(path: str, text: str, owner: Owner) -> None:
    with acting_as(owner):
        write_atomic(path, text, mode=FILE_MODE)


def _seed(path: str, text: str, owner: Owner) -> None:
    with acting_as(owner):
        # In a directory of root's it could not be seen before.
        if not os.path.lexists(path):
            write_atomic(path, text, mode=FILE_MODE)


def _chmod(path: str, mode: int, owner: Owner) -> None:
    with acting_as(owner):
        os.chmod(path, mode)
