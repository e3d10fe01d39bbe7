# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes an agent's home with all its contents, and nothing outside of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from itertools import islice

from ..description.schema import PROFILES_DIRECTORY
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Account, failure, open_directory
from ..system.network import command_line
from ..system.text import one_line
from ..system.worker import Limits, WorkerDied, work
from . import ownership
from .quote import quoted
from .state import checked, look

_LIMITS = Limits(seconds=900)
# Paths that an error names; paths that root gives to the agent's user in one round; names that are read at once.
_NAMED = 20
_FINDS = 1_000
_AT_ONCE = 10_000
# Characters of an original path that are kept: below a thousand directories they would fill the worker's memory.
_ORIGIN = 4096
# Rounds of giving files back: a directory of root may hide more files of root.
_ROUNDS = 50


def running(home: str, account: Account) -> int:
    """The process id of the gateway that runs on *home*; 0 when none does."""
    try:
        pid = work(account, "agent.removal:said_pid", home, where=home)
    except WorkerDied:
        # The agent can make the worker die, but must not thereby prevent the removal.
        return 0
    if not fits(pid, int) or pid <= 0:
        return 0
    # After a crash the file stays, and another process may have got the number.
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return 0
    return pid if uid in (account.uid, 0) and any("hermes" in word for word in command_line(pid)) else 0


def refuse_profiles(home: str, account: Account) -> None:
    """:raises OpsError: when *home* holds Hermes profiles, whose data may belong to others"""
    found = work(account, "agent.removal:profiles_in", home, where=home)
    if not fits(found, [str]):
        raise OpsError("the worker that read it gave a malformed answer", where=home, fix="remove it by hand")
    if found:
        raise OpsError(
            f"holds profiles of its own: {', '.join(quoted(each, 64) for each in found[:_NAMED])}",
            where=home,
            fix=f"move or remove what lies in {home}/{PROFILES_DIRECTORY} by hand",
        )


def profiles_in(home: str) -> list[str]:
    """The names of the Hermes profiles in *home*; as the agent's user."""
    try:
        return sorted(os.listdir(os.path.join(home, PROFILES_DIRECTORY)))[:_NAMED]
    except OSError:
        return []


def said_pid(home: str) -> int:
    """The process id in gateway_state.json; as the agent's user."""
    return checked(look(home)).get("pid", 0)


def remove(home: str, account: Account) -> None:
    """Remove *home*, which must exist.

    :raises OpsError: something in it cannot be removed, something is mounted below it, or it is a link; names the paths
    """
    if os.path.islink(home):
        # Where only root can make one, it would be followed.
        raise OpsError("is a symbolic link", where=home, fix="remove what it leads to, and the link, by hand")
    _refuse_mounts(home)
    left = None
    for _round in range(_ROUNDS):
        ownership.check(home, account)
        found = work(account, "agent.removal:empty", home, limits=_LIMITS, where=home)
        if not fits(found, {"left": [str], "of_root": [str]}):
            raise OpsError("the worker that removes it gave a malformed answer", where=home, fix="remove it by hand")
        if not found["left"]:
            _remove_directory(home)
            return
        if os.geteuid() != 0 or not ownership.give_back(home, account, found["of_root"], mend=True):
            left = found["left"]
            break
    named = ", ".join(map(one_line, left or []))
    raise OpsError(f"cannot be removed as {account.name!r}: {named}", where=home, fix="unmount or remove it by hand")


def _refuse_mounts(home: str) -> None:
    """:raises OpsError: when something is mounted below *home*"""
    prefix = os.path.join(os.path.realpath(os.path.dirname(home)), os.path.basename(home), "")
    with open("/proc/self/mountinfo", "rb") as stream:
        # The file writes white space and backslashes as octal escapes (proc(5)).
        points = [line.split(b" ")[4].decode("unicode_escape", "replace") for line in stream]
    # Each character of a decoded path is one byte of the original, so latin-1 restores the bytes.
    mounted = [point for point in points if point.encode("latin-1", "replace").startswith(os.fsencode(prefix))]
    if mounted:
        raise OpsError(
            f"has something mounted below it, at {mounted[0]!r}",
            where=home,
            fix=f"check what it is for, and unmount it: umount {mounted[0]!r}",
        )


