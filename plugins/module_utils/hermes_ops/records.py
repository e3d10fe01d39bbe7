# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What we remember about a profile, so that it outlives a run, a host and a kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import Any

from .errors import OpsError
from .files import Owner, acting_as, ensure_directory, lock, read_bytes, read_json, write_atomic, write_json


class Records:
    """The directory ``<ops_dir>/profiles/<profile>/``: only the operator's, never the agent's.

    ========================  ===========================================================================
    ``applied/<kind>.json``   what we last wrote into the profile (kind: ``config``, ``env``, …)
    ``restart.json``          why the gateway must be restarted; written *before* a change, removed *after*
                              the restart, so that a run killed between the two is finished by the next
    ``kept/<file>``           the copy of a profile's file that last proved to work
    ``lock``                  held by whoever changes the profile
    ========================  ===========================================================================

    :param ops_dir: absolute path, usually ``<hermes_data_dir>/ops``
    :param profile: name of the profile
    """

    def __init__(self, ops_dir: str, profile: str) -> None:
        self.ops_dir = ops_dir
        self.directory = os.path.join(ops_dir, "profiles", profile)

    def prepare(self) -> None:
        """Make the directories (0700, ours).

        :raises OpsError: when the directory was swapped for somebody else's
        """
        for path in (self.ops_dir, os.path.dirname(self.directory), self.directory):
            ensure_directory(path, mode=0o700)
            self._check(path)
        for name in ("applied", "kept"):
            ensure_directory(os.path.join(self.directory, name), mode=0o700)

    @staticmethod
    def _check(path: str) -> None:
        # The agent's user may own the parent directory, and so may rename what lies in it.
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise OpsError(
                "is not a directory of ours",
                where=path,
                fix="find out who replaced it, then move it away",
            )

    def lock(self, timeout: float = 60.0):
        """Hold the profile's lock; see :func:`files.lock`. Call :meth:`prepare` first."""
        return lock(os.path.join(self.directory, "lock"), timeout=timeout)

    def applied(self, kind: str) -> dict[str, Any]:
        """What was last applied, ``{}`` when nothing ever was."""
        return read_json(os.path.join(self.directory, "applied", f"{kind}.json")) or {}

    def write_applied(self, kind: str, value: dict[str, Any]) -> None:
        write_json(os.path.join(self.directory, "applied", f"{kind}.json"), value)

    def keep(self, path: str, owner: Owner, *, replace: bool = False) -> None:
        """Keep a copy of *path*; one that is already kept is only replaced when *replace* says it works."""
        kept = os.path.join(self.directory, "kept", os.path.basename(path))
        if os.path.exists(kept) and not replace:
            return
        with acting_as(owner):
            data = read_bytes(path)
        if data is not None and data != read_bytes(kept):
            write_atomic(kept, data, mode=0o600)

    def request_restart(self, reasons: list[str]) -> None:
        """Remember that the gateway has to be restarted, before the change that asks for it is made."""
        known = self.restart_reasons()
        missing = [reason for reason in reasons if reason not in known]
        if missing:
            write_json(self._restart_path, known + missing)

    def restart_reasons(self) -> list[str]:
        """Why a restart is due; empty when none is."""
        return read_json(self._restart_path) or []

    def restarted(self) -> None:
        """Forget the reasons: the gateway has been restarted, or started, since."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._restart_path)

    def remove(self) -> None:
        """Forget everything about the profile."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _restart_path(self) -> str:
        return os.path.join(self.directory, "restart.json")