def _remove_directory(home: str) -> None:
    parent, name = os.path.split(home)
    descriptor = open_directory(parent)
    try:
        os.rmdir(name, dir_fd=descriptor)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise failure("removed", home, error) from None
    finally:
        os.close(descriptor)


# As the agent's user


def empty(home: str) -> dict[str, list[str]]:
    """Remove all contents of *home*.

    Every directory that is not empty is first moved to the top, so depth does not matter. A mount cannot be moved, so
    it is never entered.

    :returns: ``left``: some of the paths that could not be removed; ``of_root``: the present paths of the files of root
        that must be given to the agent's user before more can be removed
    """
    try:
        top = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {"left": [], "of_root": []}
    except PermissionError:
        return {"left": [home], "of_root": [""]}
    try:
        with contextlib.suppress(PermissionError):
            os.fchmod(top, 0o700)
        removal = _Removal(top)
        complete = False
        while not complete:
            complete = removal.clear(top, "")
            while removal.moved:
                complete = removal.clear_moved(*removal.moved.popitem()) and complete
        # In a directory of root nothing can be removed, not even files of the agent's user.
        of_root = [""] if removal.left and os.fstat(top).st_uid == 0 else []
        return {"left": removal.left[:_NAMED], "of_root": of_root + removal.of_root}
    finally:
        os.close(top)


class _Removal:
    """The state of :func:`empty`.

    ``moved`` holds the directories that are to be emptied next: name in the top directory -> original path. It is
    bounded: while it is full, directories stay as they are, and are found in the top directory later.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.moved: dict[str, str] = {}
        self.left: list[str] = []
        self.of_root: list[str] = []
        self._mark = f".removed-{secrets.token_hex(8)}-"
        self._number = 0
        self._given_up: set[str] = set()

    def clear_moved(self, name: str, origin: str) -> bool:
        """:returns: as :meth:`clear`"""
        try:
            # Its mode may lock out even its owner.
            os.chmod(name, 0o700, dir_fd=self.top)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(name, flags, dir_fd=self.top)
        except OSError:
            self._leave(self.top, name, name, origin)
            return True
        try:
            complete = self.clear(directory, name, origin)
        finally:
            os.close(directory)
        try:
            os.rmdir(name, dir_fd=self.top)
        except OSError:
            if complete:
                # What is left in it cannot be removed.
                self._given_up.add(name)
        return complete

    def clear(self, directory: int, now: str, origin: str = "") -> bool:
        """Remove the entries of *directory*; directories that are not empty are moved to the top instead.

        :param now: the directory's present path below the top
        :param origin: its original path
        :returns: whether nothing is left to be tried in it; False when ``moved`` is full
        """
        stuck: set[str] = set()
        while True:
            with os.scandir(directory) as entries:
                # A limited number at a time, because there may be millions.
                fresh = (each.name for each in entries if each.name not in stuck and each.name not in self.moved)
                names = list(islice((name for name in fresh if name not in self._given_up), _AT_ONCE))
            if not names:
                return True
            for name in names:
                if len(self.moved) >= _AT_ONCE:
                    return False
                if not self._remove(directory, name, os.path.join(origin, name)):
                    stuck.add(name)
                    self._leave(directory, name, os.path.join(now, name), os.path.join(origin, name))

    def _remove(self, directory: int, name: str, origin: str) -> bool:
        """Remove *name* from *directory*, or move it to the top; whether that worked."""
        try:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                os.unlink(name, dir_fd=directory)
                return True
            try:
                os.rmdir(name, dir_fd=directory)
                return True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            # Renaming a directory needs write permission for it: its entry `..` changes.
            with contextlib.suppress(OSError):
                os.chmod(name, 0o700, dir_fd=directory)
            self._number += 1
            moved = f"{self._mark}{self._number}"
            os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=self.top)
            self.moved[moved] = origin[:_ORIGIN]
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def _leave(self, directory: int, name: str, now: str, origin: str) -> None:
        if directory == self.top:
            self._given_up.add(name)
        if len(self.left) < _NAMED:
            self.left.append(origin)
        with contextlib.suppress(OSError):
            if len(self.of_root) < _FINDS and os.lstat(name, dir_fd=directory).st_uid == 0:
                self.of_root.append(now)
